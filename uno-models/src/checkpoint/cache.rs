//! The hub cache on disk, in the layout of Python's `huggingface_hub`, which this shares with it:
//! `models--owner--name/{refs/main, blobs/<etag>, snapshots/<commit>/<file>}`.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::options::HubOptions;

/// The cache folder.
#[derive(Clone, Debug)]
pub(super) struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// Where `huggingface_hub` would have it. `None` where nothing says so: no variable, no home.
    pub(super) fn locate(options: &HubOptions, environment: &Environment) -> Option<Self> {
        let root = options
            .cache_dir
            .clone()
            .or_else(|| environment.path("HF_HUB_CACHE"))
            .or_else(|| environment.path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hugging_face_home(environment).map(|home| home.join("hub")))?;
        Some(Self { root })
    }

    /// The folder that holds all repositories.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of `repo`. The hub takes capitals for small letters (XLabs-AI is xlabs-ai), so a folder that differs only
    /// in them is the same repository.
    pub(super) fn repo_folder(&self, repo: &str) -> PathBuf {
        let name = format!("models--{}", repo.replace('/', "--"));
        let exact = self.root.join(&name);
        if exact.is_dir() {
            return exact;
        }
        let mut there = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        there
            .find(|entry| entry.file_name().to_str().is_some_and(|n| n.eq_ignore_ascii_case(&name)))
            .map_or(exact, |entry| entry.path())
    }

    /// The snapshots of `repo` on disk, that of the main branch first, then the others, the newest first. A file that is in
    /// any of them need not be downloaded.
    pub(super) fn snapshots(&self, repo: &str) -> Vec<PathBuf> {
        let folder = self.repo_folder(repo);
        let main = std::fs::read_to_string(folder.join("refs/main")).unwrap_or_default();
        let entries = std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten();
        let mut snapshots: Vec<_> = entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| {
                let is_main = entry.file_name().to_str() == Some(main.trim());
                let age = entry.metadata().and_then(|m| m.modified()).ok();
                (is_main, age, entry.path())
            })
            .collect();
        snapshots.sort();
        snapshots.into_iter().rev().map(|(_, _, path)| path).collect()
    }
}

/// `$HF_HOME`, or where it is by default.
pub(super) fn hugging_face_home(environment: &Environment) -> Option<PathBuf> {
    environment
        .path("HF_HOME")
        .or_else(|| environment.path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| {
            let home = environment.path("HOME").or_else(|| environment.path("USERPROFILE"))?;
            Some(home.join(".cache").join("huggingface"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_python_tools_have_it() {
        let at = |options: &HubOptions, variables: &[(&str, &str)]| {
            HubCache::locate(options, &Environment::of(variables.iter().copied())).map(|c| c.root)
        };
        let options = HubOptions::default();
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "/c"),
            ("XDG_CACHE_HOME", "/d"),
            ("HOME", "/e"),
            ("USERPROFILE", "/f"),
        ];
        let expected = [
            "/a",
            "/b",
            "/c/hub",
            "/d/huggingface/hub",
            "/e/.cache/huggingface/hub",
            "/f/.cache/huggingface/hub",
        ];
        for (from, expected) in expected.into_iter().enumerate() {
            assert_eq!(at(&options, &all[from..]), Some(PathBuf::from(expected)));
        }
        assert_eq!(at(&options, &[]), None);
        assert_eq!(at(&options, &[("HF_HUB_CACHE", ""), ("HOME", "/e")]), at(&options, &all[4..]));
        let options = HubOptions { cache_dir: Some("/z".into()), ..options };
        assert_eq!(at(&options, &all), Some(PathBuf::from("/z")));
    }

    #[test]
    fn snapshots_are_found_whatever_the_capitals_and_main_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let repo = root.path().join("models--XLabs-AI--xflux_text_encoders");
        for commit in ["aa", "bb", "cc"] {
            std::fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
        }
        let cache = HubCache { root: root.path().to_path_buf() };
        assert_eq!(cache.snapshots("xlabs-ai/xflux_text_encoders").len(), 3);
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        for main in ["bb", "aa\n", "cc"] {
            std::fs::write(repo.join("refs/main"), main).unwrap();
            let first = &cache.snapshots("xlabs-ai/xflux_text_encoders")[0];
            assert_eq!(*first, repo.join("snapshots").join(main.trim()));
        }
        assert!(cache.snapshots("no/such").is_empty());
    }
}
