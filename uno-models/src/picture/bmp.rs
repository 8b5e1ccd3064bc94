//! BMP, with or without a palette.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, Limits};

use super::Result;
use super::header::Header;

pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let (width, height) = BmpDecoder::new(Cursor::new(bytes))?.dimensions();
    Ok(Header { width, height, orientation: Orientation::NoTransforms })
}

/// The pixels, and whether it has a palette of colours (one of greys is mode L in Pillow).
pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<(DynamicImage, bool)> {
    let mut decoder = BmpDecoder::new(Cursor::new(bytes))?;
    decoder.set_limits(limits)?;
    let grey = |palette: &[[u8; 3]]| palette.iter().enumerate().all(|(i, c)| *c == [i.min(255) as u8; 3]);
    let paletted = decoder.get_palette().is_some_and(|palette| !grey(palette));
    Ok((DynamicImage::from_decoder(decoder)?, paletted))
}
