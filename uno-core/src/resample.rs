//! Pillow's resampling of 8-bit pictures, bit for bit (`Resample.c`): weights in fixed point, a rounding after each axis.

use rayon::prelude::*;

/// How pixels are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Filter {
    /// `Image.BICUBIC`: Keys' kernel with a = -1/2.
    Bicubic,
    /// `Image.LANCZOS`: a window of three lobes.
    Lanczos,
}

impl Filter {
    /// Half the width of the window, in pixels of the coarser grid.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The weight at a distance.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
}

/// Bits behind the point in fixed-point weights.
const PRECISION: u32 = 22;

/// The pixels that make up one new pixel, and their weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// One window per new pixel along an axis (Pillow `precompute_coeffs`, `normalize_coeffs_8bpc`).
fn windows(from: usize, to: usize, filter: Filter) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let half = filter.support() * filter_scale;
    let window = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let start = (centre - half + 0.5).max(0.0) as usize;
        let end = ((centre + half + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (start..end).map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / filter_scale))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| {
            let w = if sum == 0.0 { *w } else { w / sum } * f64::from(1u32 << PRECISION);
            if w < 0.0 { (w - 0.5) as i32 } else { (w + 0.5) as i32 }
        };
        Window { start, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Scales interleaved 8-bit channels from `size` to `new`, both (width, height): first along rows, then along columns, rounded
/// to 8 bits after each pass. A pass over an axis that keeps its length is left out (Pillow `ImagingResample`).
///
/// `bytes` are `height * width * channels`. Fewer bytes than that, and sides of zero, give an empty result.
pub fn resize(
    bytes: &[u8],
    channels: usize,
    size: (usize, usize),
    new: (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    if [size.0, size.1, new.0, new.1, channels].contains(&0) || bytes.len() < size.0 * size.1 * channels {
        return Vec::new();
    }
    let mut current = bytes.to_vec();
    if new.0 != size.0 {
        let windows = windows(size.0, new.0, filter);
        let mut out = vec![0; new.0 * size.1 * channels];
        out.par_chunks_exact_mut(new.0 * channels).zip(current.par_chunks_exact(size.0 * channels)).for_each(
            |(out, row)| {
                for (pixel, window) in out.chunks_exact_mut(channels).zip(&windows) {
                    let taps = &row[window.start * channels..];
                    for (c, value) in pixel.iter_mut().enumerate() {
                        let taps = taps[c..].iter().step_by(channels);
                        *value = clip8(weighted(taps, &window.weights));
                    }
                }
            },
        );
        current = out;
    }
    if new.1 != size.1 {
        let windows = windows(size.1, new.1, filter);
        let row = new.0 * channels;
        let mut out = vec![0; new.1 * row];
        out.par_chunks_exact_mut(row).zip(&windows).for_each(|(out, window)| {
            let mut sums = vec![1i32 << (PRECISION - 1); row];
            for (line, weight) in current[window.start * row..].chunks_exact(row).zip(&window.weights) {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += i32::from(*value) * weight;
                }
            }
            for (value, sum) in out.iter_mut().zip(sums) {
                *value = clip8(sum);
            }
        });
        current = out;
    }
    current
}

fn weighted<'a>(values: impl Iterator<Item = &'a u8>, weights: &[i32]) -> i32 {
    values.zip(weights).fold(1 << (PRECISION - 1), |sum, (value, weight)| sum + i32::from(*value) * weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_pictures_stay_plain_and_sides_of_zero_give_nothing() {
        for filter in [Filter::Bicubic, Filter::Lanczos] {
            for new in [(1, 1), (3, 9), (7, 5), (40, 2)] {
                let got = resize(&[77; 7 * 5 * 3], 3, (7, 5), new, filter);
                assert_eq!(got, vec![77; new.0 * new.1 * 3], "{filter:?} {new:?}");
            }
            assert_eq!(resize(&[], 3, (0, 5), (2, 2), filter), [0u8; 0]);
            assert_eq!(resize(&[1; 3], 3, (1, 1), (0, 2), filter), [0u8; 0]);
        }
    }
}
