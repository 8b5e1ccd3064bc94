//! Pictures as PNG in memory.

use image::{ImageError, ImageFormat, RgbImage};

/// A picture as PNG.
///
/// # Errors
///
/// One without pixels.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>, ImageError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}
