//! The plain list: `[{"prompt", "image_paths" or "image_path", "image_tgt_path"}]`, as the official trainer reads it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DataError, Listed, Sample, each_entry};

/// An entry; what is missing is told later, all together.
#[derive(Deserialize)]
struct Entry {
    prompt: Option<String>,
    image_path: Option<PathBuf>,
    image_paths: Option<Vec<PathBuf>>,
    image_tgt_path: Option<PathBuf>,
}

pub(super) fn read(reader: impl std::io::Read, folder: &Path, file: &Path) -> serde_json::Result<Listed> {
    let mut listed = Listed::default();
    each_entry(reader, |number, entry: Entry| match sample(entry, folder) {
        Ok(sample) => listed.samples.push((number, sample)),
        Err(reason) => {
            listed.errors.push(DataError { file: file.into(), entry: number, reason: reason.into() })
        }
    })?;
    Ok(listed)
}

fn sample(entry: Entry, folder: &Path) -> Result<Sample, &'static str> {
    let references = match (entry.image_path, entry.image_paths) {
        (Some(_), Some(_)) => return Err("has both image_path and image_paths; wanted one of them"),
        (Some(one), None) => vec![one],
        (None, many) => many.unwrap_or_default(),
    };
    Ok(Sample {
        prompt: entry.prompt.ok_or("has no prompt")?,
        references: references.into_iter().map(|path| folder.join(path)).collect(),
        target: folder
            .join(entry.image_tgt_path.ok_or("has no image_tgt_path: there is nothing to learn from it")?),
    })
}
