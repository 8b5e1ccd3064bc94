//! A TIFF in which the decoder reads other numbers than the file has.

use std::io::{self, Read, Seek, SeekFrom};

use super::directory::Directory;

/// A file, with bytes that stand for others.
#[derive(Clone)]
pub(super) struct Patched<'a> {
    bytes: &'a [u8],
    at: u64,
    patches: Vec<(usize, Vec<u8>)>,
}

impl<'a> Patched<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, patches: Vec::new() }
    }

    /// The same with another first number of a tag; nothing changes if it is not there.
    pub(super) fn with(mut self, first: &Directory<'_>, tag: u16, number: u8) -> Self {
        let Some((place, size)) = first.place(tag) else { return self };
        let mut digits = vec![0; size];
        let lowest = if first.is_big_endian() { size.checked_sub(1) } else { Some(0) };
        if let Some(digit) = lowest.and_then(|i| digits.get_mut(i)) {
            *digit = number;
        }
        self.patches.push((place, digits));
        self
    }
}

impl Read for Patched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(self.at).unwrap_or(usize::MAX).min(self.bytes.len());
        let count = into.len().min(self.bytes.len() - start);
        into[..count].copy_from_slice(&self.bytes[start..start + count]);
        for (place, digits) in &self.patches {
            for (place, digit) in (*place..).zip(digits) {
                if let Some(byte) = place.checked_sub(start).and_then(|i| into[..count].get_mut(i)) {
                    *byte = *digit;
                }
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Patched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => (self.bytes.len() as u64).checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
