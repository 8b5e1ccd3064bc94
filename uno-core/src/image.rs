//! Pixels and tensors in `[-1, 1]`.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::error::{Error, Result};

/// Interleaved 8-bit RGB pixels, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Pixels {
    /// `x / 255 * 2 - 1`, as `[1, 3, H, W]`, f32.
    ///
    /// # Errors
    ///
    /// A number of bytes that is not `height * width * 3`.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor<4>> {
        let Self { width, height, rgb } = self;
        if width.checked_mul(*height).and_then(|n| n.checked_mul(3)) != Some(rgb.len()) || rgb.is_empty() {
            return Err(Error::invalid(
                "pixels",
                rgb.len(),
                format!("{width} * {height} * 3 bytes, more than 0"),
            ));
        }
        let values: Vec<f32> = rgb.iter().map(|&x| f32::from(x) / 255.0 * 2.0 - 1.0).collect();
        let tensor =
            Tensor::<3>::from_data(TensorData::new(values, [*height, *width, 3]), (device, DType::F32));
        Ok(tensor.permute([2, 0, 1]).unsqueeze())
    }

    /// Pictures `[batch, 3, H, W]` in about `[-1, 1]`, clamped, as `trunc(127.5 * (x + 1))`: truncated and not rounded, as in the
    /// official pipeline.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for NaN or infinity, which would be a black picture; another number of channels.
    pub fn from_tensor(pictures: Tensor<4>) -> Result<Vec<Self>> {
        let [_, channels, height, width] = pictures.dims();
        if channels != 3 || height * width == 0 {
            return Err(Error::invalid(
                "pictures [batch, 3, H, W]",
                format!("{:?}", pictures.dims()),
                "3 channels",
            ));
        }
        crate::sampling::check_finite(
            "the decoded picture",
            &pictures,
            "the autoencoder's weights are damaged or of another model",
        )?;
        let values = crate::tensor_to_vec(pictures.permute([0, 2, 3, 1]))?;
        let to_byte = |x: &f32| (127.5 * (x.clamp(-1.0, 1.0) + 1.0)) as u8;
        let split = values.chunks_exact(height * width * 3);
        Ok(split.map(|p| Self { width, height, rgb: p.iter().map(to_byte).collect() }).collect())
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_truncated_and_not_rounded() {
        let values = vec![-1.0f32, 0.0, 0.999, 1.0, 7.0, -7.0];
        let tensor = Tensor::<4>::from_data(TensorData::new(values, [1, 3, 1, 2]), &Device::flex());
        let pixels = Pixels::from_tensor(tensor).unwrap().remove(0);
        assert_eq!(pixels.rgb, [0, 254, 255, 127, 255, 0]);
    }

    #[test]
    fn a_nan_is_an_error_and_not_a_black_pixel() {
        let tensor = Tensor::<4>::full([1, 3, 1, 2], f32::NAN, &Device::flex());
        assert!(matches!(Pixels::from_tensor(tensor), Err(Error::NonFinite { count: 6, total: 6, .. })));
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        for (width, height, length) in [(2, 2, 11), (0, 0, 0), (usize::MAX, 2, 12)] {
            assert!(Pixels { width, height, rgb: vec![0; length] }.to_tensor(&Device::flex()).is_err());
        }
    }
}
