//! Pictures side by side in one file.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use uno_core::image::Pixels;

/// Writes pictures of the same size as a PNG of so many columns.
pub fn write(path: &Path, pictures: &[Pixels], columns: usize) -> Result<()> {
    let (width, height) = pictures.first().map_or((1, 1), |p| (p.width, p.height));
    let rows = pictures.len().div_ceil(columns);
    let mut sheet =
        RgbImage::from_pixel((columns * width) as u32, (rows * height) as u32, image::Rgb([255; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        let one = RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.rgb.clone());
        if let Some(one) = one {
            image::imageops::replace(
                &mut sheet,
                &one,
                (i % columns * width) as i64,
                (i / columns * height) as i64,
            );
        }
    }
    sheet.save(path)?;
    Ok(())
}
