//! Packing numbers into blocks. The simple types follow `gguf.quants.quantize` to the bit, which is why their
//! rounding is spelled out; the K types take their scales from [`super::fit`] and only lay out the bits here.

use half::f16;

use super::fit::{affine, scaled};

/// `Q4_0`: the number furthest from zero becomes -8.
pub(super) fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let d = furthest(x) / -8.0;
    let inverse = inverse(d);
    let quants = x.map(|x| ((x * inverse + 8.5) as u8).min(15));
    let mut block = [0; 18];
    block[..2].copy_from_slice(&half_bytes(d));
    block[2..].copy_from_slice(&nibbles(&quants));
    block
}

/// `Q4_1`: the range of the numbers in 15 steps.
pub(super) fn q4_1(x: &[f32; 32]) -> [u8; 20] {
    let (min, max) = ends(x);
    let d = (max - min) / 15.0;
    let inverse = inverse(d);
    let quants = x.map(|x| (((x - min) * inverse + 0.5) as u8).min(15));
    let mut block = [0; 20];
    block[..2].copy_from_slice(&half_bytes(d));
    block[2..4].copy_from_slice(&half_bytes(min));
    block[4..].copy_from_slice(&nibbles(&quants));
    block
}

/// `Q5_0`: the number furthest from zero becomes -16.
pub(super) fn q5_0(x: &[f32; 32]) -> [u8; 22] {
    let d = furthest(x) / -16.0;
    let inverse = inverse(d);
    let quants = x.map(|x| ((x * inverse + 16.5) as u8).min(31));
    let mut block = [0; 22];
    block[..2].copy_from_slice(&half_bytes(d));
    block[2..6].copy_from_slice(&fifth_bits(&quants));
    block[6..].copy_from_slice(&nibbles(&quants));
    block
}

/// `Q5_1`: the range of the numbers in 31 steps.
pub(super) fn q5_1(x: &[f32; 32]) -> [u8; 24] {
    let (min, max) = ends(x);
    let d = (max - min) / 31.0;
    let inverse = inverse(d);
    let quants = x.map(|x| (((x - min) * inverse + 0.5) as u8).min(31));
    let mut block = [0; 24];
    block[..2].copy_from_slice(&half_bytes(d));
    block[2..4].copy_from_slice(&half_bytes(min));
    block[4..8].copy_from_slice(&fifth_bits(&quants));
    block[8..].copy_from_slice(&nibbles(&quants));
    block
}

/// `Q8_0`: the number furthest from zero becomes 127 or -127.
pub(super) fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let d = furthest(x).abs() / 127.0;
    let inverse = inverse(d);
    let mut block = [0; 34];
    block[..2].copy_from_slice(&half_bytes(d));
    for (byte, x) in block[2..].iter_mut().zip(x) {
        *byte = half_away(x * inverse) as u8;
    }
    block
}

/// `Q2_K`: see [`super::k_quants::q2_k`].
pub(super) fn q2_k(x: &[f32; 256]) -> [u8; 84] {
    let fit = affine::<16, 16>(x, 3.0, 15.0);
    let mut block = [0; 84];
    for (i, byte) in block[..16].iter_mut().enumerate() {
        *byte = fit.scales[i] | fit.mins[i] << 4;
    }
    block[16..80].copy_from_slice(&two_bits(&fit.quants));
    block[80..82].copy_from_slice(&fit.d.to_le_bytes());
    block[82..].copy_from_slice(&fit.dmin.to_le_bytes());
    block
}

/// `Q3_K`: see [`super::k_quants::q3_k`].
pub(super) fn q3_k(x: &[f32; 256]) -> [u8; 110] {
    let fit = scaled(x, 4.0, 32.0);
    let mut block = [0; 110];
    for (i, quant) in fit.quants.iter().enumerate() {
        block[i % 32] |= (quant >> 2) << (i / 32);
    }
    block[32..96].copy_from_slice(&two_bits(&fit.quants.map(|quant| quant & 3)));
    for (i, scale) in fit.scales.iter().enumerate() {
        let scale = scale.saturating_add(32) as u8;
        block[96 + i % 8] |= (scale & 15) << (i / 8 * 4);
        block[104 + i % 4] |= (scale >> 4) << (i / 4 * 2);
    }
    block[108..].copy_from_slice(&fit.d.to_le_bytes());
    block
}

/// `Q4_K`: see [`super::k_quants::q4_k`].
pub(super) fn q4_k(x: &[f32; 256]) -> [u8; 144] {
    let fit = affine::<32, 8>(x, 15.0, 63.0);
    let mut block = [0; 144];
    block[..2].copy_from_slice(&fit.d.to_le_bytes());
    block[2..4].copy_from_slice(&fit.dmin.to_le_bytes());
    block[4..16].copy_from_slice(&six_bits(&fit.scales, &fit.mins));
    block[16..].copy_from_slice(&row_nibbles(&fit.quants));
    block
}

/// `Q5_K`: see [`super::k_quants::q5_k`].
pub(super) fn q5_k(x: &[f32; 256]) -> [u8; 176] {
    let fit = affine::<32, 8>(x, 31.0, 63.0);
    let mut block = [0; 176];
    block[..2].copy_from_slice(&fit.d.to_le_bytes());
    block[2..4].copy_from_slice(&fit.dmin.to_le_bytes());
    block[4..16].copy_from_slice(&six_bits(&fit.scales, &fit.mins));
    for (i, quant) in fit.quants.iter().enumerate() {
        block[16 + i % 32] |= (quant >> 4) << (i / 32);
    }
    block[48..].copy_from_slice(&row_nibbles(&fit.quants));
    block
}

/// `Q6_K`: see [`super::k_quants::q6_k`].
pub(super) fn q6_k(x: &[f32; 256]) -> [u8; 210] {
    let fit = scaled(x, 32.0, 128.0);
    let mut block = [0; 210];
    for (i, quant) in fit.quants.iter().enumerate() {
        let (part, row, column) = (i / 128, i / 32 % 4, i % 32);
        block[part * 64 + row % 2 * 32 + column] |= (quant & 15) << (row / 2 * 4);
        block[128 + part * 32 + column] |= (quant >> 4) << (row * 2);
    }
    for (byte, scale) in block[192..208].iter_mut().zip(fit.scales) {
        *byte = scale as u8;
    }
    block[208..].copy_from_slice(&fit.d.to_le_bytes());
    block
}

/// The first of the numbers furthest from zero, with its sign; NaN where there is one, as in numpy.
fn furthest(x: &[f32; 32]) -> f32 {
    x[1..].iter().fold(x[0], |a, b| if b.abs() > a.abs() || b.is_nan() { *b } else { a })
}

/// The least and the greatest number; NaN where there is one, as in numpy.
fn ends(x: &[f32; 32]) -> (f32, f32) {
    x[1..].iter().fold((x[0], x[0]), |(min, max), x| {
        (if *x < min || x.is_nan() { *x } else { min }, if *x > max || x.is_nan() { *x } else { max })
    })
}

/// `1 / x`, and zero for zero.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Rounds to the nearest whole number, halves away from zero; kept within a signed byte, zero for NaN.
fn half_away(x: f32) -> i8 {
    let whole = x as i8;
    // The rest is exact, so that doubling it tells a half from less than a half.
    whole.saturating_add(((x - f32::from(whole)) * 2.0) as i8)
}

/// The bytes of a number rounded to f16.
fn half_bytes(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// 32 numbers by their low four bits: the first half in the low bits of 16 bytes, the second in the high.
fn nibbles(quants: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| (quants[i] & 15) | quants[i + 16] << 4)
}

/// The fifth bits of 32 numbers.
fn fifth_bits(quants: &[u8; 32]) -> [u8; 4] {
    let bits =
        quants.iter().enumerate().fold(0_u32, |bits, (i, quant)| bits | u32::from(quant >> 4 & 1) << i);
    bits.to_le_bytes()
}

/// 256 numbers of two bits: rows of 32, four rows share 32 bytes, the first in the lowest bits.
fn two_bits(quants: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let at = i / 32 * 128 + i % 32;
        (0..4).fold(0, |byte, row| byte | (quants[at + row * 32] & 3) << (row * 2))
    })
}

/// 256 numbers by their low four bits: rows of 32, two rows share 32 bytes.
fn row_nibbles(quants: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let at = i / 32 * 64 + i % 32;
        (quants[at] & 15) | quants[at + 32] << 4
    })
}

/// Eight scales and eight minimums of six bits, as `Q4_K` and `Q5_K` keep them.
fn six_bits(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        packed[i + 8] = (scales[i + 4] & 15) | mins[i + 4] << 4;
    }
    packed
}
