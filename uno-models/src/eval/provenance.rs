//! Whether pictures were made from the list that they are evaluated with, as they say themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dreambench::Entry;
use crate::error::{Error, Result};
use crate::output::{FileRecord, Settings};

/// Pictures that are named in a message one by one.
const SHOWN: usize = 10;

/// Refuses pictures that were made from another prompt or other references than their entry has. Pictures without settings
/// cannot be held against it and pass; the report counts them.
///
/// # Errors
///
/// All pictures that belong to another list, the first ones by name; a reference that cannot be read.
pub(super) fn check(
    entries: &[Entry],
    pictures: impl Iterator<Item = (usize, PathBuf)>,
    folder: &Path,
) -> Result<()> {
    let mut hashes = BTreeMap::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (i, path) in pictures {
        count += 1;
        let Ok(settings) = Settings::read(&path) else { continue };
        if let Some(difference) = difference(&entries[i], &settings, &mut hashes)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            wrong.push(format!("{name}: {difference}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let more = match wrong.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!("\n  and {n} more"),
    };
    let shown: String = wrong.iter().take(SHOWN).map(|line| format!("\n  {line}")).collect();
    Err(Error::format(
        folder,
        format!(
            "{} of {count} pictures were not made from this list:{shown}{more}\nGive the list that they were made from, or the folder of \
             its pictures",
            wrong.len()
        ),
    ))
}

/// In what a picture's settings differ from its entry.
fn difference(
    entry: &Entry,
    settings: &Settings,
    hashes: &mut BTreeMap<PathBuf, String>,
) -> Result<Option<String>> {
    if settings.prompt != entry.prompt {
        return Ok(Some(format!("made from {:?}, the list has {:?}", settings.prompt, entry.prompt)));
    }
    let (got, wanted) = (settings.references.len(), entry.image_paths.len());
    if got != wanted {
        return Ok(Some(format!("made with {got} references, the list has {wanted}")));
    }
    for (record, path) in settings.references.iter().zip(&entry.image_paths) {
        let wanted = match hashes.get(path) {
            Some(known) => known.clone(),
            None => hashes.entry(path.clone()).or_insert(FileRecord::of(path)?.sha256).clone(),
        };
        if record.file.sha256 != wanted {
            let name = record.file.path.file_name().unwrap_or_default().to_string_lossy();
            let difference =
                format!("made with the reference {name}, which is another picture than {}", path.display());
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

/// Pictures in `folder` named as those of a list, `{prompt}_{picture}.png`, that the list does not have: they are not scored.
pub(super) fn extra(folder: &Path, prompts: usize, per_prompt: usize) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let number = |text: &str| text.parse::<usize>().ok();
            let numbers = name.strip_suffix(".png").and_then(|stem| stem.split_once('_'));
            let numbers = numbers.and_then(|(i, j)| Some((number(i)?, number(j)?)));
            numbers.is_some_and(|(i, j)| i >= prompts || j >= per_prompt)
        })
        .collect();
    names.sort();
    names
}
