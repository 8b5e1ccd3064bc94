//! Aspect buckets: the few sizes that targets are brought to, so that the samples of a batch have one.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::preprocess::resize;
use crate::request::MULTIPLE;

/// Height and width of the buckets at resolution 512; their mirror images are buckets too.
const BUCKETS: [(usize, usize); 6] = [(256, 768), (320, 768), (320, 704), (384, 640), (448, 576), (512, 512)];
/// The resolution that [`BUCKETS`] are for.
const BASE: usize = 512;

/// Height and width in pixels.
pub type Size = (usize, usize);

/// How a picture is brought to the size of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Each side is scaled by itself, as the official code does; shapes are a little squashed.
    #[default]
    Squash,
    /// It is scaled in proportion until it covers the bucket, and what is beyond is cut off evenly.
    Crop,
}

/// The buckets at a resolution: scaled, and rounded down to multiples of 16.
///
/// # Errors
///
/// A resolution so low that a side would be below 16 pixels, or above 8192.
pub fn buckets(resolution: usize) -> Result<Vec<Size>> {
    let scaled = |side: usize| side * resolution / BASE / MULTIPLE * MULTIPLE;
    if !(BASE / MULTIPLE..=8192).contains(&resolution) || scaled(BUCKETS[0].0) == 0 {
        return Err(Error::request("resolution", resolution, "32 to 8192 pixels; 512 is usual"));
    }
    let mirrored = BUCKETS.iter().rev().skip(1).map(|&(h, w)| (w, h));
    let mut sizes: Vec<Size> =
        BUCKETS.iter().copied().chain(mirrored).map(|(h, w)| (scaled(h), scaled(w))).collect();
    sizes.dedup();
    Ok(sizes)
}

/// The bucket whose ratio of height to width is closest to that of a picture of `height` x `width`.
pub fn closest(buckets: &[Size], height: u32, width: u32) -> Size {
    let ratio = f64::from(height) / f64::from(width.max(1));
    let distance = |&(h, w): &Size| (h as f64 / w as f64 - ratio).abs();
    buckets.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or((BASE, BASE))
}

/// Brings a picture to a size, by Pillow's Lanczos.
pub fn fit(picture: &Picture, (height, width): Size, how: Fit) -> RgbImage {
    let (target_w, target_h) = (width as u32, height as u32);
    match how {
        Fit::Squash => resize(picture, target_w, target_h),
        Fit::Crop => {
            let (w, h) = picture.size();
            let scale = (f64::from(target_w) / f64::from(w)).max(f64::from(target_h) / f64::from(h));
            let scaled = |side: u32, least: u32| ((f64::from(side) * scale).round() as u32).max(least);
            let (w, h) = (scaled(w, target_w), scaled(h, target_h));
            let large = resize(picture, w, h);
            let (left, top) = ((w - target_w) / 2, (h - target_h) / 2);
            image::imageops::crop_imm(&large, left, top, target_w, target_h).to_image()
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn buckets_scale_with_the_resolution_and_stay_multiples_of_16() {
        let at_512 = buckets(512).unwrap();
        assert_eq!(at_512.len(), 11);
        assert!(at_512.contains(&(448, 576)) && at_512.contains(&(768, 320)));
        for resolution in [32, 64, 96, 320, 512, 1024] {
            let sizes = buckets(resolution).unwrap();
            assert!(sizes.iter().all(|(h, w)| h % 16 == 0 && w % 16 == 0 && *h > 0 && *w > 0), "{sizes:?}");
        }
        assert!(buckets(31).is_err() && buckets(8193).is_err() && buckets(0).is_err());
    }

    #[test]
    fn the_closest_ratio_wins() {
        let sizes = buckets(512).unwrap();
        for (picture, bucket) in [
            ((100, 100), (512, 512)),
            ((100, 300), (256, 768)),
            ((4000, 3000), (576, 448)),
            ((1, 9000), (256, 768)),
        ] {
            assert_eq!(closest(&sizes, picture.0, picture.1), bucket, "{picture:?}");
        }
    }

    #[test]
    fn cropping_keeps_the_middle_and_squashing_everything() {
        // Red, green and blue thirds side by side.
        let colours = [[200, 0, 0], [0, 200, 0], [0, 0, 200]];
        let picture = RgbImage::from_fn(96, 32, |x, _| Rgb(colours[x as usize / 32]));
        let picture = Picture::from_rgb("x", picture);
        let cropped = fit(&picture, (32, 32), Fit::Crop);
        assert_eq!(
            (cropped.get_pixel(2, 16), cropped.get_pixel(29, 16)),
            (&Rgb([0, 200, 0]), &Rgb([0, 200, 0]))
        );
        let squashed = fit(&picture, (32, 32), Fit::Squash);
        assert_eq!((squashed.get_pixel(2, 16)[0], squashed.get_pixel(29, 16)[2]), (200, 200));
    }
}
