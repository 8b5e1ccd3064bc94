//! The check before the first step: every picture of every sample, so that a run of days does not end at a file that is damaged.

use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Listed, Sample};
use crate::error::{Error, Result};
use crate::picture::{DecodeOptions, Picture};
use crate::preprocess::preprocessed_size_of;
use crate::request::Defaults;
use crate::train::buckets::{Size, closest};
use crate::train::config::RefSize;

/// An entry of a list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DataError {
    /// The list.
    pub file: PathBuf,
    /// The entry's number in it, from 0.
    pub entry: usize,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, entry {}: {}", self.file.display(), self.entry, self.reason)
    }
}

/// What happens if entries cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDataError {
    /// Training does not begin.
    #[default]
    Refuse,
    /// It begins without them; they are listed in `data_errors.json` of the output folder.
    Skip,
}

/// How far pictures are looked at before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// They are decoded: about 10 ms per picture and core.
    #[default]
    Decode,
    /// Their headers are read, which tell the size; damage further behind shows when it is their turn.
    Headers,
}

/// A sample whose pictures are sound, with the sizes that they get.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The sample.
    pub sample: Sample,
    /// Height and width of the target's bucket.
    pub target: Size,
    /// Height and width of each reference.
    pub references: Vec<Size>,
    /// The longer side that references are scaled to.
    pub long_side: u32,
}

impl Checked {
    /// Samples of one shape can be computed together.
    pub fn shape(&self) -> (Size, &[Size]) {
        (self.target, &self.references)
    }
}

/// What samples have to be like.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// Sizes that targets may get.
    pub buckets: Vec<Size>,
    /// How many references each sample has, if they all have to have as many.
    pub references: Option<usize>,
    /// The longer side that references are scaled to, if it does not follow from their number.
    pub long_side: Option<RefSize>,
    /// How far pictures are looked at.
    pub verify: Verify,
}

/// Checks the samples of a list. Entries that cannot be used are returned beside the others.
pub fn check(listed: Listed, file: &Path, wanted: &Requirements) -> (Vec<Checked>, Vec<DataError>) {
    let mut errors = listed.errors;
    let results: Vec<_> = listed
        .samples
        .into_par_iter()
        .map(|(entry, sample)| {
            check_sample(sample, wanted).map_err(|e| DataError {
                file: file.into(),
                entry,
                reason: e.to_string(),
            })
        })
        .collect();
    let mut checked = Vec::with_capacity(results.len());
    for result in results {
        match result {
            Ok(sample) => checked.push(sample),
            Err(error) => errors.push(error),
        }
    }
    errors.sort_by_key(|error| error.entry);
    (checked, errors)
}

fn check_sample(sample: Sample, wanted: &Requirements) -> Result<Checked> {
    let count = sample.references.len();
    if let Some(wanted) = wanted.references.filter(|wanted| *wanted != count) {
        return Err(Error::request(
            "references",
            count,
            format!("{wanted}, as the stage's `references` says"),
        ));
    }
    let long_side =
        wanted.long_side.map_or_else(|| Defaults::UNO.long_side(count), |size| size.long_side(count));
    let (height, width) = size(&sample.target, wanted.verify)?;
    let references = sample.references.iter().map(|path| {
        let (height, width) = size(path, wanted.verify)?;
        let name = path.display().to_string();
        preprocessed_size_of(&name, (width, height), long_side).map(|(width, height)| (height, width))
    });
    Ok(Checked {
        target: closest(&wanted.buckets, height, width),
        references: references.collect::<Result<_>>()?,
        long_side,
        sample,
    })
}

/// Height and width of a picture.
fn size(path: &Path, verify: Verify) -> Result<(u32, u32)> {
    let (width, height) = match verify {
        Verify::Decode => Picture::open(path, &DecodeOptions::default())?.size(),
        Verify::Headers => Picture::size_of_file(path, &DecodeOptions::default())?,
    };
    Ok((height, width))
}
