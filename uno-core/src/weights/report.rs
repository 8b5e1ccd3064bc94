//! What did not fit between a checkpoint and the model that was to be loaded from it.

use std::fmt;
use std::path::PathBuf;

use super::StorageDtype;

/// A tensor whose shape is not the one that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Key in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub got: Vec<usize>,
    /// Shape that the model needs.
    pub wanted: Vec<usize>,
}

/// Everything that did not fit, in one list. Loading succeeds only if all of it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// What was to be loaded, for people.
    pub model: String,
    /// The file, index or folder.
    pub path: PathBuf,
    /// Keys that the model needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Keys that the checkpoint holds and the model does not know.
    pub unused: Vec<String>,
    /// Keys whose shape is another.
    pub shapes: Vec<Mismatch>,
    /// Keys whose number format is not one of weights.
    pub dtypes: Vec<(String, StorageDtype)>,
}

impl LoadReport {
    /// Whether everything fitted.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.shapes.is_empty() && self.dtypes.is_empty()
    }
}

/// How many keys of each kind a message shows.
const SHOWN: usize = 8;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not hold {}", self.path.display(), self.model)?;
        section(f, "missing", &self.missing, |name| match nearest(name, &self.unused) {
            Some(near) => format!("{name} (did you mean {near}?)"),
            None => name.clone(),
        })?;
        section(f, "unknown to the model", &self.unused, String::clone)?;
        section(f, "of another shape", &self.shapes, |m| {
            format!("{}: got {:?}, wanted {:?}", m.name, m.got, m.wanted)
        })?;
        section(f, "of a number format that weights cannot have", &self.dtypes, |(name, dtype)| {
            format!("{name}: {dtype}")
        })?;
        write!(f, "\n  check that the file is of this model, complete, and in its original layout")
    }
}

fn section<T>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    items: &[T],
    show: impl Fn(&T) -> String,
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {title} ({}):", items.len())?;
    for item in items.iter().take(SHOWN) {
        write!(f, "\n    {}", show(item))?;
    }
    if items.len() > SHOWN {
        write!(f, "\n    ... and {} more", items.len() - SHOWN)?;
    }
    Ok(())
}

/// The unused key that shares the longest ending with `name`, if it is more than the last word.
fn nearest<'a>(name: &str, candidates: &'a [String]) -> Option<&'a String> {
    let common =
        |other: &str| name.split('.').rev().zip(other.split('.').rev()).take_while(|(a, b)| a == b).count();
    candidates.iter().map(|c| (common(c), c)).filter(|(n, _)| *n >= 2).max_by_key(|(n, _)| *n).map(|(_, c)| c)
}
