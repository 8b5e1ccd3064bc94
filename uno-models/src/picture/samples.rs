//! Samples of 1 to 16 bits to the 8-bit pixels of Pillow's modes.

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};

/// Samples of a row that lie packed in bytes, most significant bits first. Of 16 bits, in the byte order that [`u16::from_be_bytes`]
/// reads, the upper byte, as Pillow does with 16-bit RGB. Other numbers of bits give nothing.
pub(super) fn unpacked(row: &[u8], bits: u8) -> Box<dyn Iterator<Item = u8> + '_> {
    match bits {
        1 | 2 | 4 => {
            let mask = (1u8 << bits) - 1;
            Box::new(
                row.iter().flat_map(move |byte| (0..8 / bits).rev().map(move |i| byte >> (i * bits) & mask)),
            )
        }
        8 => Box::new(row.iter().copied()),
        16 => Box::new(row.as_chunks::<2>().0.iter().map(|pair| pair[0])),
        _ => Box::new(std::iter::empty()),
    }
}

/// What a sample of so many bits is multiplied with to fill 8 bits.
pub(super) fn scale(bits: u8) -> u8 {
    match bits {
        1 => 255,
        2 => 85,
        4 => 17,
        _ => 1,
    }
}

/// Colours of indices; those beyond the palette are black. The palette is R, G, B by turns.
pub(super) fn coloured(indices: impl Iterator<Item = u8>, palette: &[u8]) -> Vec<u8> {
    let mut colours = [[0; 3]; 256];
    for (colour, known) in colours.iter_mut().zip(palette.as_chunks::<3>().0) {
        *colour = *known;
    }
    indices.flat_map(|i| colours[usize::from(i)]).collect()
}

/// An image from interleaved 8-bit samples; `None` if they are too few, or not 1 to 4 per pixel.
pub(super) fn image(width: u32, height: u32, channels: usize, samples: Vec<u8>) -> Option<DynamicImage> {
    match channels {
        1 => GrayImage::from_raw(width, height, samples).map(Into::into),
        2 => GrayAlphaImage::from_raw(width, height, samples).map(Into::into),
        3 => RgbImage::from_raw(width, height, samples).map(Into::into),
        4 => RgbaImage::from_raw(width, height, samples).map(Into::into),
        _ => None,
    }
}

/// 8-bit grey, grey with alpha, RGB or RGBA; 16-bit channels keep their upper byte, as Pillow does with 16-bit RGB.
pub(super) fn eight_bits(image: DynamicImage) -> DynamicImage {
    fn upper<P: image::Pixel<Subpixel = u16>>(raw: &image::ImageBuffer<P, Vec<u16>>) -> Vec<u8> {
        raw.as_raw().iter().map(|x| (x >> 8) as u8).collect()
    }
    let (w, h) = (image.width(), image.height());
    let converted = match &image {
        DynamicImage::ImageLuma8(_)
        | DynamicImage::ImageLumaA8(_)
        | DynamicImage::ImageRgb8(_)
        | DynamicImage::ImageRgba8(_) => None,
        DynamicImage::ImageLuma16(x) => GrayImage::from_raw(w, h, upper(x)).map(Into::into),
        DynamicImage::ImageLumaA16(x) => GrayAlphaImage::from_raw(w, h, upper(x)).map(Into::into),
        DynamicImage::ImageRgb16(x) => RgbImage::from_raw(w, h, upper(x)).map(Into::into),
        DynamicImage::ImageRgba16(x) => RgbaImage::from_raw(w, h, upper(x)).map(Into::into),
        other if other.has_alpha() => Some(other.to_rgba8().into()),
        other => Some(other.to_rgb8().into()),
    };
    converted.unwrap_or(image)
}
