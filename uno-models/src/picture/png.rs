//! PNG in its own mode. (The `image` crate turns palettes into RGB, a transparent colour into an alpha channel, and inflates the
//! colour profile, which a few kilobytes can make as large as memory.)

use std::io::Cursor;

use image::DynamicImage;
use image::metadata::Orientation;

use super::header::Header;
use super::kind::Kind;
use super::{Fault, Result, samples};

/// Dimensions and orientation: IHDR, and eXIf if it comes before the picture data.
pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let mut header: Option<Header> = None;
    let mut rest = bytes.get(8..).unwrap_or(&[]);
    while let Some((start, data)) = rest.split_first_chunk::<8>() {
        let [l3, l2, l1, l0, name @ ..] = start;
        let length = u32::from_be_bytes([*l3, *l2, *l1, *l0]) as usize;
        match (name, &mut header) {
            (b"IHDR", None) => {
                let size = data.first_chunk::<8>().map(|size| u64::from_be_bytes(*size));
                let (width, height) = size.map_or((0, 0), |size| ((size >> 32) as u32, size as u32));
                header = Some(Header { width, height, orientation: Orientation::NoTransforms });
            }
            (b"IDAT", Some(found)) => return Ok(*found),
            (b"eXIf", Some(found)) => {
                let exif = data.get(..length).and_then(Orientation::from_exif_chunk);
                found.orientation = exif.unwrap_or(found.orientation);
            }
            _ => {}
        }
        // The data, and its checksum.
        rest = data.get(length.saturating_add(4)..).unwrap_or(&[]);
    }
    Err(Fault::damaged(Kind::Png, "it ends before its picture data"))
}

/// The pixels, and whether Pillow resizes them with nearest neighbour: it has a palette, or 1 bit per pixel.
pub(super) fn decode(bytes: &[u8], max_alloc: usize) -> Result<(DynamicImage, bool)> {
    let broken = |e: png::DecodingError| Fault::damaged(Kind::Png, e);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: max_alloc });
    // Neither is used, and both may be bombs.
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(broken)?;
    let (colour, bits) = (reader.info().color_type, reader.info().bit_depth as u8);
    let (width, height) = (reader.info().width, reader.info().height);
    let palette = reader.info().palette.clone().unwrap_or_default();
    let size = reader.output_buffer_size().filter(|size| *size <= max_alloc);
    let size = size.ok_or_else(|| Fault::damaged(Kind::Png, "it takes too much memory"))?;
    let mut raw = vec![0; size];
    let frame = reader.next_frame(&mut raw).map_err(broken)?;
    let per_row = width as usize * colour.samples();
    let rows = || raw.chunks_exact(frame.line_size.max(1)).take(height as usize);
    let unpacked = || rows().flat_map(|row| samples::unpacked(row, bits).take(per_row));
    let decoded = match colour {
        png::ColorType::Indexed => samples::image(width, height, 3, samples::coloured(unpacked(), &palette)),
        _ if bits == 8 => samples::image(width, height, colour.samples(), raw),
        _ => {
            let scale = samples::scale(bits);
            samples::image(width, height, colour.samples(), unpacked().map(|sample| sample * scale).collect())
        }
    };
    let decoded = decoded.ok_or_else(|| Fault::damaged(Kind::Png, "its rows are not whole"))?;
    Ok((decoded, colour == png::ColorType::Indexed || bits == 1))
}
