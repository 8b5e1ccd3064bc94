//! References as the model sees them: scaled with Pillow's arithmetic, bit for bit, and cropped to multiples of 16.
//!
//! After `uno/flux/pipeline.py: preprocess_ref` of the official code, and `Resample.c`, `Image.resize` of Pillow.

use image::{DynamicImage, RgbImage};
use uno_core::resample::{self, Filter};

use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::request::MULTIPLE;

/// Scales a picture so that its longer side is `long_side` (small ones are enlarged), drops its alpha channel, and crops
/// both sides around the centre to multiples of 16.
///
/// # Errors
///
/// A picture so elongated that a side falls below 16 pixels.
pub fn preprocess_ref(picture: &Picture, long_side: u32) -> Result<RgbImage> {
    let ((new_width, new_height), (crop_width, crop_height)) =
        sizes(picture.name(), picture.size(), long_side)?;
    let scaled = resize(picture, new_width, new_height);
    let (left, top) = ((new_width - crop_width) / 2, (new_height - crop_height) / 2);
    Ok(image::imageops::crop_imm(&scaled, left, top, crop_width, crop_height).to_image())
}

/// The scaled size, and the size after cropping.
fn sizes(name: &str, (width, height): (u32, u32), long_side: u32) -> Result<((u32, u32), (u32, u32))> {
    if width == 0 || height == 0 {
        return Err(Error::picture(name, format!("has no pixels ({width}x{height})")));
    }
    let (new_width, new_height) = scaled_size((width, height), long_side);
    let multiple = MULTIPLE as u32;
    let (crop_width, crop_height) = (new_width / multiple * multiple, new_height / multiple * multiple);
    if crop_width == 0 || crop_height == 0 {
        return Err(Error::picture(
            name,
            format!(
                "is too elongated: {width}x{height} scales to {new_width}x{new_height}, wanted at least {MULTIPLE} pixels on \
                 each side; crop it first"
            ),
        ));
    }
    Ok(((new_width, new_height), (crop_width, crop_height)))
}

/// Width and height that [`preprocess_ref`] gives a picture.
///
/// # Errors
///
/// As [`preprocess_ref`].
pub fn preprocessed_size(picture: &Picture, long_side: u32) -> Result<(usize, usize)> {
    preprocessed_size_of(picture.name(), picture.size(), long_side)
}

/// The same for a picture of which only name, width and height are known.
///
/// # Errors
///
/// As [`preprocess_ref`].
pub fn preprocessed_size_of(name: &str, size: (u32, u32), long_side: u32) -> Result<(usize, usize)> {
    let (_, (width, height)) = sizes(name, size, long_side)?;
    Ok((width as usize, height as usize))
}

/// `long_side` for the longer side; the other one in proportion, rounded down in f64 as in Python.
fn scaled_size((width, height): (u32, u32), long_side: u32) -> (u32, u32) {
    let other = |long: u32, short: u32| (f64::from(long_side) / f64::from(long) * f64::from(short)) as u32;
    if width >= height { (long_side, other(width, height)) } else { (other(height, width), long_side) }
}

/// `Image.resize((width, height), LANCZOS).convert("RGB")` of Pillow, with its rules for palettes and alpha channels.
pub(crate) fn resize(picture: &Picture, width: u32, height: u32) -> RgbImage {
    let pixels = picture.pixels();
    if (pixels.width(), pixels.height()) == (width, height) {
        return pixels.to_rgb8();
    }
    let size = (pixels.width() as usize, pixels.height() as usize);
    let new = (width as usize, height as usize);
    let resample = |channels: usize, bytes: &[u8]| match (picture.is_nearest(), channels) {
        (true, _) => nearest(bytes, channels, size, new),
        (false, 2 | 4) => {
            let mut out =
                resample::resize(&premultiplied(bytes, channels), channels, size, new, Filter::Lanczos);
            unpremultiply(&mut out, channels);
            out
        }
        (false, _) => resample::resize(bytes, channels, size, new, Filter::Lanczos),
    };
    // Grey is repeated, alpha dropped without compositing.
    let rgb: Vec<u8> = match pixels {
        DynamicImage::ImageLuma8(p) => resample(1, p.as_raw()).iter().flat_map(|&x| [x; 3]).collect(),
        DynamicImage::ImageLumaA8(p) => {
            resample(2, p.as_raw()).chunks_exact(2).flat_map(|x| [x[0]; 3]).collect()
        }
        DynamicImage::ImageRgba8(p) => {
            resample(4, p.as_raw()).chunks_exact(4).flat_map(|x| [x[0], x[1], x[2]]).collect()
        }
        other => resample(3, other.to_rgb8().as_raw()),
    };
    RgbImage::from_raw(width, height, rgb).unwrap_or_else(|| RgbImage::new(width, height))
}

/// Colours times alpha: `t = c * a + 128; (t + (t >> 8)) >> 8` (Pillow `MULDIV255`).
fn premultiplied(bytes: &[u8], channels: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for pixel in out.chunks_exact_mut(channels) {
        if let Some((alpha, colors)) = pixel.split_last_mut() {
            for c in colors {
                let t = u32::from(*c) * u32::from(*alpha) + 128;
                *c = ((t + (t >> 8)) >> 8) as u8;
            }
        }
    }
    out
}

/// Colours over alpha: `255 * c / a`, cut at 255; kept as they are where alpha is 0 or 255.
fn unpremultiply(bytes: &mut [u8], channels: usize) {
    for pixel in bytes.chunks_exact_mut(channels) {
        if let Some((alpha, colors)) = pixel.split_last_mut()
            && !matches!(*alpha, 0 | 255)
        {
            for c in colors {
                *c = (255 * u32::from(*c) / u32::from(*alpha)).min(255) as u8;
            }
        }
    }
}

/// Nearest neighbour: the pixel under the centre of each new one. The centres are summed up and not multiplied, so that their
/// rounding is Pillow's (`Geometry.c: ImagingScaleAffine`).
fn nearest(bytes: &[u8], channels: usize, size: (usize, usize), new: (usize, usize)) -> Vec<u8> {
    let pick = |count: usize, from: usize| -> Vec<usize> {
        let scale = from as f64 / count as f64;
        let centres = std::iter::successors(Some(0.5 * scale), |centre| Some(centre + scale));
        centres.take(count).map(|centre| (centre as usize).min(from - 1)).collect()
    };
    let (columns, rows) = (pick(new.0, size.0), pick(new.1, size.1));
    let mut out = Vec::with_capacity(new.0 * new.1 * channels);
    for y in rows {
        for &x in &columns {
            let start = (y * size.0 + x) * channels;
            out.extend_from_slice(&bytes[start..start + channels]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use image::{Rgb, Rgba, RgbaImage};
    use proptest::prelude::*;

    use super::*;

    fn plain(width: u32, height: u32) -> Picture {
        Picture::from_rgb("x", RgbImage::from_pixel(width, height, Rgb([9, 99, 199])))
    }

    #[test]
    fn a_picture_that_gets_too_thin_is_named_with_its_size() {
        for (width, height) in [(1, 500), (500, 1), (1, 1000), (3200, 99)] {
            let error = preprocess_ref(&plain(width, height), 512).unwrap_err().to_string();
            assert!(error.contains(&format!("{width}x{height}")), "{error}");
        }
        assert!(preprocess_ref(&plain(1, 1), 512).is_ok(), "a square of one pixel can be enlarged");
    }

    #[test]
    fn a_picture_without_pixels_is_refused() {
        for (width, height) in [(0, 0), (5, 0), (0, 5)] {
            assert!(preprocess_ref(&plain(width, height), 512).is_err());
        }
    }

    #[test]
    fn a_picture_of_the_wanted_size_keeps_its_hidden_colours() {
        let hidden = RgbaImage::from_pixel(64, 64, Rgba([200, 100, 50, 0]));
        let kept = preprocess_ref(&Picture::from_rgba("x", hidden.clone()), 64).unwrap();
        assert_eq!(kept.get_pixel(3, 3), &Rgb([200, 100, 50]));
        let lost = preprocess_ref(&Picture::from_rgba("x", hidden), 80).unwrap();
        assert_eq!(
            lost.get_pixel(3, 3),
            &Rgb([0, 0, 0]),
            "what is transparent turns black when it is resampled"
        );
    }

    proptest! {
        #[test]
        fn sides_are_multiples_of_16_and_no_longer_than_asked(w in 1u32..300, h in 1u32..300, long in 16u32..400) {
            if let Ok(out) = preprocess_ref(&plain(w, h), long) {
                prop_assert!(out.width() % 16 == 0 && out.height() % 16 == 0);
                prop_assert!(out.width().max(out.height()) <= long);
                prop_assert!(out.pixels().all(|p| *p == Rgb([9, 99, 199])), "a plain picture stays plain");
            }
        }
    }
}
