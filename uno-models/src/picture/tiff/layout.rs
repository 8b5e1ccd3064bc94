//! What the samples of a TIFF mean, after Pillow's table of modes (`TiffImagePlugin.OPEN_INFO`).

use image::{DynamicImage, ImageError, Limits};
use tiff::TiffError;
use tiff::decoder::{Decoder, DecodingResult};

use super::directory::{
    BITS, COLOUR_MAP, COMPRESSION, Directory, EXTRA_SAMPLES, HEIGHT, PHOTOMETRIC, PLANES, SAMPLE_FORMAT,
    SAMPLES, TILE_OFFSETS, WIDTH,
};
use super::patched::Patched;
use crate::picture::kind::Kind;
use crate::picture::samples::{coloured, image, scale, unpacked};
use crate::picture::{Fault, Result};

/// Most samples of a pixel.
const MAX_SAMPLES: u64 = 8;
const SAVE: &str = "save it as PNG, or as an RGB TIFF of 8 bits per channel";

/// How samples are stored.
pub(super) struct Layout {
    photometric: u64,
    compression: u64,
    /// 1 for unsigned numbers, 2 for signed, 3 for floating point.
    format: u64,
    /// Bits of each sample.
    bits: u64,
    /// Samples of a pixel.
    samples: u64,
    /// What those behind the colours are: 0 nothing known, 1 alpha that colours are multiplied with, 2 alpha.
    extra: Vec<u64>,
    /// Whether each sample has tiles of its own.
    has_planar_tiles: bool,
}

/// What colours a picture has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    Grey { inverted: bool },
    Palette,
    Rgb,
}

/// What a fourth sample of RGB, a second one of grey, is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alpha {
    None,
    Straight,
    /// The colours are multiplied with it.
    Associated,
}

/// What samples mean, where that is one of the modes that are read here.
pub(super) struct Meaning {
    colours: Colours,
    alpha: Alpha,
    bits: u8,
    samples: usize,
}

impl Layout {
    pub(super) fn of(first: &Directory<'_>) -> Result<Self> {
        let number = |tag, default| first.number(tag).unwrap_or(default);
        let samples = number(SAMPLES, 1);
        let bits = first.numbers(BITS, MAX_SAMPLES as usize);
        let bit = bits.first().copied().unwrap_or(1);
        if samples > MAX_SAMPLES || bits.iter().take(samples as usize).any(|other| *other != bit) {
            let list = bits.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            return Err(Fault::unreadable(
                format!("is a TIFF with {samples} samples of {list} bits per pixel"),
                SAVE,
            ));
        }
        Ok(Self {
            photometric: number(PHOTOMETRIC, 0),
            compression: number(COMPRESSION, 1),
            format: number(SAMPLE_FORMAT, 1),
            bits: bit,
            samples,
            extra: first.numbers(EXTRA_SAMPLES, MAX_SAMPLES as usize),
            has_planar_tiles: samples > 1 && first.number(PLANES) == Some(2) && first.has(TILE_OFFSETS),
        })
    }

    pub(super) fn is_jpeg(&self) -> bool {
        self.compression == 7
    }

    /// `None` for kinds that are left to the `image` crate, which reads or refuses them.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        let colours = match self.photometric {
            0 | 1 => Colours::Grey { inverted: self.photometric == 0 },
            2 => Colours::Rgb,
            3 => Colours::Palette,
            _ => return None,
        };
        let count = if colours == Colours::Rgb { 3 } else { 1 };
        let alpha = match (self.samples.checked_sub(count)?, self.extra.first()) {
            (0, _) => Alpha::None,
            // 999 is Corel Draw's. Where nothing is said, one sample more is taken for alpha.
            (_, Some(2 | 999)) | (1, None) => Alpha::Straight,
            (_, Some(1)) => Alpha::Associated,
            (_, Some(_)) => Alpha::None,
            (_, None) => return None,
        };
        let bits = match (self.bits, self.samples) {
            (1 | 2 | 4, 1) | (8, _) => self.bits as u8,
            (16, _) if colours != Colours::Palette => 16,
            _ => return None,
        };
        let is_ours = self.format == 1 && !self.is_jpeg();
        is_ours.then_some(Meaning { colours, alpha, bits, samples: self.samples as usize })
    }

    /// Whether differences of neighbours may be stored: only these compressions know of a predictor, and the tag counts for nothing
    /// with others.
    pub(super) fn may_predict(&self) -> bool {
        matches!(self.compression, 5 | 8 | 32946 | 34925 | 50000)
    }

    /// What the decoder would fail at.
    pub(super) fn refuse(&self) -> Result<()> {
        if self.has_planar_tiles {
            return Err(Fault::unreadable(format!("is a TIFF with {self}, in tiles of one sample"), SAVE));
        }
        Ok(())
    }

    /// What an error of the `image` crate is to people.
    pub(super) fn fault(&self, error: ImageError) -> Fault {
        match error {
            ImageError::Unsupported(_) => self.unreadable(),
            other => other.into(),
        }
    }

    /// The same for the decoder below it.
    fn decoder_fault(&self, error: TiffError) -> Fault {
        match error {
            TiffError::UnsupportedError(_) => self.unreadable(),
            other => Fault::damaged(Kind::Tiff, other),
        }
    }

    fn unreadable(&self) -> Fault {
        Fault::unreadable(format!("is a TIFF with {self}"), SAVE)
    }
}

impl std::fmt::Display for Layout {
    /// Colours, numbers, and compression, for errors.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.photometric {
            0 | 1 => f.write_str("grey")?,
            2 => f.write_str("RGB")?,
            3 => f.write_str("palette")?,
            4 => f.write_str("mask")?,
            5 => f.write_str("CMYK")?,
            6 => f.write_str("YCbCr")?,
            8..=10 => f.write_str("L*a*b*")?,
            other => write!(f, "unknown ({other})")?,
        }
        let numbers = match self.format {
            2 => "signed ",
            3 => "floating-point ",
            5 | 6 => "complex ",
            _ => "",
        };
        let plural = if self.samples == 1 { "" } else { "s" };
        write!(f, " colours, {} {numbers}sample{plural} of {} bits", self.samples, self.bits)?;
        match self.compression {
            1 => Ok(()),
            2..=4 => f.write_str(", fax compression"),
            5 => f.write_str(", LZW compression"),
            6 => f.write_str(", old-style JPEG compression"),
            7 => f.write_str(", JPEG compression"),
            8 | 32946 => f.write_str(", deflate compression"),
            32773 => f.write_str(", PackBits compression"),
            34925 => f.write_str(", LZMA compression"),
            50000 => f.write_str(", Zstandard compression"),
            50001 => f.write_str(", WebP compression"),
            50002 => f.write_str(", JPEG XL compression"),
            33003 | 33005 | 34712 => f.write_str(", JPEG 2000 compression"),
            other => write!(f, ", compression {other}"),
        }
    }
}

impl Meaning {
    /// The pixels, and whether Pillow resizes them with nearest neighbour.
    pub(super) fn decode(
        &self,
        file: Patched<'_>,
        first: &Directory<'_>,
        layout: &Layout,
        limits: Limits,
    ) -> Result<(DynamicImage, bool)> {
        let side = |tag| first.number(tag).unwrap_or(0) as u32;
        let (width, height) = (side(WIDTH), side(HEIGHT));
        let palette = palette(first);
        if self.colours == Colours::Palette && palette.is_empty() {
            return Err(Fault::damaged(Kind::Tiff, "it lacks its palette"));
        }
        // Told to be grey, samples come as they are: the decoder reads no palettes, and undoes the predictor wrongly where it leaves
        // samples out.
        let samples = self.samples(file.with(first, PHOTOMETRIC, 1), width as usize, layout, limits)?;
        let (pixels, channels) = match (self.colours, self.alpha) {
            (Colours::Palette, _) => (coloured(samples.into_iter(), &palette), 3),
            (Colours::Grey { inverted }, Alpha::None) => {
                let scale = scale(self.bits);
                (samples.into_iter().map(|s| if inverted { 255 - s * scale } else { s * scale }).collect(), 1)
            }
            (Colours::Rgb, Alpha::None) => (samples, 3),
            (colours, alpha) => {
                let channels = if colours == Colours::Rgb { 4 } else { 2 };
                let mut samples = samples;
                for pixel in samples.chunks_exact_mut(channels) {
                    self.separate(pixel, alpha);
                }
                (samples, channels)
            }
        };
        let decoded = image(width, height, channels, pixels);
        let decoded = decoded.ok_or_else(|| Fault::damaged(Kind::Tiff, "its rows are not whole"))?;
        let one_bit = self.bits == 1;
        Ok((decoded, one_bit || self.colours == Colours::Palette))
    }

    /// Turns colours around that count from white, and divides those that are multiplied with alpha by it.
    fn separate(&self, pixel: &mut [u8], alpha: Alpha) {
        let Some((&mut a, colours)) = pixel.split_last_mut() else { return };
        for c in colours {
            if self.colours == (Colours::Grey { inverted: true }) {
                *c = 255 - *c;
            }
            if alpha == Alpha::Associated {
                // As Pillow unpacks its raw mode RGBa.
                *c = (u32::from(*c) * 255).checked_div(u32::from(a)).unwrap_or(0).min(255) as u8;
            }
        }
    }

    /// Colours and alpha of all pixels by turns, 8 bits at most, as stored.
    fn samples(&self, file: Patched<'_>, width: usize, layout: &Layout, limits: Limits) -> Result<Vec<u8>> {
        let broken = |e| layout.decoder_fault(e);
        let mut room = tiff::decoder::Limits::default();
        room.decoding_buffer_size =
            limits.max_alloc.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        room.intermediate_buffer_size = room.decoding_buffer_size;
        let mut decoder = Decoder::new(file).map_err(broken)?.with_limits(room);
        let mut result = DecodingResult::U8(Vec::new());
        let stored = decoder.read_image_to_buffer(&mut result).map_err(broken)?;
        let (raw, size) = match result {
            DecodingResult::U8(raw) => (raw, 1),
            DecodingResult::U16(raw) => (raw.into_iter().map(|sample| (sample >> 8) as u8).collect(), 2),
            _ => return Err(layout.unreadable()),
        };
        if raw.len() * size < stored.complete_len {
            return Err(Fault::damaged(Kind::Tiff, "it takes too much memory"));
        }
        if self.bits < 8 {
            let stride = stored.row_stride.map_or(1, usize::from);
            return Ok(raw
                .chunks_exact(stride)
                .flat_map(|row| unpacked(row, self.bits).take(width))
                .collect());
        }
        let colours = if self.colours == Colours::Rgb { 3 } else { 1 };
        let kept = match self.colours {
            Colours::Palette => 1,
            _ => colours + usize::from(self.alpha != Alpha::None),
        };
        if stored.planes > 1 {
            let plane = stored.plane_stride.map_or(1, usize::from) / size;
            let planes: Vec<&[u8]> = raw.chunks_exact(plane).take(kept).collect();
            return Ok((0..plane)
                .flat_map(|i| planes.iter().filter_map(move |plane| plane.get(i).copied()))
                .collect());
        }
        if kept == self.samples {
            return Ok(raw);
        }
        Ok(raw.chunks_exact(self.samples).flat_map(|pixel| pixel[..kept].iter().copied()).collect())
    }
}

/// R, G, B by turns, from the reds, the greens and the blues of 16 bits in the file.
fn palette(first: &Directory<'_>) -> Vec<u8> {
    let map = first.numbers(COLOUR_MAP, 3 << 8);
    let count = map.len() / 3;
    (0..count).flat_map(|i| [i, count + i, 2 * count + i]).map(|i| (map[i] >> 8) as u8).collect()
}
