//! Raw photos, most of which are TIFFs: their first picture is a preview, down to 160x120 pixels.

use super::directory::{DNG_VERSION, File, HEIGHT, MAKE, NEW_SUBFILE_TYPE, PHOTOMETRIC, WIDTH};
use crate::picture::kind::DEVELOP;
use crate::picture::{Fault, Result};

/// Samples behind a filter of colours, as a sensor gives them; and those samples after interpolation.
const SENSOR: [u64; 2] = [32803, 34892];

/// Refuses a TIFF whose first picture is not what it is of.
///
/// # Errors
///
/// A raw photo; a first picture that is said to be a smaller copy of another one in the file.
pub(in crate::picture) fn refuse(bytes: &[u8]) -> Result<()> {
    let raw = |name: String| Err(Fault::unreadable(format!("is a raw photo of a camera ({name})"), DEVELOP));
    let Some(directories) = File::open(bytes).and_then(|file| file.directories()) else { return Ok(()) };
    let Some((first, others)) = directories.split_first() else { return Ok(()) };
    if bytes.get(8..10) == Some(b"CR") {
        return raw("CR2".into());
    }
    if first.has(DNG_VERSION) {
        return raw("DNG".into());
    }
    if directories.iter().any(|d| d.number(PHOTOMETRIC).is_some_and(|kind| SENSOR.contains(&kind))) {
        let make = first.text(MAKE);
        return raw(match make.to_ascii_uppercase() {
            upper if upper.contains("NIKON") => "NEF".into(),
            upper if upper.contains("SONY") => "ARW".into(),
            upper if upper.contains("PENTAX") => "PEF".into(),
            upper if upper.contains("SAMSUNG") => "SRW".into(),
            upper if upper.contains("HASSELBLAD") => "3FR".into(),
            upper if upper.is_empty() => "samples of its sensor".into(),
            _ => make,
        });
    }
    let is_reduced = first.number(NEW_SUBFILE_TYPE).is_some_and(|kind| kind & 1 == 1);
    match others.iter().max_by_key(|directory| directory.area()) {
        Some(largest) if is_reduced && largest.area() > first.area() => {
            let side = |tag| largest.number(tag).unwrap_or(0);
            Err(Fault::unreadable(
                format!(
                    "is a TIFF whose first picture is a smaller copy of another one ({}x{})",
                    side(WIDTH),
                    side(HEIGHT)
                ),
                "save that one alone, as PNG, JPEG or TIFF",
            ))
        }
        _ => Ok(()),
    }
}
