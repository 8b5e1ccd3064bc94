//! TIFF: the first picture, in the mode in which Pillow opens it.

mod directory;
mod layout;
mod patched;
mod raw;

use std::borrow::Cow;
use std::io::BufReader;

use image::codecs::tiff::TiffDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, Limits};

use self::directory::{
    Directory, FILL_ORDER, File, HEIGHT, ORIENTATION, PREDICTOR, STRIP_BYTES, STRIP_OFFSETS, TILE_BYTES,
    TILE_OFFSETS, WIDTH,
};
use self::layout::Layout;
use self::patched::Patched;
pub(super) use self::raw::refuse as refuse_raw;
use super::header::Header;
use super::kind::Kind;
use super::samples::eight_bits;
use super::{Fault, Result};

/// Dimensions and orientation of the first picture.
pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let first = first(bytes)?;
    let side = |tag| first.number(tag).and_then(|side| u32::try_from(side).ok()).unwrap_or(0);
    let orientation = first.number(ORIENTATION).and_then(|o| Orientation::from_exif(o.min(255) as u8));
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok(Header { width: side(WIDTH), height: side(HEIGHT), orientation })
}

/// The pixels of a TIFF whose dimensions are within the limits, and whether Pillow resizes them with nearest neighbour: palettes, and
/// 1 bit per pixel.
pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<(DynamicImage, bool)> {
    let first = first(bytes)?;
    if let Some((tag, count)) = first.excessive() {
        return Err(Fault::damaged(Kind::Tiff, format!("tag {tag} has {count} values")));
    }
    let layout = Layout::of(&first)?;
    // The decoder takes a part of a JPEG for all of it.
    if layout.is_jpeg()
        && !parts(&first, bytes.len()).is_some_and(|parts| parts.iter().all(|part| part.end <= bytes.len()))
    {
        return Err(Fault::Reason("is a TIFF that is cut short; load it anew".into()));
    }
    layout.refuse()?;
    let bytes = upright(bytes, &first, &layout)?;
    let mut file = Patched::new(&bytes);
    if !layout.may_predict() {
        file = file.with(&first, PREDICTOR, 1);
    }
    if let Some(meaning) = layout.meaning() {
        return meaning.decode(file, &first, &layout, limits);
    }
    let broken = |e| layout.fault(e);
    let mut decoder = TiffDecoder::new(BufReader::new(file)).map_err(broken)?;
    decoder.set_limits(limits).map_err(broken)?;
    let one_bit = decoder.original_color_type() == ExtendedColorType::L1;
    Ok((eight_bits(DynamicImage::from_decoder(decoder).map_err(broken)?), one_bit))
}

fn first(bytes: &[u8]) -> Result<Directory<'_>> {
    let first = File::open(bytes).and_then(|file| file.first());
    first.ok_or_else(|| Fault::damaged(Kind::Tiff, "it ends before its first directory"))
}

/// Where strips or tiles lie; `None` if together they are longer than the file.
fn parts(first: &Directory<'_>, length: usize) -> Option<Vec<std::ops::Range<usize>>> {
    let (places, sizes) = match first.numbers(STRIP_OFFSETS, length) {
        places if places.is_empty() => {
            (first.numbers(TILE_OFFSETS, length), first.numbers(TILE_BYTES, length))
        }
        places => (places, first.numbers(STRIP_BYTES, length)),
    };
    let total = sizes.iter().try_fold(0u64, |total, size| total.checked_add(*size))?;
    let part = |(place, size): (u64, u64)| {
        let (place, size) = (usize::try_from(place).ok()?, usize::try_from(size).ok()?);
        Some(place..place.checked_add(size)?)
    };
    if total > length as u64 { None } else { places.into_iter().zip(sizes).map(part).collect() }
}

/// The file with the bits of its picture data in the usual order: fax programs write the lowest first (FillOrder 2), which the decoder
/// does not know.
fn upright<'a>(bytes: &'a [u8], first: &Directory<'_>, layout: &Layout) -> Result<Cow<'a, [u8]>> {
    if first.number(FILL_ORDER) != Some(2) || layout.is_jpeg() {
        return Ok(Cow::Borrowed(bytes));
    }
    let cut = || Fault::Reason("is a TIFF that is cut short; load it anew".into());
    let mut turned = bytes.to_vec();
    for part in parts(first, bytes.len()).ok_or_else(cut)? {
        turned.get_mut(part).ok_or_else(cut)?.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    Ok(Cow::Owned(turned))
}
