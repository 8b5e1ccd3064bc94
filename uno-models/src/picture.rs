//! Reference pictures: untrusted files to 8-bit pixels, in the mode in which Pillow would open them.
//!
//! The official code resizes a picture in its own mode and converts to RGB afterwards, so the mode decides about pixels: what has
//! a palette is resized with nearest neighbour, what has an alpha channel premultiplied. The `image` crate expands palettes
//! and transparent colours on its own; where that would hide the mode (PNG, BMP), the file is decoded without it.

use std::fmt;
use std::io::{Cursor, Read};
use std::panic::AssertUnwindSafe;
use std::path::Path;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{
    DynamicImage, ExtendedColorType, GrayAlphaImage, GrayImage, ImageDecoder, ImageFormat, ImageReader,
    Limits, RgbImage, RgbaImage,
};

use crate::error::{Error, Result};

/// Whether height and width change places.
fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// What is accepted, and how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeOptions {
    /// Whether the picture is turned as its EXIF orientation says. Photos from phones need it; the official code does not do it.
    pub apply_exif_orientation: bool,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Most pixels.
    pub max_pixels: u64,
    /// Largest file in bytes.
    pub max_bytes: u64,
}

impl Default for DecodeOptions {
    /// Up to 20,000 pixels a side, 2^27 pixels (134 million) and 256 MiB.
    fn default() -> Self {
        Self { apply_exif_orientation: true, max_side: 20_000, max_pixels: 1 << 27, max_bytes: 256 << 20 }
    }
}

/// A decoded picture in one of Pillow's modes L, LA, RGB, RGBA (8 bits each), 1 or P.
#[derive(Clone)]
pub struct Picture {
    name: String,
    pixels: DynamicImage,
    /// Whether it had a palette, or 1 bit per pixel: Pillow resizes those with nearest neighbour, whatever is asked for.
    nearest: bool,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.size();
        write!(
            f,
            "Picture({}, {width}x{height} {:?}, nearest: {})",
            self.name,
            self.pixels.color(),
            self.nearest
        )
    }
}

impl Picture {
    /// Reads a picture file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is too large, or is no picture; see [`Picture::from_bytes`].
    pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(Error::read(path))?;
        let mut bytes = Vec::new();
        // One byte more than is accepted shows that there is more, whatever the file system says of its length.
        file.take(options.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::read(path))?;
        Self::from_bytes(&path.display().to_string(), &bytes, options)
    }

    /// Width and height of a picture file, turned as its EXIF orientation says, from its header alone.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or does not begin as a picture; dimensions beyond the limits.
    pub fn size_of_file(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<(u32, u32)> {
        let path = path.as_ref();
        let error = |reason: String| Error::picture(path.display().to_string(), reason);
        let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
        let reader = reader.map_err(Error::read(path))?;
        let read = || -> image::ImageResult<_> {
            let mut decoder = reader.into_decoder()?;
            let (width, height) = decoder.dimensions();
            Ok(((width, height), options.apply_exif_orientation.then(|| decoder.orientation()).transpose()?))
        };
        match std::panic::catch_unwind(AssertUnwindSafe(read)) {
            Ok(Ok(((width, height), orientation))) => match beyond(options, width, height) {
                Some(reason) => Err(error(reason)),
                None if orientation.is_some_and(is_turned) => Ok((height, width)),
                None => Ok((width, height)),
            },
            Ok(Err(e)) => Err(error(format!("is no picture that can be read ({e})"))),
            Err(_) => Err(error("is no picture that can be read (the decoder failed)".into())),
        }
    }

    /// Decodes a PNG, JPEG, WebP, BMP, GIF (first frame) or TIFF; the format is told by the contents, not by the name.
    ///
    /// 16-bit channels are cut to their upper byte, CMYK is converted. (Pillow clips 16-bit grey to white; that is not kept.)
    ///
    /// # Errors
    ///
    /// Bytes that are no picture, or a damaged one; dimensions beyond the limits, which are checked before any pixel is
    /// decoded.
    pub fn from_bytes(name: &str, bytes: &[u8], options: &DecodeOptions) -> Result<Self> {
        let error = |reason: String| Error::picture(name, reason);
        if bytes.is_empty() {
            return Err(error("the file is empty".into()));
        }
        if bytes.len() as u64 > options.max_bytes {
            return Err(error(format!(
                "the file has more than {} bytes; make it smaller first",
                options.max_bytes
            )));
        }
        let format = image::guess_format(bytes).map_err(|_| {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).escape_debug().to_string();
            error(format!("is no picture that can be read (it begins with \"{start}\"); wanted PNG, JPEG, WebP, BMP, GIF or TIFF"))
        })?;
        if format == ImageFormat::WebP && !webp_is_whole(bytes) {
            return Err(error("is a WebP that is cut off; load it anew".into()));
        }
        let decode = || -> image::ImageResult<Decoded> {
            let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder()?;
            let (width, height) = decoder.dimensions();
            if let Some(reason) = beyond(options, width, height) {
                return Ok(Decoded::Refused(reason));
            }
            let orientation = if options.apply_exif_orientation {
                decoder.orientation()?
            } else {
                Orientation::NoTransforms
            };
            let mut limits = Limits::default();
            limits.max_image_width = Some(options.max_side);
            limits.max_image_height = Some(options.max_side);
            // 16-bit RGBA takes 8 bytes per pixel, and decoders need room of their own.
            limits.max_alloc = Some(options.max_pixels.saturating_mul(16));
            let (mut pixels, nearest) = match format {
                ImageFormat::Png => decode_png(bytes, limits)?,
                ImageFormat::Bmp => decode_bmp(bytes, limits)?,
                _ => {
                    decoder.set_limits(limits)?;
                    let one_bit = decoder.original_color_type() == ExtendedColorType::L1;
                    (eight_bits(DynamicImage::from_decoder(decoder)?), one_bit || format == ImageFormat::Gif)
                }
            };
            if nearest && format == ImageFormat::Gif {
                pixels = DynamicImage::ImageRgb8(pixels.into_rgb8());
            }
            pixels.apply_orientation(orientation);
            Ok(Decoded::Picture(Self { name: name.to_owned(), pixels, nearest }))
        };
        // Decoders are other people's code: image-webp 0.2.4 panics on some damaged animations. That must not end the program.
        // Nothing that the closure touches outlives it but its result.
        match std::panic::catch_unwind(AssertUnwindSafe(decode)) {
            Ok(Ok(Decoded::Picture(picture))) => Ok(picture),
            Ok(Ok(Decoded::Refused(reason))) => Err(error(reason)),
            Ok(Err(e)) => Err(error(format!(
                "cannot be decoded as {format:?} ({e}); it is damaged or of an unusual kind"
            ))),
            Err(_) => {
                Err(error(format!("cannot be decoded as {format:?} (the decoder failed); it is damaged")))
            }
        }
    }

    /// A picture from pixels in memory.
    pub fn from_rgb(name: impl Into<String>, pixels: RgbImage) -> Self {
        Self { name: name.into(), pixels: DynamicImage::ImageRgb8(pixels), nearest: false }
    }

    /// A picture with transparency from pixels in memory.
    pub fn from_rgba(name: impl Into<String>, pixels: RgbaImage) -> Self {
        Self { name: name.into(), pixels: DynamicImage::ImageRgba8(pixels), nearest: false }
    }

    /// A picture from 8-bit pixels in memory, in the mode that they have: grey, grey with alpha, RGB or RGBA (other kinds are
    /// converted). `nearest` says that Pillow would resize it with nearest neighbour (its modes 1 and P, already expanded).
    pub fn from_pixels(name: impl Into<String>, pixels: DynamicImage, nearest: bool) -> Self {
        Self { name: name.into(), pixels: eight_bits(pixels), nearest }
    }

    /// The file's name, or what it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.pixels.width(), self.pixels.height())
    }

    /// The pixels in 8-bit RGB; transparency is left aside, as Pillow's `convert("RGB")` does.
    pub fn to_rgb(&self) -> RgbImage {
        self.pixels.to_rgb8()
    }

    /// The pixels in their own mode: grey, grey with alpha, RGB or RGBA, 8 bits each.
    pub(crate) fn pixels(&self) -> &DynamicImage {
        &self.pixels
    }

    /// Whether Pillow resizes it with nearest neighbour.
    pub(crate) fn is_nearest(&self) -> bool {
        self.nearest
    }
}

enum Decoded {
    Picture(Picture),
    Refused(String),
}

fn beyond(options: &DecodeOptions, width: u32, height: u32) -> Option<String> {
    let pixels = u64::from(width) * u64::from(height);
    if width == 0 || height == 0 {
        Some(format!("has no pixels ({width}x{height})"))
    } else if width.max(height) > options.max_side {
        Some(format!(
            "is {width}x{height}, wanted sides of at most {} pixels; make it smaller first",
            options.max_side
        ))
    } else if pixels > options.max_pixels {
        let limit = options.max_pixels;
        Some(format!("is {width}x{height}, {pixels} pixels, wanted at most {limit}; make it smaller first"))
    } else {
        None
    }
}

/// Whether the chunks of a WebP end inside the file. The decoder takes memory for as much EXIF as a header claims, up to 4 GiB,
/// and has no limit for it.
fn webp_is_whole(bytes: &[u8]) -> bool {
    let size_at = |at: usize| {
        let size = bytes.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*size)).ok()
    };
    let end = size_at(4).unwrap_or(0).saturating_add(8);
    let mut at = 12;
    while at < end {
        // A header that is cut off claims nothing.
        let Some(size) = size_at(at + 4) else { break };
        let chunk_end = size.saturating_add(at + 8);
        if chunk_end > bytes.len() {
            return false;
        }
        at = chunk_end + size % 2;
    }
    true
}

/// 8-bit grey, grey with alpha, RGB or RGBA; 16-bit channels keep their upper byte, as Pillow does with 16-bit RGB.
fn eight_bits(image: DynamicImage) -> DynamicImage {
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

/// A PNG in its own mode. (The `image` crate turns palettes into RGB, and a transparent colour into an alpha channel.)
fn decode_png(bytes: &[u8], limits: Limits) -> image::ImageResult<(DynamicImage, bool)> {
    // The `image` decoder checks the limits; it is also the one for everything that has no mode to hide.
    let checked = PngDecoder::with_limits(Cursor::new(bytes), limits)?;
    let broken = |e: png::DecodingError| {
        image::ImageError::Decoding(image::error::DecodingError::new(ImageFormat::Png.into(), e))
    };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(broken)?;
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let own = matches!(color, png::ColorType::Indexed)
        || depth == png::BitDepth::One
        || (reader.info().trns.is_some() && matches!(color, png::ColorType::Rgb | png::ColorType::Grayscale));
    if !own {
        drop(reader);
        return Ok((eight_bits(DynamicImage::from_decoder(checked)?), false));
    }
    let (width, height) = (reader.info().width, reader.info().height);
    let palette = reader.info().palette.clone().unwrap_or_default();
    let size = reader.output_buffer_size().ok_or_else(|| {
        image::ImageError::Limits(image::error::LimitError::from_kind(
            image::error::LimitErrorKind::InsufficientMemory,
        ))
    })?;
    let mut raw = vec![0; size];
    let frame = reader.next_frame(&mut raw).map_err(broken)?;
    let rows = raw.chunks_exact(frame.line_size).take(height as usize);
    let samples = width as usize * color.samples();
    let decoded: Option<DynamicImage> = match (color, depth) {
        (png::ColorType::Rgb, png::BitDepth::Sixteen) => {
            let bytes = rows.flat_map(|row| row.chunks_exact(2).take(samples).map(|b| b[0])).collect();
            RgbImage::from_raw(width, height, bytes).map(Into::into)
        }
        (png::ColorType::Rgb, _) => {
            let bytes = rows.flat_map(|row| row.iter().take(samples).copied()).collect();
            RgbImage::from_raw(width, height, bytes).map(Into::into)
        }
        (png::ColorType::Indexed, depth) => {
            let indices = rows.flat_map(|row| unpack_bits(row, depth).take(samples));
            // Indices beyond the palette are black.
            let color =
                |i: u8| palette.get(usize::from(i) * 3..usize::from(i) * 3 + 3).unwrap_or(&[0; 3]).to_vec();
            RgbImage::from_raw(width, height, indices.flat_map(color).collect()).map(Into::into)
        }
        (_, depth) => {
            let scale = match depth {
                png::BitDepth::One => 255,
                png::BitDepth::Two => 85,
                png::BitDepth::Four => 17,
                _ => 1,
            };
            let grey = rows.flat_map(|row| unpack_bits(row, depth).take(samples).map(move |x| x * scale));
            GrayImage::from_raw(width, height, grey.collect()).map(Into::into)
        }
    };
    let decoded = decoded.ok_or_else(|| {
        image::ImageError::Parameter(image::error::ParameterError::from_kind(
            image::error::ParameterErrorKind::DimensionMismatch,
        ))
    })?;
    Ok((decoded, color == png::ColorType::Indexed || depth == png::BitDepth::One))
}

/// The samples of a PNG row as bytes, most significant bits first; of 16 bits the upper byte.
fn unpack_bits(row: &[u8], depth: png::BitDepth) -> Box<dyn Iterator<Item = u8> + '_> {
    let bits = match depth {
        png::BitDepth::One => 1,
        png::BitDepth::Two => 2,
        png::BitDepth::Four => 4,
        png::BitDepth::Eight => return Box::new(row.iter().copied()),
        png::BitDepth::Sixteen => return Box::new(row.chunks_exact(2).map(|b| b[0])),
    };
    let mask = (1u8 << bits) - 1;
    Box::new(row.iter().flat_map(move |byte| (0..8 / bits).rev().map(move |i| byte >> (i * bits) & mask)))
}

/// A BMP, and whether it has a palette of colours (one of greys is mode L in Pillow).
fn decode_bmp(bytes: &[u8], limits: Limits) -> image::ImageResult<(DynamicImage, bool)> {
    let mut decoder = BmpDecoder::new(Cursor::new(bytes))?;
    decoder.set_limits(limits)?;
    let grey = |palette: &[[u8; 3]]| palette.iter().enumerate().all(|(i, c)| *c == [i.min(255) as u8; 3]);
    let paletted = decoder.get_palette().is_some_and(|palette| !grey(palette));
    Ok((eight_bits(DynamicImage::from_decoder(decoder)?), paletted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> Result<Picture> {
        Picture::from_bytes("x", bytes, &DecodeOptions::default())
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png(width: u32, height: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![10, 20, 30, 200, 100, 0]);
            encoder.set_trns(vec![0, 255]);
        } else if color == png::ColorType::Rgb {
            encoder.set_trns(vec![0, 1, 0, 2, 0, 3]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    }

    /// A chunk of a WebP.
    fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let padding = &[0][..data.len() % 2];
        [name, &(data.len() as u32).to_le_bytes()[..], data, padding].concat()
    }

    /// A WebP animation of one frame of 2x2 pixels with an alpha channel; its colours are said to be 0x2.
    fn webp_without_colours() -> Vec<u8> {
        let size = [1, 0, 0, 1, 0, 0];
        // A key frame that is shown, with a first partition of 8 bytes.
        let tag = 1u32 << 4 | 8 << 5;
        let colours = [&tag.to_le_bytes()[..3], &[0x9d, 0x01, 0x2a, 0, 0, 2, 0], &[0; 8]];
        let frame =
            [&[0; 6][..], &size, &[0; 4], &chunk(b"ALPH", &[0; 5]), &chunk(b"VP8 ", &colours.concat())];
        let chunks = [
            chunk(b"VP8X", &[&[0x12, 0, 0, 0][..], &size].concat()),
            chunk(b"ANIM", &[0; 6]),
            chunk(b"ANMF", &frame.concat()),
        ];
        chunk(b"RIFF", &[&b"WEBP"[..], &chunks.concat()].concat())
    }

    #[test]
    fn an_animation_whose_frame_has_no_colours_is_an_error_and_no_panic() {
        let error = open(&webp_without_colours()).unwrap_err().to_string();
        assert!(error.contains("WebP") && error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_webp_that_claims_more_exif_than_it_has_is_refused() {
        let plain = encoded(&DynamicImage::ImageRgb8(RgbImage::new(2, 2)), ImageFormat::WebP);
        let with_exif = |exif: &[u8]| {
            let flags = chunk(b"VP8X", &[8, 0, 0, 0, 1, 0, 0, 1, 0, 0]);
            chunk(b"RIFF", &[b"WEBP", &flags[..], &plain[12..], exif].concat())
        };
        let exif = chunk(b"EXIF", b"MM\0*\0\0\0\x08\0\0");
        assert_eq!(open(&with_exif(&exif)).unwrap().size(), (2, 2));
        assert_eq!(open(&[&with_exif(&exif), &b"more"[..]].concat()).unwrap().size(), (2, 2));
        for claimed in [11, 1 << 31, u32::MAX] {
            let lie = [&b"EXIF"[..], &claimed.to_le_bytes(), &exif[8..]].concat();
            assert!(open(&with_exif(&lie)).unwrap_err().to_string().contains("cut off"), "{claimed} bytes");
        }
    }

    #[test]
    fn every_format_is_told_by_its_contents() {
        let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(20, 10, image::Rgb([200, 10, 30])));
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Gif,
            ImageFormat::Tiff,
        ] {
            let picture = open(&encoded(&image, format)).unwrap();
            assert_eq!(picture.size(), (20, 10), "{format:?}");
            assert_eq!(picture.is_nearest(), format == ImageFormat::Gif, "{format:?}");
        }
    }

    #[test]
    fn palettes_are_known_and_their_transparency_is_dropped() {
        let picture = open(&png(3, 1, png::ColorType::Indexed, png::BitDepth::One, &[0b0100_0000])).unwrap();
        assert!(picture.is_nearest());
        assert_eq!(picture.pixels().as_rgb8().unwrap().as_raw(), &[10, 20, 30, 200, 100, 0, 10, 20, 30]);
    }

    #[test]
    fn indices_beyond_the_palette_are_black() {
        let picture = open(&png(2, 1, png::ColorType::Indexed, png::BitDepth::Eight, &[1, 9])).unwrap();
        assert_eq!(picture.pixels().as_rgb8().unwrap().as_raw(), &[200, 100, 0, 0, 0, 0]);
    }

    #[test]
    fn a_transparent_colour_is_no_alpha_channel() {
        let picture =
            open(&png(2, 1, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!(picture.pixels().as_rgb8().unwrap().as_raw(), &[1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn one_bit_and_sixteen_bits_become_eight() {
        let one = open(&png(3, 1, png::ColorType::Grayscale, png::BitDepth::One, &[0b1010_0000])).unwrap();
        assert!(one.is_nearest());
        assert_eq!(one.pixels().as_luma8().unwrap().as_raw(), &[255, 0, 255]);
        let four = open(&png(2, 1, png::ColorType::Grayscale, png::BitDepth::Four, &[0x3f])).unwrap();
        assert_eq!(four.pixels().to_luma8().as_raw(), &[51, 255]);
        let sixteen =
            open(&png(2, 1, png::ColorType::Grayscale, png::BitDepth::Sixteen, &[1, 255, 128, 0])).unwrap();
        assert_eq!(sixteen.pixels().to_luma8().as_raw(), &[1, 128]);
        let rgb =
            open(&png(1, 1, png::ColorType::Rgb, png::BitDepth::Sixteen, &[9, 255, 8, 255, 7, 255])).unwrap();
        assert_eq!(rgb.pixels().to_rgb8().as_raw(), &[9, 8, 7]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(open(b"").unwrap_err().to_string().contains("empty"));
        assert!(open(b"<html>").unwrap_err().to_string().contains("<html>"));
        assert!(open(&[0; 100]).is_err());
        let good = encoded(&DynamicImage::new_rgb8(64, 64), ImageFormat::Png);
        assert!(open(&good[..good.len() / 2]).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn too_wide_pictures_and_bombs_are_refused_by_their_header() {
        let wide = encoded(&DynamicImage::new_luma8(30_000, 1), ImageFormat::Png);
        assert!(open(&wide).unwrap_err().to_string().contains("30000x1"));
        // A PNG header that claims 20,000 x 20,000, with next to nothing behind it.
        let mut bomb = encoded(&DynamicImage::new_luma8(16, 16), ImageFormat::Png);
        bomb[16..20].copy_from_slice(&20_000u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&20_000u32.to_be_bytes());
        let crc = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(open(&bomb).unwrap_err().to_string().contains("400000000 pixels"));
        let small = DecodeOptions { max_bytes: 10, ..DecodeOptions::default() };
        assert!(Picture::from_bytes("x", &[0; 11], &small).is_err());
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        })
    }

    #[test]
    fn exif_orientation_is_honoured_unless_turned_off() {
        // TIFF block with one entry: tag 0x0112 (orientation), short, 6 = rotate by 90 degrees.
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
        let mut bytes = Vec::new();
        let mut info = png::Info::with_size(20, 10);
        info.color_type = png::ColorType::Rgb;
        info.exif_metadata = Some(exif.into());
        let encoder = png::Encoder::with_info(&mut bytes, info).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0; 600]).unwrap();
        assert_eq!(open(&bytes).unwrap().size(), (10, 20));
        let raw = DecodeOptions { apply_exif_orientation: false, ..DecodeOptions::default() };
        assert_eq!(Picture::from_bytes("x", &bytes, &raw).unwrap().size(), (20, 10));
    }
}
