//! WebP.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, Limits};

use super::header::Header;
use super::{Fault, Result};

pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let mut decoder = decoder(bytes)?;
    let (width, height) = decoder.dimensions();
    Ok(Header { width, height, orientation: decoder.orientation()? })
}

pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<DynamicImage> {
    let mut decoder = decoder(bytes)?;
    decoder.set_limits(limits)?;
    Ok(DynamicImage::from_decoder(decoder)?)
}

fn decoder(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>> {
    if !is_whole(bytes) {
        return Err(Fault::Reason("is a WebP that is cut off; load it anew".into()));
    }
    Ok(WebPDecoder::new(Cursor::new(bytes))?)
}

/// Whether the chunks of a WebP end inside the file. The decoder takes memory for as much EXIF as a header claims, up to 4 GiB,
/// and has no limit for it.
fn is_whole(bytes: &[u8]) -> bool {
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
