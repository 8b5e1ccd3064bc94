//! Reference pictures: untrusted files to 8-bit pixels, in the mode in which Pillow would open them.
//!
//! The official code resizes a picture in its own mode and converts to RGB afterwards, so the mode decides about pixels: what has
//! a palette is resized with nearest neighbour, what has an alpha channel premultiplied. The `image` crate expands palettes
//! and transparent colours on its own; where that would hide the mode (PNG, BMP, GIF, TIFF), the file is decoded without it.

mod bmp;
mod gif;
mod header;
mod jpeg;
mod kind;
mod png;
mod samples;
mod tiff;
mod webp;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use image::{DynamicImage, ImageError, Limits, RgbImage, RgbaImage};

use self::header::Header;
use self::kind::Kind;
use self::samples::eight_bits;
use crate::error::Error;

/// How much of a file is read at first where only its header is wanted.
const HEADER_BYTES: u64 = 256 << 10;

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
    pub fn open(path: impl AsRef<Path>, options: &DecodeOptions) -> crate::Result<Self> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        read(path, options.max_bytes, &mut bytes)?;
        Self::from_bytes(&path.display().to_string(), &bytes, options)
    }

    /// Width and height of a picture file, turned as its EXIF orientation says, from its header alone.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or does not begin as a picture; dimensions beyond the limits.
    pub fn size_of_file(path: impl AsRef<Path>, options: &DecodeOptions) -> crate::Result<(u32, u32)> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        read(path, HEADER_BYTES.min(options.max_bytes), &mut bytes)?;
        // The directories of a TIFF lie anywhere in it.
        let is_tiff = matches!(Kind::of(&bytes), Ok(Kind::Tiff));
        let at_first = guarded(&name, &bytes, || size(&bytes, options));
        if bytes.len() as u64 <= HEADER_BYTES || (at_first.is_ok() && !is_tiff) {
            return at_first;
        }
        // Others may have a long preview before their size, or the orientation at the end.
        bytes.clear();
        read(path, options.max_bytes, &mut bytes)?;
        guarded(&name, &bytes, || size(&bytes, options))
    }

    /// Decodes a PNG, JPEG, WebP, BMP, GIF (first frame) or TIFF (first picture); the format is told by the contents, not by the name.
    ///
    /// 16-bit channels are cut to their upper byte, CMYK is converted. (Pillow clips 16-bit grey to white; that is not kept.)
    /// Colour profiles and texts are not looked at, and never inflated.
    ///
    /// # Errors
    ///
    /// Bytes that are no picture, or one of another kind, which is named; a damaged one, or one that is cut short; dimensions beyond
    /// the limits, which are checked before any pixel is decoded.
    pub fn from_bytes(name: &str, bytes: &[u8], options: &DecodeOptions) -> crate::Result<Self> {
        let decode = || {
            let (kind, header) = looked_at(bytes, options)?;
            let (mut pixels, nearest) = decode(kind, bytes, options).map_err(|fault| fault.of(kind))?;
            if (pixels.width(), pixels.height()) != (header.width, header.height) {
                return Err(Fault::damaged(kind, "its header says another size"));
            }
            if options.apply_exif_orientation {
                pixels.apply_orientation(header.orientation);
            }
            Ok(Self { name: name.to_owned(), pixels, nearest })
        };
        guarded(name, bytes, decode)
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

/// What another decoder would take for a picture without a word, though it is not the whole one: a JPEG that is cut short, a raw
/// photo, of which it would show the preview. Nothing is said of other kinds, and of pictures beyond the limits of
/// [`DecodeOptions::default`].
///
/// # Errors
///
/// Such a file.
pub fn refuse_partial(name: &str, bytes: &[u8]) -> crate::Result<()> {
    let options = DecodeOptions::default();
    let look = || match Kind::of(bytes) {
        Ok(Kind::Jpeg) => match jpeg::header(bytes) {
            Ok(header) if beyond(&options, header.width, header.height).is_some() => Ok(()),
            // Others may read what is not read here.
            Err(Fault::Unreadable(_)) => Ok(()),
            Ok(_) => jpeg::stream(bytes).map(drop),
            Err(fault) => Err(fault),
        },
        Ok(Kind::Tiff) => tiff::refuse_raw(bytes),
        _ => Ok(()),
    };
    guarded(name, bytes, look)
}

/// What a file is that is no picture that can be read, and what to do instead: "is a HEIC picture, which is not read; ...". `None`
/// if it begins as one that can be.
pub fn unreadable(bytes: &[u8]) -> Option<String> {
    Kind::of(bytes).err().map(|fault| fault.to_string())
}

/// Reads a file, up to one byte more than `most`: that shows that there is more, whatever the file system says of its length.
fn read(path: &Path, most: u64, into: &mut Vec<u8>) -> crate::Result<()> {
    let file = File::open(path).map_err(Error::read(path))?;
    file.take(most.saturating_add(1)).read_to_end(into).map_err(Error::read(path))?;
    Ok(())
}

/// Kind and header of a file that is within the limits, before any pixel is decoded.
fn looked_at(bytes: &[u8], options: &DecodeOptions) -> Result<(Kind, Header)> {
    if bytes.is_empty() {
        return Err(Fault::Reason("the file is empty".into()));
    }
    if bytes.len() as u64 > options.max_bytes {
        let most = options.max_bytes;
        return Err(Fault::Reason(format!("the file has more than {most} bytes; make it smaller first")));
    }
    let kind = Kind::of(bytes)?;
    if kind == Kind::Tiff {
        tiff::refuse_raw(bytes)?;
    }
    let header = Header::read(kind, bytes).map_err(|fault| fault.of(kind))?;
    match beyond(options, header.width, header.height) {
        Some(reason) => Err(Fault::Reason(reason)),
        None => Ok((kind, header)),
    }
}

fn size(bytes: &[u8], options: &DecodeOptions) -> Result<(u32, u32)> {
    let (_, header) = looked_at(bytes, options)?;
    Ok(if options.apply_exif_orientation { header.turned() } else { (header.width, header.height) })
}

fn decode(kind: Kind, bytes: &[u8], options: &DecodeOptions) -> Result<(DynamicImage, bool)> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(options.max_side);
    limits.max_image_height = Some(options.max_side);
    // 16-bit RGBA takes 8 bytes per pixel, and decoders need room of their own.
    let most = options.max_pixels.saturating_mul(16);
    limits.max_alloc = Some(most);
    let (pixels, nearest) = match kind {
        Kind::Png => png::decode(bytes, usize::try_from(most).unwrap_or(usize::MAX))?,
        Kind::Jpeg => (jpeg::decode(bytes, limits)?, false),
        Kind::WebP => (webp::decode(bytes, limits)?, false),
        Kind::Bmp => bmp::decode(bytes, limits)?,
        Kind::Gif => gif::decode(bytes, most)?,
        Kind::Tiff => tiff::decode(bytes, limits)?,
    };
    Ok((eight_bits(pixels), nearest))
}

/// Runs a decoder. They are other people's code: image-webp 0.2.4 panics on some damaged animations, which must not end the program.
fn guarded<T>(name: &str, bytes: &[u8], decode: impl FnOnce() -> Result<T>) -> crate::Result<T> {
    // Nothing that the closure touches outlives it but its result.
    match std::panic::catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(fault)) => Err(Error::picture(name, fault.to_string())),
        Err(_) => {
            let kind = Kind::of(bytes).map_or("a picture", Kind::name);
            Err(Error::picture(
                name,
                format!("cannot be decoded as {kind} (the decoder failed); it is damaged"),
            ))
        }
    }
}

/// Shorthand for results of this module.
type Result<T, E = Fault> = std::result::Result<T, E>;

/// Why a file is no picture that can be used; the message follows its name.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// It says what was found, and what to do.
    #[error("{0}")]
    Reason(String),
    /// It is of a kind that is not read.
    #[error("{0}")]
    Unreadable(String),
    /// What a decoder said.
    #[error(transparent)]
    Decoder(#[from] ImageError),
}

impl Fault {
    /// `kind` is what it is, with its article.
    fn unreadable(kind: impl fmt::Display, remedy: &str) -> Self {
        Self::Unreadable(format!("{kind}, which is not read; {remedy}"))
    }

    fn damaged(kind: Kind, why: impl fmt::Display) -> Self {
        let kind = kind.name();
        Self::Reason(format!("cannot be decoded as {kind} ({why}); it is damaged or of an unusual kind"))
    }

    /// A decoder's words with the kind that it was to decode.
    fn of(self, kind: Kind) -> Self {
        match self {
            Self::Decoder(error) => Self::damaged(kind, error),
            other => other,
        }
    }
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

#[cfg(test)]
mod tests;
