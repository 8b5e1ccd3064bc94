//! The block codecs of GGML: numbers stored as small whole numbers with a scale per block, as in GGUF files.
//!
//! [`expand`] turns blocks into f32 numbers, bit for bit as `gguf.quants.dequantize` of the Python package `gguf`
//! does; [`pack`] makes blocks. A block is the unit of storage: 32 numbers with one f16 scale (`Q4_0` to `Q8_0`), or
//! 256 numbers whose sub-blocks of 16 or 32 have small whole scales of their own (the K types).

mod fit;
mod k_quants;
mod pack;
mod simple;

use std::fmt;
use std::str::FromStr;

/// A block type, named as in GGUF files (there the K types are written `Q4_K`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgmlType {
    /// 4 bits, a scale per 32 numbers.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32 numbers.
    Q4_1,
    /// 5 bits, a scale per 32 numbers.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32 numbers.
    Q5_1,
    /// 8 bits, a scale per 32 numbers.
    Q8_0,
    /// 2 bits, a 4-bit scale and minimum per 16 numbers.
    Q2K,
    /// 3 bits, a 6-bit scale per 16 numbers.
    Q3K,
    /// 4 bits, a 6-bit scale and minimum per 32 numbers.
    Q4K,
    /// 5 bits, a 6-bit scale and minimum per 32 numbers.
    Q5K,
    /// 6 bits, an 8-bit scale per 16 numbers.
    Q6K,
}

impl GgmlType {
    /// Every type this module reads and writes.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// How many numbers one block holds: 32, or 256 for the K types.
    pub const fn block_len(self) -> usize {
        self.row().2
    }

    /// How many bytes one block takes.
    pub const fn block_bytes(self) -> usize {
        self.row().3
    }

    /// The type's number in GGUF files (`enum ggml_type`).
    pub const fn id(self) -> u32 {
        self.row().1
    }

    /// The type with this GGUF number; `None` for a type this module does not know.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The GGUF name, as in `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Name, GGUF number, numbers per block, bytes per block.
    const fn row(self) -> (&'static str, u32, usize, usize) {
        match self {
            Self::Q4_0 => ("Q4_0", 2, 32, 18),
            Self::Q4_1 => ("Q4_1", 3, 32, 20),
            Self::Q5_0 => ("Q5_0", 6, 32, 22),
            Self::Q5_1 => ("Q5_1", 7, 32, 24),
            Self::Q8_0 => ("Q8_0", 8, 32, 34),
            Self::Q2K => ("Q2_K", 10, 256, 84),
            Self::Q3K => ("Q3_K", 11, 256, 110),
            Self::Q4K => ("Q4_K", 12, 256, 144),
            Self::Q5K => ("Q5_K", 13, 256, 176),
            Self::Q6K => ("Q6_K", 14, 256, 210),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`GgmlType`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownGgmlType(
    /// The name as it was given.
    pub String,
);

impl fmt::Display for UnknownGgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no known GGML block type (known: ", self.0)?;
        for (i, kind) in GgmlType::ALL.iter().enumerate() {
            write!(f, "{}{kind}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for UnknownGgmlType {}

impl FromStr for GgmlType {
    type Err = UnknownGgmlType;

    /// Reads a GGUF name in any letter case.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownGgmlType(name.to_owned()))
    }
}

/// Expands the blocks in `bytes` into `out`.
///
/// Returns false, with `out` untouched, unless `bytes` is whole blocks and `out` holds exactly their numbers (none and
/// none is fine). Every byte pattern is a valid block; a scale that is not finite gives numbers that are not finite.
#[must_use]
pub fn expand(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> bool {
    match kind {
        GgmlType::Q4_0 => each_block(bytes, out, simple::q4_0),
        GgmlType::Q4_1 => each_block(bytes, out, simple::q4_1),
        GgmlType::Q5_0 => each_block(bytes, out, simple::q5_0),
        GgmlType::Q5_1 => each_block(bytes, out, simple::q5_1),
        GgmlType::Q8_0 => each_block(bytes, out, simple::q8_0),
        GgmlType::Q2K => each_block(bytes, out, k_quants::q2_k),
        GgmlType::Q3K => each_block(bytes, out, k_quants::q3_k),
        GgmlType::Q4K => each_block(bytes, out, k_quants::q4_k),
        GgmlType::Q5K => each_block(bytes, out, k_quants::q5_k),
        GgmlType::Q6K => each_block(bytes, out, k_quants::q6_k),
    }
}

/// Packs numbers into blocks; `None` unless they fill whole blocks.
///
/// The simple types come out byte for byte as `gguf.quants.quantize` writes them (finite numbers whose scale is no
/// subnormal f32; the sign of a zero minimum is numpy's choice). The K types search the scales for a
/// small squared error, the same on every machine. A block with a number that is not finite, or too large for an f16
/// scale, expands to numbers that are not finite, so the damage stays visible; callers who want an error check first.
pub fn pack(kind: GgmlType, numbers: &[f32]) -> Option<Vec<u8>> {
    match kind {
        GgmlType::Q4_0 => pack_blocks(numbers, pack::q4_0),
        GgmlType::Q4_1 => pack_blocks(numbers, pack::q4_1),
        GgmlType::Q5_0 => pack_blocks(numbers, pack::q5_0),
        GgmlType::Q5_1 => pack_blocks(numbers, pack::q5_1),
        GgmlType::Q8_0 => pack_blocks(numbers, pack::q8_0),
        GgmlType::Q2K => pack_blocks(numbers, pack::q2_k),
        GgmlType::Q3K => pack_blocks(numbers, pack::q3_k),
        GgmlType::Q4K => pack_blocks(numbers, pack::q4_k),
        GgmlType::Q5K => pack_blocks(numbers, pack::q5_k),
        GgmlType::Q6K => pack_blocks(numbers, pack::q6_k),
    }
}

/// Runs `one` over the blocks of `B` bytes and `N` numbers; false if they do not pair up.
fn each_block<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    one: impl Fn(&[u8; B], &mut [f32; N]),
) -> bool {
    let (blocks, odd_bytes) = bytes.as_chunks::<B>();
    let (outs, odd_numbers) = out.as_chunks_mut::<N>();
    if blocks.len() != outs.len() || !odd_bytes.is_empty() || !odd_numbers.is_empty() {
        return false;
    }
    for (block, out) in blocks.iter().zip(outs) {
        one(block, out);
    }
    true
}

/// Runs `one` over the blocks of `N` numbers; `None` if some are left over.
fn pack_blocks<const B: usize, const N: usize>(
    numbers: &[f32],
    one: impl Fn(&[f32; N]) -> [u8; B],
) -> Option<Vec<u8>> {
    let (blocks, odd_numbers) = numbers.as_chunks::<N>();
    if !odd_numbers.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(blocks.len().checked_mul(B)?);
    for block in blocks {
        bytes.extend_from_slice(&one(block));
    }
    Some(bytes)
}
