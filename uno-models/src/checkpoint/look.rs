//! Cheap looks at files: enough to tell what a file is not, before a loader opens it. Each returns the reason as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uno_core::weights::gguf_parts;

/// Bytes that are looked at.
const HEAD: u64 = 512;
/// Largest index of shards that is read; that of T5-XXL has 20 kB.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Largest vocabulary file; the largest of the known ones has 2.4 MB.
const MAX_VOCABULARY_BYTES: u64 = 256 << 20;
/// Most shards that an index may name.
const MAX_SHARDS: usize = 1000;
/// Largest header that the safetensors format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// File name extensions of Python pickles and of archives of them.
const PICKLE_EXTENSIONS: [&str; 6] = ["pt", "pth", "bin", "ckpt", "pkl", "pickle"];

/// What a look found wrong.
pub(super) type Look<T> = Result<T, String>;

/// Whether the file's name is that of a pickle.
pub(super) fn is_pickle_name(path: &Path) -> bool {
    has_extension(path, &PICKLE_EXTENSIONS)
}

/// Whether the file's name is that of a GGUF file.
fn is_gguf_name(path: &Path) -> bool {
    has_extension(path, &["gguf"])
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| wanted.iter().any(|w| w.eq_ignore_ascii_case(extension)))
}

/// Whether something is at `path`, a broken link included.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Looks at weights: a safetensors or GGUF file, all parts of a split one, or an index whose shards are all there. `instead` says what to use for a file of
/// another format.
pub(super) fn weights(path: &Path, instead: &str) -> Look<PathBuf> {
    if has_extension(path, &["json"]) {
        let folder = path.parent().unwrap_or(Path::new(""));
        let shards = shard_names(path)?;
        let absent: Vec<_> = shards.iter().filter(|shard| !is_there(&folder.join(shard))).collect();
        if !absent.is_empty() {
            return Err(format!(
                "names {} shards, of which {} are not beside it: {}",
                shards.len(),
                absent.len(),
                listed(absent.iter().map(|name| name.as_str()))
            ));
        }
        for shard in &shards {
            safetensors(&folder.join(shard), instead)
                .map_err(|reason| format!("has a shard, {shard}, that {reason}"))?;
        }
    } else if let Some(parts) = gguf_parts(path) {
        let names: Vec<_> = parts.iter().filter_map(|part| part.file_name()?.to_str()).collect();
        let absent: Vec<_> =
            parts.iter().zip(&names).filter(|(part, _)| !is_there(part)).map(|(_, name)| *name).collect();
        if !absent.is_empty() {
            return Err(format!(
                "is one of {} parts of a split GGUF file, of which {} are not beside it: {}; put them there",
                parts.len(),
                absent.len(),
                listed(absent)
            ));
        }
        for (part, name) in parts.iter().zip(names) {
            safetensors(part, instead)
                .map_err(|reason| format!("is of a split GGUF file with a part, {name}, that {reason}"))?;
        }
    } else {
        safetensors(path, instead)?;
    }
    Ok(path.to_path_buf())
}

/// Looks at one safetensors or GGUF file. Its header is not parsed.
fn safetensors(path: &Path, instead: &str) -> Look<()> {
    let (head, length) = head(path)?;
    if is_pickle_name(path) || head.starts_with(b"PK\x03\x04") || matches!(head.as_slice(), [0x80, 2..=5, ..])
    {
        return Err(format!("is a Python pickle; {PICKLE}; use the safetensors file {instead} instead"));
    }
    not_a_stand_in(&head)?;
    if head.starts_with(b"GGUF") {
        return match head.get(4..8) {
            Some([2 | 3, 0, 0, 0]) if length > 24 => Ok(()),
            Some([2 | 3, 0, 0, 0]) | None => {
                Err(format!("is cut short: it is a GGUF file of {length} bytes; load it anew"))
            }
            _ => Err(format!("is a GGUF file of a version other than 2 and 3; use {instead} instead")),
        };
    }
    if is_gguf_name(path) {
        return Err(format!("is named as a GGUF file, but is none; use {instead} instead"));
    }
    let header_bytes = head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    match header_bytes {
        Some(n) if (2..=MAX_HEADER_BYTES).contains(&n) && head.get(8) == Some(&b'{') => {
            if n > length - 8 {
                return Err(format!(
                    "is cut short: it has {length} bytes, and its header alone should have {n}; load it anew"
                ));
            }
            Ok(())
        }
        _ if head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') => {
            Err("holds JSON, not weights; perhaps an error message was saved in its place: load it anew"
                .to_owned())
        }
        _ => Err(format!("does not begin like a safetensors file; use {instead} instead")),
    }
}

/// Why pickles are refused.
pub(super) const PICKLE: &str = "pickle files can run code when read, so they are never opened";

/// Looks at a vocabulary file; `json` says whether it must hold a JSON object.
pub(super) fn vocabulary(path: &Path, json: bool) -> Look<PathBuf> {
    let (head, length) = head(path)?;
    not_a_stand_in(&head)?;
    if length > MAX_VOCABULARY_BYTES {
        return Err(format!("has {length} bytes, which is too many for a vocabulary"));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    if json && text.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err("does not begin like a JSON object".to_owned());
    }
    Ok(path.to_path_buf())
}

/// The first bytes of a file and its length. A file that is missing, empty or no file is an error.
fn head(path: &Path) -> Look<(Vec<u8>, u64)> {
    let metadata = std::fs::metadata(path).map_err(|e| match path.symlink_metadata() {
        Ok(link) if link.is_symlink() => "is a link to a file that is not there".to_owned(),
        _ if e.kind() == std::io::ErrorKind::NotFound => "is not there".to_owned(),
        _ => format!("cannot be read: {e}"),
    })?;
    if !metadata.is_file() {
        return Err(
            if metadata.is_dir() { "is a folder, not a file" } else { "is not a plain file" }.to_owned()
        );
    }
    if metadata.len() == 0 {
        return Err("is empty; its download or copy was cut off: load it anew".to_owned());
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD).read_to_end(&mut head))
        .map_err(|e| format!("cannot be read: {e}"))?;
    Ok((head, metadata.len()))
}

/// Refuses what version control and browsers leave in the place of a large file.
fn not_a_stand_in(head: &[u8]) -> Look<()> {
    if head.starts_with(b"version https://git-lfs") {
        return Err(
            "is only a git-lfs pointer; run `git lfs pull` in its folder to get the file itself".to_owned()
        );
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start().to_ascii_lowercase();
    if [&b"<!doctype"[..], b"<html", b"<head", b"<?xml"].iter().any(|tag| text.starts_with(tag)) {
        return Err("is a web page; a login or error page was saved in its place: load it anew".to_owned());
    }
    Ok(())
}

/// The shards that an index names, each once, in order.
pub(super) fn shard_names(index: &Path) -> Look<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let (first, length) = head(index)?;
    not_a_stand_in(&first)?;
    if length > MAX_INDEX_BYTES {
        return Err(format!("has {length} bytes, which is too many for an index of shards"));
    }
    let text = std::fs::read(index).map_err(|e| format!("cannot be read: {e}"))?;
    let Index { weight_map } = serde_json::from_slice(&text)
        .map_err(|e| format!("is no index of shards ({e}); wanted JSON with a \"weight_map\""))?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(format!("names {} shards; wanted 1 to {MAX_SHARDS}", names.len()));
    }
    match names.iter().find(|name| !is_plain_shard_name(name)) {
        Some(name) => {
            Err(format!("names {name:?} as a shard; wanted a plain *.safetensors file name beside the index"))
        }
        None => Ok(names.into_iter().collect()),
    }
}

/// A file name and nothing else: an index must not reach outside its folder, nor (from the hub) into a web address.
fn is_plain_shard_name(name: &str) -> bool {
    name.len() <= 200
        && !name.starts_with('.')
        && name.ends_with(".safetensors")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Up to 20 names, in quotes where they are odd.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let mut names = names.into_iter().map(|name| {
        let plain = name.chars().all(|c| c.is_alphanumeric() || "._-/+ ".contains(c));
        if plain { name.to_owned() } else { format!("{name:?}") }
    });
    let shown: Vec<_> = names.by_ref().take(SHOWN).collect();
    match names.count() {
        _ if shown.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest safetensors file: an empty header.
    const EMPTY_SAFETENSORS: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

    fn look_at(name: &str, bytes: &[u8]) -> Look<PathBuf> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        weights(&path, "X from Y")
    }

    #[test]
    fn stand_ins_for_weights_are_told_apart() {
        assert!(look_at("a.safetensors", EMPTY_SAFETENSORS).is_ok());
        for (bytes, expected) in [
            (&b""[..], "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"<html>", "web page"),
            (b"{\"error\":\"Repository not found\"}", "JSON"),
            (b"PK\x03\x04rest", "use the safetensors file X from Y instead"),
            (b"\x80\x02}q\x00", "pickle"),
            (b"GGUF\x03\0\0\0", "cut short"),
            (b"GGUF\x01\0\0\0aaaaaaaaaaaaaaaaaaaaaaaa", "version"),
            (b"GGU", "does not begin like"),
            (b"\x02\0\0", "does not begin like"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "does not begin like"),
            (b"\x40\0\0\0\0\0\0\0{}", "cut short"),
            (b"\x01\0\0\0\0\0\0\0{", "does not begin like"),
        ] {
            let reason = look_at("a.safetensors", bytes).unwrap_err();
            assert!(reason.contains(expected), "{bytes:?}: {reason}");
        }
    }

    #[test]
    fn pickles_are_refused_by_name_whatever_they_hold() {
        for name in ["a.pt", "a.PTH", "a.bin", "a.ckpt", "a.pkl"] {
            assert!(look_at(name, EMPTY_SAFETENSORS).unwrap_err().contains("run code when read"), "{name}");
        }
    }

    #[test]
    fn an_index_may_name_only_plain_files_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(folder.path().join("one.safetensors"), EMPTY_SAFETENSORS).unwrap();
        let with = |json: &str| {
            std::fs::write(&index, json).unwrap();
            weights(&index, "X from Y")
        };
        assert!(with(r#"{"weight_map":{"a":"one.safetensors","b":"one.safetensors"}}"#).is_ok());
        for name in [
            "../one.safetensors",
            "/etc/one.safetensors",
            "a/one.safetensors",
            "a\\\\one.safetensors",
            "C:one.safetensors",
            ".safetensors",
            "..",
            "",
            "one.bin",
            "o%2fne.safetensors",
            "one?.safetensors",
        ] {
            let reason = with(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#)).unwrap_err();
            assert!(reason.contains("wanted a plain"), "{name}: {reason}");
        }
        let reason = with(r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#).unwrap_err();
        assert!(reason.contains("1 are not beside it: two.safetensors"), "{reason}");
        for broken in ["{}", "[]", "{\"weight_map\":{}}", "{\"weight_map\":{\"a\":1}}", "{\"weight_map\":"] {
            assert!(with(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn odd_names_are_quoted_and_long_lists_cut() {
        assert_eq!(listed([]), "nothing");
        assert_eq!(listed(["a.b", "c\x1b[2J"]), "a.b, \"c\\u{1b}[2J\"");
        let many: Vec<String> = (0..25).map(|i| i.to_string()).collect();
        assert!(listed(many.iter().map(String::as_str)).ends_with("19 and 5 more"));
    }
}
