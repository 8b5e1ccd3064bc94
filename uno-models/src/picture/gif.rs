//! GIF: the first frame, as Pillow shows it.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};
use image::DynamicImage;
use image::metadata::Orientation;

use super::header::Header;
use super::kind::Kind;
use super::{Fault, Result, samples};

/// What is said of the first frame.
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    transparent: Option<u8>,
    /// Its own palette, or the one for all frames: R, G, B by turns.
    palette: Vec<u8>,
}

impl Frame {
    /// Width and height of the screen, which a frame that reaches beyond it makes larger.
    fn screen(&self, decoder: &Decoder<Cursor<&[u8]>>) -> (usize, usize) {
        let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
        (width.max(self.left + self.width), height.max(self.top + self.height))
    }
}

/// Width and height, with what the first frame adds to the screen.
pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let (decoder, frame) = open(bytes, u64::MAX)?;
    let (width, height) = frame.screen(&decoder);
    Ok(Header { width: width as u32, height: height as u32, orientation: Orientation::NoTransforms })
}

/// The pixels, and whether Pillow resizes them with nearest neighbour: unless the palette is that of greys, which counts as none.
///
/// What the first frame leaves free of the screen has the transparent index if there is one, else index 0, as Pillow fills it (and
/// not the screen's background index). Transparency itself is dropped.
pub(super) fn decode(bytes: &[u8], max_alloc: u64) -> Result<(DynamicImage, bool)> {
    let (mut decoder, frame) = open(bytes, max_alloc)?;
    let (width, height) = frame.screen(&decoder);
    let mut pixels = vec![0; frame.width * frame.height];
    decoder.read_into_buffer(&mut pixels).map_err(damaged)?;
    let mut screen = vec![frame.transparent.unwrap_or(0); width * height];
    for (y, row) in pixels.chunks_exact(frame.width.max(1)).enumerate() {
        let start = (frame.top + y) * width + frame.left;
        screen[start..start + frame.width].copy_from_slice(row);
    }
    let is_grey = frame.palette.as_chunks::<3>().0.iter().zip(0..).all(|(colour, i)| *colour == [i; 3]);
    let (channels, samples) = match is_grey {
        true => (1, screen),
        false => (3, samples::coloured(screen.into_iter(), &frame.palette)),
    };
    let decoded = samples::image(width as u32, height as u32, channels, samples);
    Ok((decoded.ok_or_else(|| Fault::damaged(Kind::Gif, "its rows are not whole"))?, !is_grey))
}

/// A decoder that has come to the data of the first frame.
fn open(bytes: &[u8], max_alloc: u64) -> Result<(Decoder<Cursor<&[u8]>>, Frame)> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(NonZeroU64::new(max_alloc).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(damaged)?;
    let frame = decoder.next_frame_info().map_err(damaged)?;
    let frame = frame.ok_or_else(|| Fault::damaged(Kind::Gif, "it has no frame"))?;
    let mut found = Frame {
        left: frame.left.into(),
        top: frame.top.into(),
        width: frame.width.into(),
        height: frame.height.into(),
        transparent: frame.transparent,
        palette: Vec::new(),
    };
    found.palette = decoder.palette().map_err(damaged)?.to_vec();
    Ok((decoder, found))
}

fn damaged(error: DecodingError) -> Fault {
    Fault::damaged(Kind::Gif, error)
}
