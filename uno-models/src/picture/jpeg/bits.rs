//! Bits and Huffman codes of a JPEG's picture data.

/// Why no more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The data ends: at a marker, or with the file.
    Ends,
    /// It is no code of the table.
    Damaged,
}

/// The bits between two markers.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to take.
    at: usize,
    /// The bits that were taken and not used, the first of them on top.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    /// Takes bytes until a marker, the end, or as many as can be held.
    fn fill(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            self.at += 1;
            if byte == 0xff {
                // 0 after it says that it is no marker.
                if self.bytes.get(self.at) != Some(&0) {
                    self.at -= 1;
                    return;
                }
                self.at += 1;
            }
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Up to 16 bits.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, Stop> {
        if self.count < count {
            self.fill();
            if self.count < count {
                return Err(Stop::Ends);
            }
        }
        let bits = if count == 0 { 0 } else { (self.held >> (64 - count)) as u32 };
        self.held <<= count;
        self.count -= count;
        Ok(bits)
    }

    /// The symbol of the code that is next.
    pub(super) fn symbol(&mut self, table: &Huffman) -> Result<u8, Stop> {
        if self.count < 16 {
            self.fill();
        }
        // Behind the last bit there are zeros.
        let window = (self.held >> 48) as u16;
        let (length, symbol) =
            table.find(window).ok_or(if self.count < 16 { Stop::Ends } else { Stop::Damaged })?;
        self.take(length)?;
        Ok(symbol)
    }

    /// Goes behind a restart marker, over what is left before it. False if another marker or the end of the file is next.
    pub(super) fn restart(&mut self) -> bool {
        let mut at = self.at;
        loop {
            match self.bytes.get(at..) {
                Some([0xff, 0xd0..=0xd7, ..]) => {
                    *self = Self::new(self.bytes, at + 2);
                    return true;
                }
                Some([0xff, 0x01..=0xfe, ..]) | Some([] | [0xff]) | None => return false,
                Some(_) => at += 1,
            }
        }
    }

    /// The place of the first byte that was not taken.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// Whether all bits up to a marker or the end are used, but for the ones that fill the last byte.
    pub(super) fn are_used_up(&mut self) -> bool {
        self.fill();
        self.count < 8 && self.held.leading_ones() >= self.count
    }
}

/// How many bits the table of short codes covers.
const SHORT: u32 = 9;

/// A Huffman table: the symbols of codes of up to 16 bits.
pub(super) struct Huffman {
    /// Length and symbol by the first 9 bits; length 0 for longer codes.
    short: Box<[(u8, u8); 1 << SHORT]>,
    /// Of each length from 1: the end of its codes, to the left of 16 bits, and what its place is reckoned from.
    lengths: [(u32, i32); 16],
    symbols: Vec<u8>,
}

impl Huffman {
    /// Reads the tables of a DHT segment; `to` gets class (0: DC, 1: AC), number and table of each. False if it is damaged.
    pub(super) fn read(mut payload: &[u8], mut to: impl FnMut(u8, usize, Self)) -> bool {
        while let Some((&[kind], rest)) = payload.split_first_chunk::<1>() {
            let Some((counts, rest)) = rest.split_first_chunk::<16>() else { return false };
            let total = counts.iter().map(|c| usize::from(*c)).sum::<usize>();
            let Some((symbols, rest)) = rest.split_at_checked(total) else { return false };
            let (class, number) = (kind >> 4, usize::from(kind & 15));
            if class > 1 || number > 3 || total > 256 {
                return false;
            }
            let Some(table) = Self::new(counts, symbols) else { return false };
            to(class, number, table);
            payload = rest;
        }
        true
    }

    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut short = Box::new([(0, 0); 1 << SHORT]);
        let (mut lengths, mut code, mut place) = ([(0, 0); 16], 0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            lengths[length as usize - 1].1 = place as i32 - code as i32;
            for _ in 0..*count {
                if code >= 1 << length {
                    return None;
                }
                if length <= SHORT {
                    let first = (code << (SHORT - length)) as usize;
                    short[first..first + (1 << (SHORT - length))].fill((length as u8, *symbols.get(place)?));
                }
                (code, place) = (code + 1, place + 1);
            }
            lengths[length as usize - 1].0 = code << (16 - length);
            code <<= 1;
        }
        Some(Self { short, lengths, symbols: symbols.to_vec() })
    }

    /// Length and symbol of the code at the top.
    fn find(&self, window: u16) -> Option<(u32, u8)> {
        let (length, symbol) = self.short[usize::from(window >> (16 - SHORT))];
        if length > 0 {
            return Some((u32::from(length), symbol));
        }
        for (length, (end, place)) in (1u32..).zip(&self.lengths).skip(SHORT as usize) {
            if u32::from(window) < *end {
                let code = i32::from(window >> (16 - length));
                return Some((length, *self.symbols.get(usize::try_from(code + place).ok()?)?));
            }
        }
        None
    }
}
