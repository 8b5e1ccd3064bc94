//! Training data: lists of samples on disk. Lists are read entry by entry and kept as text and paths; pictures are read when it
//! is their turn.

mod check;
mod list;
mod order;
mod uno1m;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use check::{Checked, DataError, OnDataError, Requirements, Verify, check};
pub use order::{BatchOrder, OrderState};

/// One training sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What the target shows.
    pub prompt: String,
    /// Pictures of the subjects, in order.
    pub references: Vec<PathBuf>,
    /// The picture that is to be learned.
    pub target: PathBuf,
}

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Format {
    /// A JSON list (or JSON lines) of `{"prompt", "image_paths" or "image_path", "image_tgt_path"}`, paths relative to the file.
    #[default]
    #[serde(rename = "list")]
    List,
    /// The labels of UNO-1M.
    #[serde(rename = "uno-1m")]
    Uno1m,
}

/// A list of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// The file.
    pub path: PathBuf,
    /// How it is written.
    #[serde(default)]
    pub format: Format,
    /// UNO-1M: the least `score_final` (0 to 4) of a sample that is kept. The paper keeps 4.0, the data card suggests 3.5.
    #[serde(default = "default_score")]
    pub min_score: f64,
}

fn default_score() -> f64 {
    4.0
}

/// The samples of a list, and the entries that are none.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Sound entries, each with its number in the file, from 0.
    pub samples: Vec<(usize, Sample)>,
    /// Entries that cannot be used, with the reason.
    pub errors: Vec<DataError>,
    /// UNO-1M: entries below the least score.
    pub below_score: usize,
    /// What was noticed and is no error: keys that are not used.
    pub remark: Option<String>,
}

/// What a list is, for messages.
const WHAT: &str = "list of training data";

/// Reads a list. Entries that cannot be used are told apart, not dropped.
///
/// # Errors
///
/// A file that cannot be read or is no list of this kind.
pub fn read(source: &DataSource) -> Result<Listed> {
    let path = &source.path;
    let folder = path.parent().unwrap_or(Path::new(""));
    let listed = match source.format {
        Format::List => list::read(path, folder)?,
        Format::Uno1m => uno1m::read(path, folder, source.min_score)?,
    };
    if listed.samples.is_empty() && listed.errors.is_empty() {
        let below = listed.below_score;
        let reason = match below {
            0 => "holds no entry".to_owned(),
            _ => format!("holds no sample with a score of at least {} ({below} are below)", source.min_score),
        };
        return Err(Error::format(path, reason));
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str, format: Format, min_score: f64) -> Result<Listed> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.json");
        std::fs::write(&path, text).unwrap();
        read(&DataSource { path, format, min_score }).map(|mut listed| {
            for (_, sample) in &mut listed.samples {
                for path in sample.references.iter_mut().chain([&mut sample.target]) {
                    *path = path.strip_prefix(folder.path()).unwrap().to_path_buf();
                }
            }
            listed
        })
    }

    #[test]
    fn lists_with_one_or_several_references_are_read() {
        let text = r#"[
            {"prompt": "a", "image_path": "r.png", "image_tgt_path": "t.png", "more": 1},
            {"prompt": "b", "image_paths": ["x/1.png", "2.png"], "image_tgt_path": "u.png"},
            {"prompt": "c", "image_tgt_path": "v.png"}
        ]"#;
        let listed = listed(text, Format::List, 0.0).unwrap();
        assert!(listed.errors.is_empty());
        let counts: Vec<usize> = listed.samples.iter().map(|(_, sample)| sample.references.len()).collect();
        assert_eq!(counts, [1, 2, 0]);
        assert_eq!(listed.samples[1].1.references[0], Path::new("x/1.png"));
    }

    #[test]
    fn entries_without_target_or_prompt_are_listed_with_their_number() {
        let text = r#"[{"prompt": "a"}, {"image_tgt_path": "t.png"}, {"prompt": "c", "image_tgt_path": "v.png"},
            {"prompt": "a", "image_path": "a", "image_paths": ["b"], "image_tgt_path": "t.png"}]"#;
        let listed = listed(text, Format::List, 0.0).unwrap();
        assert_eq!(listed.samples.len(), 1);
        let found: Vec<_> = listed.errors.iter().map(|e| (e.entry, e.reason.as_str())).collect();
        assert!(found[0].1.contains("image_tgt_path") && found[1].1.contains("prompt"), "{found:?}");
        assert_eq!(found.iter().map(|e| e.0).collect::<Vec<_>>(), [0, 1, 3]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "{}", "[1]", "[]", "[] x"] {
            assert!(listed(text, Format::List, 0.0).is_err(), "{text}");
        }
        let one = listed(r#"[{"prompt": 1}]"#, Format::List, 0.0).unwrap();
        assert!(one.samples.is_empty() && one.errors[0].reason.contains("wanted a text"), "{one:?}");
    }

    #[test]
    fn uno_1m_keeps_what_reaches_the_score_and_rejects_absurd_ones() {
        let entry = |score: &str| {
            format!(
                r#"{{"img_path1": "split1/a.png", "img_path2": "split1/b.png", "vlm_filter_cot": {{"score_part": {{}}, "score_final": {score}}},
                "caption": {{"img_path1": "ref", "img_path2": "a cup on a table", "judgment": "same", "subject": ["cup"]}}}}"#
            )
        };
        let text = format!("[{},{},{},{}]", entry("4.0"), entry("3.4"), entry("131184.67"), entry("null"));
        let listed = listed(&text, Format::Uno1m, 3.5).unwrap();
        assert_eq!((listed.samples.len(), listed.below_score, listed.errors.len()), (1, 1, 2));
        let sample = &listed.samples[0].1;
        assert_eq!((sample.prompt.as_str(), sample.references.len()), ("a cup on a table", 1));
        assert!(listed.errors[0].reason.contains("131184.67"), "{:?}", listed.errors);
    }

    #[test]
    fn pictures_of_uno_1m_are_found_beside_the_labels_or_in_the_folder_of_images() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let entry = |a: &str, b: &str| {
            serde_json::json!({
                "img_path1": a, "img_path2": b, "caption": { "img_path2": "x" }, "vlm_filter_cot": { "score_final": 4.0 },
            })
        };
        let wanted = [touch("images/split1/a.png"), touch("images/split1/b.png")];
        let list =
            serde_json::json!([entry("split1/a.png", "split1/b.png"), entry("a.png", "b.png")]).to_string();
        for labels in ["labels/split1.json", "split1.json"] {
            let path = touch(labels);
            std::fs::write(&path, &list).unwrap();
            let listed = read(&DataSource { path, format: Format::Uno1m, min_score: 4.0 }).unwrap();
            for (_, sample) in &listed.samples {
                let found = [&sample.references[0], &sample.target].map(|path| path.canonicalize().unwrap());
                assert_eq!(found, wanted.clone().map(|path| path.canonicalize().unwrap()), "{labels}");
            }
        }
    }
}
