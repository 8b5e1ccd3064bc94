//! The plain list: `[{"prompt", "image_paths" or "image_path", "image_tgt_path"}]`, as the official trainer reads it.

use std::path::Path;

use super::{DataError, Listed, Sample};
use crate::error::Result;
use crate::lists::{Fields, Remarks, each_entry};

pub(super) fn read(file: &Path, folder: &Path) -> Result<Listed> {
    let mut listed = Listed::default();
    let mut remarks = Remarks::default();
    let wanted = r#"[{"prompt": "...", "image_paths": ["..."], "image_tgt_path": "..."}]"#;
    each_entry(file, [super::WHAT, wanted], |number, fields: Fields| {
        match sample(fields, number, &mut remarks, folder) {
            Ok(sample) => listed.samples.push((number, sample)),
            Err(reason) => listed.errors.push(DataError { file: file.into(), entry: number, reason }),
        }
    })?;
    listed.remark = remarks.text(file);
    Ok(listed)
}

fn sample(fields: Fields, number: usize, remarks: &mut Remarks, folder: &Path) -> Result<Sample, String> {
    // What is missing is told all together, by number.
    let entry = fields.read(number, remarks)?;
    Ok(Sample {
        prompt: entry.prompt.ok_or("has no prompt")?,
        references: entry.references.into_iter().map(|path| folder.join(path)).collect(),
        target: folder.join(entry.target.ok_or("has no image_tgt_path: there is nothing to learn from it")?),
    })
}
