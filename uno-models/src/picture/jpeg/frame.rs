//! Headers of frames and scans of a JPEG.

/// A frame header (SOF): dimensions and components.
pub(super) struct Frame {
    /// The marker, which says the process: 0xc0 baseline, 0xc1 extended, 0xc2 progressive.
    marker: u8,
    bits: u8,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) components: Vec<Component>,
}

/// A component of a frame.
pub(super) struct Component {
    id: u8,
    /// Horizontal sampling factor.
    pub(super) h: u32,
    /// Vertical sampling factor.
    pub(super) v: u32,
}

impl Frame {
    /// `None` if the payload is none of a frame header.
    pub(super) fn read(marker: u8, payload: &[u8]) -> Option<Self> {
        let (&[bits, h1, h0, w1, w0, count], components) = payload.split_first_chunk::<6>()?;
        let read = |c: &[u8; 3]| Component { id: c[0], h: u32::from(c[1] >> 4), v: u32::from(c[1] & 15) };
        let components: Vec<Component> =
            components.as_chunks::<3>().0.iter().take(usize::from(count)).map(read).collect();
        let sound = components.len() == usize::from(count) && !components.is_empty();
        let factors = components.iter().all(|c| (1..=4).contains(&c.h) && (1..=4).contains(&c.v));
        (sound && factors).then(|| Self {
            marker,
            bits,
            width: u32::from(u16::from_be_bytes([w1, w0])),
            height: u32::from(u16::from_be_bytes([h1, h0])),
            components,
        })
    }

    pub(super) fn is_progressive(&self) -> bool {
        self.marker == 0xc2
    }

    /// The name of what the decoder does not read, or reads wrongly, if it is of such a kind.
    pub(super) fn unreadable(&self) -> Option<String> {
        let kind = match self.marker {
            0xc0..=0xc2 if self.bits == 8 && self.height == 0 => {
                "without a height in its header (a DNL marker has it)"
            }
            0xc0..=0xc2 if self.bits == 8 => {
                let (count, most) = (self.components.len(), self.most());
                if !matches!(count, 1 | 3 | 4) {
                    return Some(format!("with {count} channels"));
                }
                let is_coarse = self.components.first().is_some_and(|first| (first.h, first.v) != most);
                match count > 1 && (is_coarse || self.components.iter().any(|c| c.h == 3 || c.v == 3)) {
                    true => "with an unusual subsampling of colours",
                    false => return None,
                }
            }
            0xc0..=0xc2 => return Some(format!("of {} bits per channel", self.bits)),
            0xc3 => "with lossless coding",
            0xc5..=0xc7 => "of the hierarchical kind",
            0xcb | 0xcf => "with lossless arithmetic coding",
            _ => "with arithmetic coding",
        };
        Some(kind.into())
    }

    /// Whether a scan of it is one that the decoder (zune-jpeg 0.5.15) puts in wrong places: of a part of the channels of a sequential
    /// JPEG whose colours are subsampled.
    pub(super) fn misplaces(&self, scan: &Scan) -> bool {
        let count = scan.components.len();
        let (h, v) = self.most();
        !self.is_progressive() && count < self.components.len() && (v > 1 || (h > 1 && count > 1))
    }

    /// The greatest sampling factors: horizontal, vertical.
    fn most(&self) -> (u32, u32) {
        let most = |factor: fn(&Component) -> u32| self.components.iter().map(factor).max().unwrap_or(1);
        (most(|c| c.h), most(|c| c.v))
    }

    /// Minimum coded units of a scan of several components: across, down.
    pub(super) fn units(&self) -> (u32, u32) {
        let (h, v) = self.most();
        (self.width.div_ceil(8 * h), self.height.div_ceil(8 * v))
    }

    /// Blocks of 8x8 samples of a component, as a scan of it alone has them: across, down.
    pub(super) fn blocks(&self, component: usize) -> (u32, u32) {
        let (h, v) = self.most();
        let Some(c) = self.components.get(component) else { return (0, 0) };
        ((self.width * c.h).div_ceil(h).div_ceil(8), (self.height * c.v).div_ceil(v).div_ceil(8))
    }
}

/// A scan header (SOS): which part of which coefficients of which components follows.
pub(super) struct Scan {
    /// Of each component: its place in the frame, and its Huffman tables for DC and AC.
    pub(super) components: Vec<(usize, usize, usize)>,
    /// First and last coefficient.
    pub(super) band: (usize, usize),
    /// Bit that came last before (0: none), and bit that comes now.
    pub(super) high: u8,
    pub(super) low: u8,
}

impl Scan {
    /// `None` if it does not fit the frame.
    pub(super) fn read(payload: &[u8], frame: &Frame) -> Option<Self> {
        let (&count, rest) = payload.split_first()?;
        let (components, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let place = |c: &[u8; 2]| {
            let place = frame.components.iter().position(|known| known.id == c[0])?;
            let (dc, ac) = (usize::from(c[1] >> 4), usize::from(c[1] & 15));
            (dc < 4 && ac < 4).then_some((place, dc, ac))
        };
        let components = components.as_chunks::<2>().0.iter().map(place).collect::<Option<Vec<_>>>()?;
        let &[start, end, bits] = rest.first_chunk::<3>()?;
        let (mut band, mut bits) = ((usize::from(start), usize::from(end)), (bits >> 4, bits & 15));
        if !frame.is_progressive() {
            (band, bits) = ((0, 63), (0, 0));
        }
        let sound = !components.is_empty()
            && band.0 <= band.1
            && band.1 <= 63
            // In progressive scans DC stands alone, and AC is of one component.
            && (!frame.is_progressive() || (band.0 == 0) == (band.1 == 0))
            && (band.0 == 0 || components.len() == 1);
        sound.then_some(Self { components, band, high: bits.0, low: bits.1 })
    }
}
