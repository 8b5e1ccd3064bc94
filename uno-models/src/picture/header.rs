//! Dimensions and orientation of a picture, from its header alone.

use image::metadata::Orientation;

use super::kind::Kind;
use super::{Result, bmp, gif, jpeg, png, tiff, webp};

/// What a picture's header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Width in pixels, as stored.
    pub(super) width: u32,
    /// Height in pixels, as stored.
    pub(super) height: u32,
    /// How EXIF says that it is to be turned.
    pub(super) orientation: Orientation,
}

impl Header {
    /// Reads the header of a picture of this kind. The bytes may be its beginning only; where that does not hold the header, it is
    /// an error.
    pub(super) fn read(kind: Kind, bytes: &[u8]) -> Result<Self> {
        match kind {
            Kind::Png => png::header(bytes),
            Kind::Jpeg => jpeg::header(bytes),
            Kind::WebP => webp::header(bytes),
            Kind::Bmp => bmp::header(bytes),
            Kind::Gif => gif::header(bytes),
            Kind::Tiff => tiff::header(bytes),
        }
    }

    /// Width and height after turning.
    pub(super) fn turned(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (self.height, self.width),
            _ => (self.width, self.height),
        }
    }
}
