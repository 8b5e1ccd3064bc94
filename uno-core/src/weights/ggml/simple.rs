//! Expanding the simple types: 32 numbers, one f16 scale, for some an f16 minimum.
//!
//! The first half of a block's numbers sits in the low four bits of its bytes, the second half in the high four.

use half::f16;

/// An f16 out of two bytes, low byte first.
pub(super) fn half_at(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// `Q4_0`: scale, 16 bytes of 4-bit numbers that count from -8.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let [d0, d1, quants @ ..] = block;
    let d = half_at(*d0, *d1);
    let (low, high) = halves(out);
    for ((byte, low), high) in quants.iter().zip(low).zip(high) {
        *low = d * (i32::from(byte & 15) - 8) as f32;
        *high = d * (i32::from(byte >> 4) - 8) as f32;
    }
}

/// `Q4_1`: scale, minimum, 16 bytes of 4-bit numbers.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, quants @ ..] = block;
    let (d, m) = (half_at(*d0, *d1), half_at(*m0, *m1));
    let (low, high) = halves(out);
    for ((byte, low), high) in quants.iter().zip(low).zip(high) {
        *low = d * f32::from(byte & 15) + m;
        *high = d * f32::from(byte >> 4) + m;
    }
}

/// `Q5_0`: scale, 32 fifth bits, 16 bytes of low bits; the numbers count from -16.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let [d0, d1, h0, h1, h2, h3, quants @ ..] = block;
    let d = half_at(*d0, *d1);
    for (out, quant) in out.iter_mut().zip(five_bits([*h0, *h1, *h2, *h3], quants)) {
        *out = d * (quant - 16) as f32;
    }
}

/// `Q5_1`: scale, minimum, 32 fifth bits, 16 bytes of low bits.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, quants @ ..] = block;
    let (d, m) = (half_at(*d0, *d1), half_at(*m0, *m1));
    for (out, quant) in out.iter_mut().zip(five_bits([*h0, *h1, *h2, *h3], quants)) {
        *out = d * quant as f32 + m;
    }
}

/// `Q8_0`: scale, 32 signed bytes.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let [d0, d1, quants @ ..] = block;
    let d = half_at(*d0, *d1);
    for (out, byte) in out.iter_mut().zip(quants) {
        *out = f32::from(*byte as i8) * d;
    }
}

/// The two halves of a block's numbers.
fn halves(out: &mut [f32; 32]) -> (&mut [f32], &mut [f32]) {
    out.split_at_mut(16)
}

/// The 32 five-bit numbers of a block: bit `i` of `high` is the fifth bit of number `i`.
fn five_bits(high: [u8; 4], low: &[u8; 16]) -> [i32; 32] {
    let high = u32::from_le_bytes(high);
    let mut quants = [0; 32];
    for i in 0..16 {
        quants[i] = i32::from(low[i] & 15) | ((high >> i) << 4 & 16) as i32;
        quants[i + 16] = i32::from(low[i] >> 4) | ((high >> (i + 16)) << 4 & 16) as i32;
    }
    quants
}
