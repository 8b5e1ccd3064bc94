//! Labels of UNO-1M: pairs of pictures of one subject, with captions and the scores of a filter.
//!
//! As a sample: the second picture is the target and its caption the prompt, the first picture is the reference.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DataError, Listed, Sample};
use crate::error::Result;
use crate::lists::each_entry;

/// Scores are from 0 to this. Others are known to occur (131184.67) and mean nothing.
const BEST: f64 = 4.0;

#[derive(Deserialize)]
struct Entry {
    img_path1: Option<PathBuf>,
    img_path2: Option<PathBuf>,
    caption: Option<Captions>,
    vlm_filter_cot: Option<Filter>,
}

#[derive(Deserialize)]
struct Captions {
    img_path2: Option<String>,
}

#[derive(Deserialize)]
struct Filter {
    score_final: Option<f64>,
}

pub(super) fn read(file: &Path, folder: &Path, min_score: f64) -> Result<Listed> {
    let mut listed = Listed::default();
    let split = file.file_stem().map(PathBuf::from).unwrap_or_default();
    let wanted = r#"the labels of UNO-1M: [{"img_path1", "img_path2", "caption", "vlm_filter_cot"}]"#;
    each_entry(file, [super::WHAT, wanted], |number, entry: Entry| {
        let score = entry.vlm_filter_cot.as_ref().and_then(|filter| filter.score_final);
        let sound = match score {
            None => Err("has no vlm_filter_cot.score_final".to_owned()),
            Some(score) if !(0.0..=BEST).contains(&score) => {
                Err(format!("has the score {score}; wanted 0 to {BEST}"))
            }
            Some(score) if score < min_score => {
                listed.below_score += 1;
                return;
            }
            Some(_) => Ok(()),
        };
        match sound.and_then(|()| sample(entry, folder, &split).map_err(str::to_owned)) {
            Ok(sample) => listed.samples.push((number, sample)),
            Err(reason) => listed.errors.push(DataError { file: file.into(), entry: number, reason }),
        }
    })?;
    Ok(listed)
}

fn sample(entry: Entry, folder: &Path, split: &Path) -> Result<Sample, &'static str> {
    let reference = entry.img_path1.ok_or("has no img_path1")?;
    let target = entry.img_path2.ok_or("has no img_path2")?;
    let prompt = entry.caption.and_then(|caption| caption.img_path2).ok_or("has no caption.img_path2")?;
    let find = |path| find(folder, split, path);
    Ok(Sample { prompt, references: vec![find(reference)], target: find(target) })
}

/// Where a picture is: labels lie in the data set's folder or in `labels/`, pictures in `images/` or `images/split{N}/`.
fn find(folder: &Path, split: &Path, path: PathBuf) -> PathBuf {
    let roots = [Some(folder), folder.parent()].into_iter().flatten();
    let places = roots.flat_map(|root| {
        [root.join(&path), root.join("images").join(&path), root.join("images").join(split).join(&path)]
    });
    let mut places = places;
    // If it is nowhere, the check of the data says so, with the first of these paths.
    places.find(|place| place.exists()).unwrap_or_else(|| folder.join(path))
}
