//! Expanding the K types: 256 numbers in sub-blocks of 16 or 32, each with a small whole scale (and minimum) that
//! multiplies the block's f16 scale (and minimum).

use super::simple::half_at;

/// `Q2_K`: 16 bytes of scale (low four bits) and minimum (high four), 64 bytes of 2-bit numbers, scale, minimum.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block[80], block[81]), half_at(block[82], block[83]));
    let scales = &block[..16];
    for row in 0..8 {
        let quants = &block[16 + row / 4 * 32..][..32];
        let shift = row % 4 * 2;
        for half in 0..2 {
            let scale = scales[row * 2 + half];
            let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            let out = &mut out[row * 32 + half * 16..][..16];
            for (out, byte) in out.iter_mut().zip(&quants[half * 16..][..16]) {
                *out = dl * f32::from(byte >> shift & 3) - ml;
            }
        }
    }
}

/// `Q3_K`: 256 third bits, 64 bytes of low bits, 16 scales of 6 bits that count from -32, scale.
///
/// The numbers count from -4, so a set third bit means no offset.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block[108], block[109]);
    let (masks, packed) = (&block[..32], &block[96..108]);
    for row in 0..8 {
        let quants = &block[32 + row / 4 * 32..][..32];
        let shift = row % 4 * 2;
        for half in 0..2 {
            let i = row * 2 + half;
            let low = packed[i % 8] >> (i / 8 * 4) & 15;
            let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
            let dl = d * (i32::from(low | high << 4) - 32) as f32;
            let out = &mut out[i * 16..][..16];
            let bytes = quants[half * 16..][..16].iter().zip(&masks[half * 16..][..16]);
            for (out, (byte, mask)) in out.iter_mut().zip(bytes) {
                let quant = (byte >> shift & 3) | (mask >> row & 1) << 2;
                *out = dl * (i32::from(quant) - 4) as f32;
            }
        }
    }
}

/// `Q4_K`: scale, minimum, 12 bytes of scales and minimums, 128 bytes of 4-bit numbers.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block[0], block[1]), half_at(block[2], block[3]));
    for row in 0..8 {
        let (scale, min) = scale_and_min(&block[4..16], row);
        let (dl, ml) = (d * scale, dmin * min);
        let quants = &block[16 + row / 2 * 32..][..32];
        let shift = row % 2 * 4;
        for (out, byte) in out[row * 32..][..32].iter_mut().zip(quants) {
            *out = dl * f32::from(byte >> shift & 15) - ml;
        }
    }
}

/// `Q5_K`: scale, minimum, 12 bytes of scales and minimums, 256 fifth bits, 128 bytes of low bits.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block[0], block[1]), half_at(block[2], block[3]));
    let masks = &block[16..48];
    for row in 0..8 {
        let (scale, min) = scale_and_min(&block[4..16], row);
        let (dl, ml) = (d * scale, dmin * min);
        let quants = &block[48 + row / 2 * 32..][..32];
        let shift = row % 2 * 4;
        for (out, (byte, mask)) in out[row * 32..][..32].iter_mut().zip(quants.iter().zip(masks)) {
            let quant = (byte >> shift & 15) | (mask >> row & 1) << 4;
            *out = dl * f32::from(quant) - ml;
        }
    }
}

/// `Q6_K`: 128 bytes of low four bits, 64 bytes of high two, 16 signed scales, scale; the numbers count from -32.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block[208], block[209]);
    for i in 0..16 {
        // Each half of the block has four rows of 32; rows 0 and 1 take the low bits of 64 bytes, 2 and 3 the high.
        let (part, row, half) = (i / 8, i / 2 % 4, i % 2);
        let lows = &block[part * 64 + row % 2 * 32 + half * 16..][..16];
        let highs = &block[128 + part * 32 + half * 16..][..16];
        let (low_shift, high_shift) = (row / 2 * 4, row * 2);
        let dl = d * f32::from(block[192 + i] as i8);
        for (out, (low, high)) in out[i * 16..][..16].iter_mut().zip(lows.iter().zip(highs)) {
            let quant = (low >> low_shift & 15) | (high >> high_shift & 3) << 4;
            *out = dl * (i32::from(quant) - 32) as f32;
        }
    }
}

/// Scale and minimum of sub-block `i` of `Q4_K` and `Q5_K`: 6 bits each, the last four of each in three pieces.
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let both = packed[i + 4];
        ((both & 15) | (packed[i - 4] >> 6) << 4, both >> 4 | (packed[i] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}
