//! DreamBench prompt lists: JSON `[{"prompt": ..., "image_paths": [...]}]` (or `"image_path"` with one), or the same entries as JSON
//! lines; paths relative to the file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::lists::{Fields, Remarks, each_entry};

/// Largest list that is read; the published ones have 0.2 MB.
const MAX_BYTES: u64 = 256 << 20;

/// One prompt with its references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the picture shows.
    pub prompt: String,
    /// References, in order; absolute, or relative to the working directory, once read.
    pub image_paths: Vec<PathBuf>,
}

/// Entries with something wrong that a message tells of at most.
const SHOWN: usize = 5;

/// Reads a prompt list; relative paths are taken from the list's own folder. `remark` hears of keys that are not used.
///
/// # Errors
///
/// A file that cannot be read, is no such list, or is empty; entries without a prompt, or with a key that is likely misspelt (its
/// number is told, from 0).
pub fn read_prompts(path: &Path, remark: &mut dyn FnMut(&str)) -> Result<Vec<Entry>> {
    let length = std::fs::metadata(path).map_err(Error::read(path))?.len();
    if length > MAX_BYTES {
        return Err(Error::format(
            path,
            format!("has {length} bytes, wanted a prompt list of at most {MAX_BYTES}"),
        ));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut entries, mut wrong, mut remarks) = (Vec::new(), Vec::new(), Remarks::default());
    let form = ["prompt list", r#"[{"prompt": "...", "image_paths": ["..."]}]"#];
    each_entry(path, form, |number, fields: Fields| {
        let listed = fields.read(number, &mut remarks).and_then(|listed| {
            let image_paths = listed.references.iter().map(|image| folder.join(image)).collect();
            Ok(Entry { prompt: listed.prompt.ok_or("has no \"prompt\"")?, image_paths })
        });
        match listed {
            Ok(entry) => entries.push(entry),
            Err(reason) => wrong.push(format!("entry {number}: {reason}")),
        }
    })?;
    if !wrong.is_empty() {
        let more = match wrong.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!("\n  and {n} more entries"),
        };
        wrong.truncate(SHOWN);
        return Err(Error::format(
            path,
            format!(
                "is no prompt list that can be used (entries count from 0):\n  {}{more}",
                wrong.join("\n  ")
            ),
        ));
    }
    if entries.is_empty() {
        return Err(Error::format(path, "holds no prompt"));
    }
    remarks.text(path).iter().for_each(|text| remark(text));
    Ok(entries)
}

/// A share of the work: picture j of prompt i, of n per prompt, belongs to the shard `(i * n + j) % count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// All of the work.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// Whether picture `j` of prompt `i`, of `n` per prompt, belongs here.
    pub fn contains(self, i: usize, j: usize, n: usize) -> bool {
        i.wrapping_mul(n).wrapping_add(j) % self.count == self.index
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// `i/n`, i from 0.
    fn from_str(s: &str) -> Result<Self> {
        let parsed = s.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err(Error::request("shard", s, "i/n with i from 0 to n - 1, for example 0/4")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.json");
        std::fs::write(&list, r#"[{"prompt": "a cat", "image_paths": ["cat.png"]}, {"prompt": "none"}]"#)
            .unwrap();
        let entries = read_prompts(&list, &mut |_| {}).unwrap();
        assert_eq!(entries[0].image_paths, [folder.path().join("cat.png")]);
        assert!(entries[1].image_paths.is_empty());
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.json");
        for text in ["", "[]", "{}", r#"[{"image_paths": []}]"#, r#"["a"]"#] {
            std::fs::write(&list, text).unwrap();
            assert!(read_prompts(&list, &mut |_| {}).is_err(), "{text}");
        }
        assert!(read_prompts(&folder.path().join("absent.json"), &mut |_| {}).is_err());
    }

    #[test]
    fn shards_share_all_pictures_without_overlap() {
        let shards: Vec<Shard> = (0..3).map(|i| format!("{i}/3").parse().unwrap()).collect();
        for (i, j) in (0..5).flat_map(|i| (0..4).map(move |j| (i, j))) {
            assert_eq!(shards.iter().filter(|s| s.contains(i, j, 4)).count(), 1);
        }
        for wrong in ["3/3", "0/0", "1", "a/b", "-1/2", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
