//! Finding the scales of the K types: a small search for the least squared error, then whole-number scales around it.
//!
//! Everything is plain f32 arithmetic in a fixed order, so the result is the same on every machine.

use half::f16;

/// A block whose numbers are `d * scale * quant - dmin * min` (`G` sub-blocks).
pub(super) struct Affine<const G: usize> {
    /// The scale of the scales.
    pub(super) d: f16,
    /// The scale of the minimums.
    pub(super) dmin: f16,
    /// The sub-blocks' scales.
    pub(super) scales: [u8; G],
    /// The sub-blocks' minimums.
    pub(super) mins: [u8; G],
    /// The numbers.
    pub(super) quants: [u8; 256],
}

/// A block whose numbers are `d * scale * quant`, 16 sub-blocks of 16.
pub(super) struct Scaled {
    /// The scale of the scales.
    pub(super) d: f16,
    /// The sub-blocks' scales.
    pub(super) scales: [i8; 16],
    /// The numbers, counted from the lowest (so never negative).
    pub(super) quants: [u8; 256],
}

/// Fits sub-blocks of `N` numbers with quants up to `top` and scales and minimums up to `scale_top`.
pub(super) fn affine<const N: usize, const G: usize>(x: &[f32; 256], top: f32, scale_top: f32) -> Affine<G> {
    let mut block = Affine { d: f16::NAN, dmin: f16::ZERO, scales: [0; G], mins: [0; G], quants: [0; 256] };
    let (subs, _) = x.as_chunks::<N>();
    let mut fits = [(0.0, 0.0); G];
    let (mut scale_max, mut min_max) = (0.0_f32, 0.0_f32);
    for (fit, sub) in fits.iter_mut().zip(subs) {
        *fit = fit_affine(sub, top);
        scale_max = scale_max.max(fit.0);
        min_max = min_max.max(fit.1);
    }
    let (d, dmin) = (block_scale(scale_max / scale_top), block_scale(min_max / scale_top));
    // The block stays as it is, all NaN, where its numbers are not finite or too large.
    if !(x.iter().all(|x| x.is_finite()) && d.is_finite() && dmin.is_finite()) {
        return block;
    }
    (block.d, block.dmin) = (d, dmin);
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let (quants, _) = block.quants.as_chunks_mut::<N>();
    for (i, (sub, quants)) in subs.iter().zip(quants).enumerate().take(G) {
        let scale_at = nearest(fits[i].0 * inverse(d), 0.0, scale_top);
        let min_at = nearest(fits[i].1 * inverse(dmin), 0.0, scale_top);
        let mut best = f32::INFINITY;
        for scale in around(scale_at, 0.0, scale_top) {
            for min in around(min_at, 0.0, scale_top) {
                let error = affine_error(sub, d * scale, dmin * min, top);
                if error < best {
                    best = error;
                    (block.scales[i], block.mins[i]) = (scale as u8, min as u8);
                }
            }
        }
        let (scale, min) = (d * f32::from(block.scales[i]), dmin * f32::from(block.mins[i]));
        for (quant, level) in quants.iter_mut().zip(levels(sub, inverse(scale), min, 0.0, top)) {
            *quant = level as u8;
        }
    }
    block
}

/// Fits 16 sub-blocks with quants from `-half` to `half - 1` and scales from `-scale_half` to `scale_half - 1`.
pub(super) fn scaled(x: &[f32; 256], half: f32, scale_half: f32) -> Scaled {
    let mut block = Scaled { d: f16::NAN, scales: [0; 16], quants: [half as u8; 256] };
    let (subs, _) = x.as_chunks::<16>();
    let mut fits = [0.0; 16];
    let mut largest = 0.0_f32;
    for (fit, sub) in fits.iter_mut().zip(subs) {
        *fit = fit_scale(sub, half);
        largest = if fit.abs() > largest.abs() { *fit } else { largest };
    }
    // The largest scale becomes the lowest whole number, whose range is one wider.
    let d = block_scale(-largest / scale_half);
    if !(x.iter().all(|x| x.is_finite()) && d.is_finite()) {
        return block;
    }
    block.d = d;
    let d = d.to_f32();
    let (quants, _) = block.quants.as_chunks_mut::<16>();
    for (i, (sub, quants)) in subs.iter().zip(quants).enumerate().take(16) {
        let scale_at = nearest(fits[i] * inverse(d), -scale_half, scale_half - 1.0);
        let mut best = f32::INFINITY;
        for scale in around(scale_at, -scale_half, scale_half - 1.0) {
            let error = scale_error(sub, d * scale, half);
            if error < best {
                best = error;
                block.scales[i] = scale as i8;
            }
        }
        let scale = d * f32::from(block.scales[i]);
        for (quant, level) in quants.iter_mut().zip(levels(sub, inverse(scale), 0.0, -half, half - 1.0)) {
            *quant = (level + half) as u8;
        }
    }
    block
}

/// The scale and the (never negative) minimum with the least squared error found for `x = scale * quant - min`.
fn fit_affine<const N: usize>(x: &[f32; N], top: f32) -> (f32, f32) {
    let low = x.iter().fold(0.0_f32, |a, b| a.min(*b));
    let high = x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let range = high - low;
    if range.is_nan() || range <= 0.0 {
        return (0.0, -low);
    }
    let mut found = (range / top, -low);
    let mut best = affine_error(x, found.0, found.1, top);
    let ones = [1.0; N];
    let (count, sum_x) = (N as f32, dot(x, &ones));
    // Steeper starts than `top / range` cut the highest numbers off, flatter ones leave the last levels unused.
    for step in 0..=10 {
        let q = levels(x, (top - 1.0 + 0.2 * step as f32) / range, -low, 0.0, top);
        let (sum_q, sum_qq, sum_xq) = (dot(&q, &ones), dot(&q, &q), dot(x, &q));
        let det = count * sum_qq - sum_q * sum_q;
        let mut scale = (count * sum_xq - sum_x * sum_q) / det;
        let mut min = (sum_q * sum_xq - sum_qq * sum_x) / det;
        if det <= 0.0 || min < 0.0 {
            (scale, min) = (sum_xq / sum_qq, 0.0);
        }
        if scale > 0.0 {
            let error = affine_error(x, scale, min, top);
            if error < best {
                best = error;
                found = (scale, min);
            }
        }
    }
    found
}

/// The scale, of either sign, with the least squared error found for `x = scale * quant`.
fn fit_scale<const N: usize>(x: &[f32; N], half: f32) -> f32 {
    let largest = x.iter().fold(0.0_f32, |a, b| if b.abs() > a.abs() { *b } else { a });
    if largest == 0.0 {
        return 0.0;
    }
    let mut found = -largest / half;
    let mut best = 0.0;
    for edge in [-half, half - 1.0] {
        for step in -7..=7 {
            let q = levels(x, (edge + 0.1 * step as f32) / largest, 0.0, -half, half - 1.0);
            let (sum_qq, sum_xq) = (dot(&q, &q), dot(x, &q));
            // With the best scale for these quants the error falls by this much from the sum of squares.
            let gain = sum_xq * (sum_xq / sum_qq);
            if gain > best {
                best = gain;
                found = sum_xq / sum_qq;
            }
        }
    }
    found
}

/// The squared error of `x = scale * quant - min` with the nearest quants.
fn affine_error<const N: usize>(x: &[f32; N], scale: f32, min: f32, top: f32) -> f32 {
    let mut error = levels(x, inverse(scale), min, 0.0, top);
    for (error, x) in error.iter_mut().zip(x) {
        *error = scale * *error - min - x;
    }
    dot(&error, &error)
}

/// The squared error of `x = scale * quant` with the nearest quants.
fn scale_error<const N: usize>(x: &[f32; N], scale: f32, half: f32) -> f32 {
    let mut error = levels(x, inverse(scale), 0.0, -half, half - 1.0);
    for (error, x) in error.iter_mut().zip(x) {
        *error = scale * *error - x;
    }
    dot(&error, &error)
}

/// The nearest quants of `(x + min) * inverse` within the range, as whole f32 numbers.
fn levels<const N: usize>(x: &[f32; N], inverse: f32, min: f32, low: f32, high: f32) -> [f32; N] {
    x.map(|x| nearest((x + min) * inverse, low, high))
}

/// A block's scale as f16: the nearest, but away from zero where f16 is so coarse that a scale rounded towards zero
/// would cut off the largest numbers, or all of them.
fn block_scale(x: f32) -> f16 {
    let nearest = f16::from_f32(x);
    let short = nearest.to_f32().abs() < x.abs();
    if short && nearest.to_bits() & 0x7c00 == 0 { f16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

/// The nearest whole number within the range; NaN gives `low`.
fn nearest(x: f32, low: f32, high: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds every number of a small range, without a call per number.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    (x + ROUND) - ROUND
}

/// A whole number and its neighbours, kept within the range; the number itself first.
fn around(at: f32, low: f32, high: f32) -> [f32; 3] {
    [at, (at - 1.0).max(low), (at + 1.0).min(high)]
}

/// `1 / x`, and zero for zero.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The sum of products, in eight running sums so that the compiler can keep them in one register.
fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    let mut sums = [0.0_f32; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
