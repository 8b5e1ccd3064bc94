//! GGUF files in several parts, as `gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on. Each part has a header of its own,
//! which says which part it is, of how many, and how many tensors all of them have together.

use std::path::{Path, PathBuf};

use super::gguf::Split;

/// Most parts; those in the wild are some dozens.
const MAX_PARTS: usize = 1000;

/// The parts of the split GGUF file of which `path` is one by its name, in order; `None` if the name is that of a whole file.
/// Whether they are there is not looked at.
pub fn gguf_parts(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let (stem, ending) = name.split_at_checked(name.len().checked_sub(".gguf".len())?)?;
    if !ending.eq_ignore_ascii_case(".gguf") {
        return None;
    }
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(count) {
        return None;
    }
    let (number, parts): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
    if !(2..=MAX_PARTS).contains(&parts) || !(1..=parts).contains(&number) {
        return None;
    }
    Some((1..=parts).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count}{ending}"))).collect())
}

/// What joins parts by another program.
pub(super) const JOIN: &str = "join the parts with `gguf-split --merge FIRST_PART WHOLE`";

/// Checks what part `number` (from 0) of `count` says of itself. The error is a reason without the file's name.
pub(super) fn check_part(split: Option<&Split>, number: usize, count: usize) -> Result<(), String> {
    let named = format!("is named as part {} of {count} of a split GGUF file", number + 1);
    let Some(split) = split else {
        return Err(format!(
            "{named}, but its header tells of no parts; if it is a whole file, give it a name without {:05}-of-{count:05}",
            number + 1
        ));
    };
    if (split.number, split.count) != (number as u64, count as u64) {
        return Err(format!(
            "{named}, but its header says part {} of {}; the parts are of different files, or renamed: load them anew",
            split.number.saturating_add(1),
            split.count
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_all_parts_follow_from_one() {
        let parts = gguf_parts(Path::new("models/flux1-dev-Q8_0-00002-of-00003.gguf")).unwrap();
        let wanted = [1, 2, 3].map(|i| PathBuf::from(format!("models/flux1-dev-Q8_0-0000{i}-of-00003.gguf")));
        assert_eq!(parts, wanted);
        for whole in [
            "flux1-dev-Q8_0.gguf",
            "a-00001-of-00001.gguf",
            "a-00003-of-00002.gguf",
            "a-00000-of-00002.gguf",
            "a-00001-of-00002.safetensors",
            "a-1-of-2.gguf",
            "-of-.gguf",
            ".gguf",
            "a-00001-of-99999.gguf",
        ] {
            assert_eq!(gguf_parts(Path::new(whole)), None, "{whole}");
        }
    }
}
