//! Convolutions of pictures `[C, H, W]` as products of matrices, on parts of the picture that fit in the cache. Parts are cut
//! by the size of the picture alone: the bits are the same for any number of threads.

// Only flex records gradients by hand.
#[cfg(feature = "flex")]
pub(crate) mod gradient;
pub(crate) mod halving;
pub(crate) mod pointwise;
pub(crate) mod winograd;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use gemm::Parallelism;
use rayon::prelude::*;

use super::ViewMut;
use super::group_norm::Affine;

/// Numbers of a picture `[C, H, W]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picture<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl<'a> Picture<'a> {
    /// One row of one channel.
    fn row(&self, channel: usize, y: usize) -> &'a [f32] {
        &self.numbers[(channel * self.height + y) * self.width..][..self.width]
    }
}

/// Weights `[out, in, k, k]` and bias `[out]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) input: usize,
    pub(crate) output: usize,
}

/// Some rows and columns of a grid.
#[derive(Debug, Clone)]
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// A grid in parts of at most `most` places, as wide as they can be.
#[derive(Debug, Clone, Copy)]
struct Parts {
    height: usize,
    width: usize,
    /// Rows and columns of one.
    rows: usize,
    columns: usize,
}

impl Parts {
    fn new(height: usize, width: usize, most: usize) -> Self {
        let columns = width.div_ceil(width.div_ceil(most).max(1)).max(1);
        let most = (most / columns).clamp(1, height.max(1));
        let rows = height.div_ceil(height.div_ceil(most).max(1)).max(1);
        Self { height, width, rows, columns }
    }

    /// Places of the largest part.
    fn places(&self) -> usize {
        self.rows * self.columns
    }

    fn count(&self) -> usize {
        self.height.div_ceil(self.rows) * self.width.div_ceil(self.columns)
    }

    fn get(&self, i: usize) -> Part {
        let across = self.width.div_ceil(self.columns).max(1);
        let (y, x) = (i / across * self.rows, i % across * self.columns);
        Part { rows: y..(y + self.rows).min(self.height), columns: x..(x + self.columns).min(self.width) }
    }
}

/// Runs `work` on every number below `count`, on all threads, each with memory of its own.
fn on_all_threads<S>(count: usize, new: impl Fn() -> S + Sync, work: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(0);
    (0..rayon::current_num_threads().min(count)).into_par_iter().with_max_len(1).for_each(|_| {
        let mut first = next.fetch_add(1, Ordering::Relaxed);
        if first >= count {
            return;
        }
        let mut scratch = new();
        while first < count {
            work(&mut scratch, first);
            first = next.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// A matrix in memory: its first number, and the distances of rows and of columns.
#[derive(Debug, Clone, Copy)]
struct Matrix<'a> {
    numbers: &'a [f32],
    row: usize,
    column: usize,
}

/// `out = a b` (or added to it), `out` `[m, n]` with columns `column` numbers apart and rows side by side.
fn product(
    [m, n, k]: [usize; 3],
    out: &mut [f32],
    column: usize,
    accumulate: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let last = |x: Matrix<'_>, rows: usize, columns: usize| (rows - 1) * x.row + (columns - 1) * x.column;
    assert!(
        m <= column.max(m * usize::from(n == 1))
            && (n - 1) * column + m <= out.len()
            && last(a, m, k) < a.numbers.len()
            && last(b, k, n) < b.numbers.len(),
        "a matrix beyond its numbers"
    );
    // SAFETY: all three matrices lie within their slices, as checked above.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            column as isize,
            1,
            accumulate,
            a.numbers.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.numbers.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The columns of one row of one channel of `out`, which is seen as `[1, C * H, W]`.
///
/// # Safety
///
/// Nothing else reads or writes these numbers meanwhile.
#[allow(unsafe_code)]
#[allow(clippy::mut_from_ref)]
unsafe fn row_of<'a>(out: &'a ViewMut<'_>, row: usize, columns: Range<usize>) -> &'a mut [f32] {
    assert!(columns.start <= columns.end && columns.end <= out.shape().width, "columns outside the picture");
    // SAFETY: `at` checks the row, the line above the columns; the rest is the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(out.at(0, row).wrapping_add(columns.start), columns.len()) }
}

/// Numbers of `columns` (from one before the first column of the picture on) of a row, after `before`; zeros outside.
fn read_row(
    x: &Picture<'_>,
    before: Option<&Affine>,
    channel: usize,
    y: Option<usize>,
    columns: Range<usize>,
    out: &mut [f32],
) {
    let Some(y) = y.filter(|y| *y < x.height) else {
        out.fill(0.0);
        return;
    };
    let (start, end) = (columns.start.max(1) - 1, (columns.end - 1).min(x.width));
    let left = usize::from(columns.start == 0);
    let length = end.saturating_sub(start);
    out[..left].fill(0.0);
    out[left + length..].fill(0.0);
    let (from, to) = (&x.row(channel, y)[start..start + length], &mut out[left..left + length]);
    match before {
        Some(before) => before.silu_into(channel, from, to),
        None => to.copy_from_slice(from),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn some(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// 3x3 by its definition in f64, from every `stride`th pixel on, with `edge` zeros on the left and above.
    pub(crate) fn exact(x: &Picture<'_>, kernel: &Kernel<'_>, stride: usize, edge: usize) -> Vec<f64> {
        let (height, width) = (x.height / stride, x.width / stride);
        let mut out = Vec::new();
        for o in 0..kernel.output {
            for y in 0..height {
                for column in 0..width {
                    let mut sum = f64::from(kernel.bias[o]);
                    for i in 0..kernel.input {
                        for tap in 0..9 {
                            let (y, column) = (stride * y + tap / 3, stride * column + tap % 3);
                            if y < edge || column < edge || y - edge >= x.height || column - edge >= x.width {
                                continue;
                            }
                            let weight = f64::from(kernel.weight[(o * kernel.input + i) * 9 + tap]);
                            sum += weight * f64::from(x.row(i, y - edge)[column - edge]);
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    pub(crate) fn check(got: &[f32], exact: &[f64]) {
        assert_eq!(got.len(), exact.len());
        let most = exact.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (got, exact) in got.iter().zip(exact) {
            assert!((f64::from(*got) - exact).abs() < 2e-6 * most, "{got} {exact}");
        }
    }

    #[test]
    fn parts_cover_a_grid_once() {
        for (height, width, most) in [(1, 1, 1), (5, 7, 3), (32, 32, 128), (3, 300, 128), (0, 4, 9)] {
            let parts = Parts::new(height, width, most);
            let mut seen = vec![0; height * width];
            for part in (0..parts.count()).map(|i| parts.get(i)) {
                assert!(part.rows.len() * part.columns.len() <= parts.places().min(most));
                for y in part.rows {
                    part.columns.clone().for_each(|x| seen[y * width + x] += 1);
                }
            }
            assert!(seen.iter().all(|seen| *seen == 1));
        }
    }
}
