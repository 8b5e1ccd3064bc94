//! Pictures as image encoders take them.

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::Pixels;
use crate::resample::{Filter, resize};

/// How a picture is made ready: the shorter side is scaled to `resize` (bicubic, as Pillow does), the middle cut out, and
/// channels are brought to mean 0 and deviation 1 by fixed numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Preprocessing {
    /// Pixels of the shorter side after scaling.
    pub resize: usize,
    /// Side of the square that is cut out of the middle.
    pub crop: usize,
    /// Subtracted from red, green and blue in [0, 1].
    pub mean: [f32; 3],
    /// What they are divided by then.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// DINO's and DINOv2's: 256, cut to 224, the means of ImageNet.
    pub const IMAGENET: Self =
        Self { resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// CLIP's: 224, cut to a square.
    pub const CLIP: Self = Self {
        resize: 224,
        crop: 224,
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };

    /// The same for pictures of another side, scaled and cut in the same proportion.
    #[must_use]
    pub fn with_crop(&self, crop: usize) -> Self {
        Self { resize: self.resize * crop / self.crop.max(1), crop, ..self.clone() }
    }

    /// `[1, 3, crop, crop]`, f32.
    ///
    /// # Errors
    ///
    /// A picture without pixels, or with another number of bytes than its sides say; one so elongated that it would take more
    /// than 2^28 pixels.
    pub fn apply(&self, picture: &Pixels, device: &Device) -> Result<Tensor<4>> {
        let Pixels { width, height, rgb } = picture;
        let (width, height) = (*width, *height);
        if width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(rgb.len()) || rgb.is_empty() {
            let wanted = format!("{width} * {height} * 3 bytes, more than 0");
            return Err(Error::invalid("pixels", rgb.len(), wanted));
        }
        let (short, long) = (width.min(height), width.max(height));
        let scaled_long = self.resize as u128 * long as u128 / short as u128;
        if self.crop == 0 || self.crop > self.resize || scaled_long * self.resize as u128 > 1 << 28 {
            let wanted = format!("a picture less elongated, and a crop of 1 to {}", self.resize);
            return Err(Error::invalid("picture", format!("{width}x{height}, crop {}", self.crop), wanted));
        }
        // Rounded down in f64, as in Python.
        let other = (self.resize as f64 * long as f64 / short as f64) as usize;
        let new = if width <= height { (self.resize, other) } else { (other, self.resize) };
        let scaled = resize(rgb, 3, (width, height), new, Filter::Bicubic);
        // Halves go to the even neighbour, as in torchvision's `center_crop`.
        let middle = |length: usize| ((length - self.crop) as f64 / 2.0).round_ties_even() as usize;
        let (left, top) = (middle(new.0), middle(new.1));
        let mut values = Vec::with_capacity(3 * self.crop * self.crop);
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            for y in top..top + self.crop {
                let row = &scaled[(y * new.0 + left) * 3..(y * new.0 + left + self.crop) * 3];
                let column = row.iter().skip(channel).step_by(3);
                values.extend(column.map(|&x| (f32::from(x) / 255.0 - mean) / std));
            }
        }
        Ok(Tensor::from_data(TensorData::new(values, [1, 3, self.crop, self.crop]), (device, DType::F32)))
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_scaled_picture_is_taken_and_brought_to_the_wanted_scale() {
        // Red left and right, green in the middle.
        let (width, height) = (30, 10);
        let pixel = |i: usize| if (10..20).contains(&(i % width)) { [0, 255, 0] } else { [255, 0, 0] };
        let picture = Pixels { width, height, rgb: (0..width * height).flat_map(pixel).collect() };
        let ready = Preprocessing { resize: 10, crop: 10, mean: [0.5; 3], std: [0.5; 3] };
        let got = ready.apply(&picture, &Device::flex()).unwrap();
        let values = crate::tensor_to_vec(got.reshape([3, 100]).mean_dim(1)).unwrap();
        assert_eq!(values, [-1.0, 1.0, -1.0]);
    }

    #[test]
    fn pictures_that_cannot_be_used_are_refused() {
        let apply = |width, height, bytes: usize| {
            Preprocessing::CLIP.apply(&Pixels { width, height, rgb: vec![0; bytes] }, &Device::flex())
        };
        assert!(apply(3, 3, 27).is_ok());
        for (width, height, bytes) in [(0, 0, 0), (3, 3, 26), (usize::MAX, 3, 9), (1, 1_000_000, 3_000_000)] {
            assert!(apply(width, height, bytes).is_err(), "{width}x{height}");
        }
    }
}
