//! DreamBench prompt lists: JSON `[{"prompt": ..., "image_paths": [...]}]`, paths relative to the file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Largest list that is read; the published ones have 0.2 MB.
const MAX_BYTES: u64 = 256 << 20;

/// One prompt with its references.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// What the picture shows.
    pub prompt: String,
    /// References, in order; absolute, or relative to the working directory, once read.
    #[serde(default)]
    pub image_paths: Vec<PathBuf>,
}

/// Reads a prompt list; relative paths are taken from the list's own folder.
///
/// # Errors
///
/// A file that cannot be read, is no such list, or is empty.
pub fn read_prompts(path: &Path) -> Result<Vec<Entry>> {
    let length = std::fs::metadata(path).map_err(Error::read(path))?.len();
    if length > MAX_BYTES {
        return Err(Error::format(
            path,
            format!("has {length} bytes, wanted a prompt list of at most {MAX_BYTES}"),
        ));
    }
    let text = std::fs::read(path).map_err(Error::read(path))?;
    let mut entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|e| {
        Error::format(
            path,
            format!(r#"is no prompt list: {e}; wanted [{{"prompt": "...", "image_paths": ["..."]}}]"#),
        )
    })?;
    if entries.is_empty() {
        return Err(Error::format(path, "holds no prompt"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    for image in entries.iter_mut().flat_map(|entry| &mut entry.image_paths) {
        *image = folder.join(&image);
    }
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
        let entries = read_prompts(&list).unwrap();
        assert_eq!(entries[0].image_paths, [folder.path().join("cat.png")]);
        assert!(entries[1].image_paths.is_empty());
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.json");
        for text in ["", "[]", "{}", r#"[{"image_paths": []}]"#, r#"["a"]"#] {
            std::fs::write(&list, text).unwrap();
            assert!(read_prompts(&list).is_err(), "{text}");
        }
        assert!(read_prompts(&folder.path().join("absent.json")).is_err());
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
