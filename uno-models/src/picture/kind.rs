//! What a file is, by its contents: a picture that is read, or another kind that is refused by its name.

use super::{Fault, Result};

/// A kind of picture that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    WebP,
    Bmp,
    Gif,
    Tiff,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
            Self::Tiff => "TIFF",
        }
    }

    /// Tells the kind of a file.
    ///
    /// # Errors
    ///
    /// What is not read, by its name and with what helps.
    pub(super) fn of(bytes: &[u8]) -> Result<Self> {
        let is_riff = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        let found = match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            _ if is_riff => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            // 42 for classic, 43 for BigTIFF.
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            [b'B', b'M', ..] => Some(Self::Bmp),
            _ => None,
        };
        found.ok_or_else(|| match Other::of(bytes) {
            Some(other) => Fault::unreadable(format!("is {}", other.name), other.remedy),
            None => {
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).escape_debug().to_string();
                Fault::Reason(format!(
                    "is no picture that can be read (it begins with \"{start}\"); wanted PNG, JPEG, WebP, BMP, GIF or TIFF"
                ))
            }
        })
    }
}

/// A kind of file that is not read.
pub(super) struct Other {
    /// With its article.
    pub(super) name: &'static str,
    /// What to do instead.
    pub(super) remedy: &'static str,
}

const CONVERT: &str = "convert it to PNG or JPEG first, for instance with ImageMagick (magick FILE out.png)";
const HEIF: &str =
    "convert it to PNG or JPEG first, for instance with ImageMagick (magick FILE out.png) or heif-convert";
const AVIF: &str =
    "convert it to PNG or JPEG first, for instance with ImageMagick (magick FILE out.png) or avifdec";
const JXL: &str = "convert it to PNG or JPEG first, for instance with djxl (djxl FILE out.png)";
const LAYERS: &str = "export it as PNG or JPEG from the program that made it, or convert it with ImageMagick (magick FILE out.png)";
const DRAWING: &str =
    "draw it into a PNG first, for instance with Inkscape (inkscape FILE -o out.png -w 1024)";
const PAGES: &str = "turn a page of it into a PNG first, for instance with pdftoppm (pdftoppm -png FILE out)";
const FRAME: &str =
    "take a frame of it as PNG first, for instance with ffmpeg (ffmpeg -i FILE -frames:v 1 out.png)";
pub(super) const DEVELOP: &str = "develop it and export it as PNG, JPEG or TIFF first, for instance with darktable or RawTherapee (a raw photo's own preview is \
     smaller and not what it shows)";
const DOWNLOAD: &str = "it came in place of a picture; load the picture itself anew";
const UNPACK: &str = "unpack it first";
const POINTER: &str = "fetch the picture itself first (git lfs pull)";
const COMPANION: &str = "it holds a picture's attributes; take the file of the same name without ._";

impl Other {
    fn new(name: &'static str, remedy: &'static str) -> Option<Self> {
        Some(Self { name, remedy })
    }

    /// `None` for what is not known.
    fn of(bytes: &[u8]) -> Option<Self> {
        let starts = |start: &[u8]| bytes.starts_with(start);
        if bytes.get(4..8) == Some(b"ftyp") {
            return Self::of_brands(bytes);
        }
        match bytes {
            [0xff, 0x0a, ..] => Self::new("a JPEG XL picture", JXL),
            _ if starts(b"\0\0\0\x0cJXL \r\n\x87\n") => Self::new("a JPEG XL picture", JXL),
            _ if starts(b"\0\0\0\x0cjP  \r\n\x87\n") || starts(b"\xff\x4f\xff\x51") => {
                Self::new("a JPEG 2000 picture", CONVERT)
            }
            [b'I', b'I', 0xbc, ..] => Self::new("a JPEG XR picture", CONVERT),
            _ if starts(b"8BPS") => Self::new("a Photoshop document (PSD)", LAYERS),
            _ if starts(b"gimp xcf") => Self::new("a GIMP document (XCF)", LAYERS),
            _ if starts(b"%PDF") => Self::new("a PDF document", PAGES),
            _ if starts(b"%!PS") || starts(b"\xc5\xd0\xd3\xc6") => Self::new("a PostScript document", PAGES),
            [0, 0, 1 | 2, 0, 1..=255, 0, ..] => Self::new("an icon or cursor (ICO)", CONVERT),
            _ if starts(b"icns") => Self::new("an icon of macOS (ICNS)", CONVERT),
            _ if starts(b"FUJIFILMCCD-RAW") || starts(b"FOVb") || starts(b"\0MRM") => {
                Self::new("a raw photo of a camera", DEVELOP)
            }
            [b'I', b'I', b'R', b'O' | b'S', ..]
            | [b'M', b'M', b'O', b'R', ..]
            | [b'I', b'I', b'U', 0, ..] => Self::new("a raw photo of a camera", DEVELOP),
            _ if starts(b"v/1\x01") => Self::new("an OpenEXR picture", CONVERT),
            _ if starts(b"#?RADIANCE") || starts(b"#?RGBE") => Self::new("a Radiance HDR picture", CONVERT),
            _ if starts(b"DDS ") => Self::new("a DirectDraw texture (DDS)", CONVERT),
            _ if starts(b"qoif") => Self::new("a QOI picture", CONVERT),
            _ if starts(b"farbfeld") => Self::new("a farbfeld picture", CONVERT),
            [b'P', b'1'..=b'7', b'\n' | b'\r' | b' ' | b'\t', ..] => {
                Self::new("a picture of the Netpbm family (PNM)", CONVERT)
            }
            _ if starts(b"AT&TFORM") => Self::new("a DjVu document", PAGES),
            _ if bytes.get(128..132) == Some(b"DICM") => Self::new("a DICOM picture", CONVERT),
            _ if starts(b"\x1a\x45\xdf\xa3") => Self::new("a video (WebM or Matroska)", FRAME),
            _ if starts(b"RIFF") && bytes.get(8..12) == Some(b"AVI ") => Self::new("a video (AVI)", FRAME),
            _ if starts(b"FLV\x01") => Self::new("a video (FLV)", FRAME),
            _ if starts(b"\0\0\x01\xba") || starts(b"\0\0\x01\xb3") => Self::new("a video (MPEG)", FRAME),
            // QuickTime without a file type.
            _ if matches!(bytes.get(4..8), Some(b"moov" | b"mdat" | b"wide")) => {
                Self::new("a video (QuickTime)", FRAME)
            }
            _ if starts(b"PK\x03\x04") => Self::new("a ZIP archive, or a document that is one", UNPACK),
            _ if starts(b"\x1f\x8b") => Self::new("a gzip archive", UNPACK),
            _ if starts(b"7z\xbc\xaf\x27\x1c") || starts(b"Rar!\x1a\x07") => Self::new("an archive", UNPACK),
            _ if starts(b"\0\x05\x16\x07") => Self::new("a companion file of macOS (AppleDouble)", COMPANION),
            _ if starts(b"version https://git-lfs") => Self::new("a pointer of Git LFS", POINTER),
            _ => Self::of_text(bytes),
        }
    }

    /// By the brands of a file of the ISO base media family: first the major one, then those that it is compatible with.
    fn of_brands(bytes: &[u8]) -> Option<Self> {
        let size = bytes.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize);
        let all = bytes.get(8..size.clamp(12, 256).min(bytes.len()))?.as_chunks::<4>().0;
        // The second is the version.
        let brands = || all.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, brand)| brand);
        brands()
            .find_map(|brand| match brand {
                b"avif" | b"avis" => Self::new("an AVIF picture", AVIF),
                b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => {
                    Self::new("a HEIC picture", HEIF)
                }
                b"jxl " => Self::new("a JPEG XL picture", JXL),
                b"jp2 " | b"jpx " | b"jph " => Self::new("a JPEG 2000 picture", CONVERT),
                b"crx " => Self::new("a raw photo of a camera (CR3)", DEVELOP),
                _ => None,
            })
            .or_else(|| {
                brands().find_map(|brand| {
                    matches!(brand, b"mif1" | b"msf1").then(|| Self::new("a HEIF picture", HEIF))?
                })
            })
            .or_else(|| Self::new("a video (MP4 or QuickTime)", FRAME))
    }

    fn of_text(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        let start = text[..text.len().min(1024)].to_ascii_lowercase();
        let has = |word: &[u8]| start.windows(word.len()).any(|window| window == word);
        if !start.starts_with(b"<") {
            return None;
        }
        // A page may show a drawing.
        if has(b"<html") || start.starts_with(b"<!doctype html") {
            Self::new("a web page (HTML)", DOWNLOAD)
        } else if has(b"<svg") {
            Self::new("an SVG drawing", DRAWING)
        } else if start.starts_with(b"<?xml") {
            Self::new("an XML document", DOWNLOAD)
        } else {
            None
        }
    }
}
