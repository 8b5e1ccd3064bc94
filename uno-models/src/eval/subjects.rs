//! Looks for subjects in a picture: DINO compares each reference with cut-outs of it, since a whole picture hardly shows that one
//! of its subjects is lost.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use uno_core::image::Pixels;
use uno_core::vision::{Dino, ImageEncoder, Preprocessing, VitConfig, cosine};
use uno_core::weights::{Checkpoint, LoadOptions};

use crate::error::{Error, Result};
use crate::picture::Picture;

/// Squares that are cut out of a picture in search of a subject: sides as shares of the shorter side, and how many along each
/// axis, evenly spread. The whole picture is looked at too.
pub(super) const CROPS: [(f64, usize); 3] = [(0.75, 2), (0.5, 3), (0.35, 4)];

/// An encoder, pinned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderRecord {
    /// Name of its file.
    pub file: String,
    /// [`Checkpoint::fingerprint`].
    pub fingerprint: String,
    /// Dimensions.
    pub config: VitConfig,
    /// How pictures are made ready for it.
    pub preprocessing: Preprocessing,
}

impl EncoderRecord {
    pub(super) fn new(checkpoint: &Checkpoint, config: &VitConfig, preprocessing: &Preprocessing) -> Self {
        let file = checkpoint.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fingerprint = checkpoint.fingerprint().to_owned();
        Self { file, fingerprint, config: config.clone(), preprocessing: preprocessing.clone() }
    }
}

/// Where a subject is most likely.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// DINO's cosine of the cut-out that is most like the subject, mean over the subject's views; 1 for the same picture.
    pub score: f64,
    /// That cut-out: left, top, width, height in pixels.
    pub area: [usize; 4],
}

/// DINO with the squares that it looks at.
#[derive(Debug)]
pub struct SubjectFinder {
    dino: Dino,
    record: EncoderRecord,
}

impl SubjectFinder {
    /// Loads DINO in f32 from its weights, or the folder with them and their `config.json`.
    ///
    /// # Errors
    ///
    /// A file that is missing, damaged, or of another model.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let (checkpoint, config) = open("DINO (--dino)", path)?;
        let dino = Dino::load(&checkpoint, config.as_deref(), &LoadOptions::new(device))?;
        let record = EncoderRecord::new(&checkpoint, dino.config(), dino.preprocessing());
        Ok(Self { dino, record })
    }

    /// What it is.
    pub fn record(&self) -> &EncoderRecord {
        &self.record
    }

    /// DINO's vector of a picture, of length 1.
    ///
    /// # Errors
    ///
    /// A picture that the encoder cannot take.
    pub fn vector(&self, picture: &Picture) -> Result<Vec<f32>> {
        self.vector_of(&rgb(picture))
    }

    fn vector_of(&self, pixels: &Pixels) -> Result<Vec<f32>> {
        Ok(self.dino.embed(std::slice::from_ref(pixels))?.concat())
    }

    /// Looks for subjects, each given by the vectors of its views.
    ///
    /// # Errors
    ///
    /// A picture that the encoder cannot take.
    pub fn find(&self, picture: &Picture, subjects: &[Vec<Vec<f32>>]) -> Result<Vec<Found>> {
        let pixels = rgb(picture);
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        let whole = [0, 0, pixels.width, pixels.height];
        let areas = std::iter::once(whole).chain(areas(pixels.width, pixels.height, &CROPS));
        let crops =
            areas.map(|area| Ok((area, self.vector_of(&cut(&pixels, area))?))).collect::<Result<Vec<_>>>()?;
        let best = |views: &Vec<Vec<f32>>| {
            let score = |vector: &[f32]| mean(views.iter().map(|view| cosine(vector, view)));
            let found = crops.iter().map(|(area, vector)| Found { score: score(vector), area: *area });
            // The first of equals, so that the same picture gives the same area.
            found.fold(Found { score: f64::NEG_INFINITY, area: whole }, |best, next| {
                if next.score > best.score { next } else { best }
            })
        };
        Ok(subjects.iter().map(best).collect())
    }
}

/// The least of several subjects' scores; `None` without subjects.
pub fn least(found: &[Found]) -> Option<f64> {
    found.iter().map(|found| found.score).min_by(f64::total_cmp)
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

pub(super) fn rgb(picture: &Picture) -> Pixels {
    let rgb = picture.to_rgb();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Pixels { width, height, rgb: rgb.into_raw() }
}

/// Squares over a picture: left, top, width, height.
fn areas(width: usize, height: usize, crops: &[(f64, usize)]) -> Vec<[usize; 4]> {
    let short = width.min(height);
    let mut areas = Vec::new();
    for &(share, count) in crops {
        let side = ((short as f64 * share).round() as usize).clamp(1, short.max(1));
        let places = |length: usize| {
            let room = length.saturating_sub(side);
            (0..count).map(move |i| room * i / count.saturating_sub(1).max(1))
        };
        areas.extend(places(height).flat_map(|top| places(width).map(move |left| [left, top, side, side])));
    }
    areas
}

fn cut(pixels: &Pixels, [left, top, width, height]: [usize; 4]) -> Pixels {
    let row = |y: usize| &pixels.rgb[(y * pixels.width + left) * 3..(y * pixels.width + left + width) * 3];
    Pixels { width, height, rgb: (top..top + height).flat_map(row).copied().collect() }
}

/// A checkpoint with the `config.json` beside it, if there is one.
pub(super) fn open(part: &str, path: &Path) -> Result<(Checkpoint, Option<Vec<u8>>)> {
    let checkpoint = Checkpoint::open(path).map_err(|e| Error::checkpoint(part, e.to_string()))?;
    let config = folder_of(path).join("config.json");
    match std::fs::read(&config) {
        Ok(bytes) => Ok((checkpoint, Some(bytes))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok((checkpoint, None)),
        Err(e) => Err(Error::Read { path: config, source: e }),
    }
}

/// A folder itself, or the one that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    if path.is_dir() {
        return path;
    }
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_outs_lie_in_the_picture_and_reach_its_borders() {
        for (width, height) in [(64, 64), (90, 40), (1, 1), (3, 700)] {
            let areas = areas(width, height, &CROPS);
            assert_eq!(areas.len(), 4 + 9 + 16);
            for [left, top, w, h] in &areas {
                assert!(*w > 0 && w == h && left + w <= width && top + h <= height, "{width}x{height}");
            }
            for reach in [
                areas.iter().map(|a| a[0] + a[2]).max() == Some(width),
                areas.iter().map(|a| a[1] + a[3]).max() == Some(height),
                areas.iter().any(|a| a[0] == 0 && a[1] == 0),
            ] {
                assert!(reach, "{width}x{height}");
            }
        }
    }

    #[test]
    fn a_cut_out_holds_the_pixels_of_its_area() {
        let rgb: Vec<u8> = (0..4 * 3 * 3).collect();
        let got = cut(&Pixels { width: 4, height: 3, rgb }, [1, 1, 2, 2]);
        assert_eq!(got.rgb, [15, 16, 17, 18, 19, 20, 27, 28, 29, 30, 31, 32]);
    }
}
