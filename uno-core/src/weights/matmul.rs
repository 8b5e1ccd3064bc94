//! Products with matrices as they are stored: a few output columns are expanded, used and forgotten, on each thread.
//!
//! A whole expanded matrix of FLUX has up to 264 MB, and writing it to memory only to read it back once would be wasted; a
//! tile of it stays in the cache. On the CPU in f32 the product of a tile is as fast as that of the whole.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::kernels::int8::{LANES, Panels, QuantizedRows};
use crate::kernels::{View, ViewMut, dot};
use crate::weights::StoredTensor;

/// Output columns that are expanded at a time. Each column of the result depends on its own weights only, but the order
/// in which a product is added up may depend on this number: it is fixed, so that pictures do not change with memory.
const TILE: usize = 128;

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// One number per output, `[out]`.
    Bias(&'a [f32]),
    /// What the result holds already.
    Result,
}

/// `out = start + factor * x W^T`, with some rows of the weight `[out, in]`: `x` `[batch, tokens, in]`, `out` `[batch, tokens,
/// rows]`. What does not fit leaves `out` as it is.
///
/// Each sample is multiplied by itself, so that it comes out the same, to the last bit, as it does alone.
pub(crate) fn multiply(
    x: View<'_>,
    weight: &StoredTensor,
    rows: Range<usize>,
    start: Start<'_>,
    factor: f32,
    out: ViewMut<'_>,
) {
    let (from, to) = (x.shape(), out.shape());
    let fits = *weight.shape() == [weight.shape().first().copied().unwrap_or(0), from.width]
        && rows.end <= weight.shape()[0]
        && to.width == rows.len()
        && (from.batch, from.tokens) == (to.batch, to.tokens)
        && !matches!(start, Start::Bias(bias) if bias.len() != rows.len());
    if !fits || from.width == 0 || from.tokens == 0 {
        return;
    }
    if weight.is_int8() {
        multiply_int8(x, weight, rows, start, factor, out);
        weight.release();
        return;
    }
    let native = weight.native_f32();
    let tile = |scratch: &mut Vec<f32>, first: usize| {
        let count = TILE.min(rows.len() - first);
        let these = rows.start + first..rows.start + first + count;
        let numbers = match native {
            Some(all) => &all[these.start * from.width..these.end * from.width],
            None => {
                scratch.resize(TILE * from.width, 0.0);
                let scratch = &mut scratch[..count * from.width];
                weight.expand_rows(these, scratch);
                scratch
            }
        };
        let bias = match start {
            Start::Bias(bias) => Some(&bias[first..first + count]),
            _ => None,
        };
        for sample in 0..from.batch {
            if from.tokens == 1 {
                one_row(
                    x.row(sample, 0),
                    numbers,
                    start,
                    bias,
                    factor,
                    out.at(sample, 0).wrapping_add(first),
                );
                continue;
            }
            if let Some(bias) = bias {
                for token in 0..to.tokens {
                    // SAFETY: columns first .. first + count of this row lie in `out` and are this tile's alone.
                    #[allow(unsafe_code)]
                    let row = unsafe {
                        std::slice::from_raw_parts_mut(out.at(sample, token).wrapping_add(first), count)
                    };
                    row.copy_from_slice(bias);
                }
            }
            // SAFETY: `x` shows `tokens` rows of `in` numbers, `numbers` has count * in; the columns first .. first + count
            // of `out` lie within its rows (checked above) and are this tile's alone.
            #[allow(unsafe_code)]
            unsafe {
                gemm::gemm(
                    from.tokens,
                    count,
                    from.width,
                    out.at(sample, 0).wrapping_add(first),
                    1,
                    to.stride as isize,
                    !matches!(start, Start::Zero),
                    x.at(sample, 0),
                    1,
                    from.stride as isize,
                    numbers.as_ptr(),
                    from.width as isize,
                    1,
                    1.0,
                    factor,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        }
    };
    (0..rows.len().div_ceil(TILE))
        .into_par_iter()
        .for_each_init(Vec::new, |scratch, i| tile(scratch, i * TILE));
    weight.release();
}

/// Bytes of packed weights that a thread works on: they stay in its cache.
const PACKED: usize = 512 << 10;

/// The same in 8-bit integers, for a weight stored as Q8_0.
fn multiply_int8(
    x: View<'_>,
    weight: &StoredTensor,
    rows: Range<usize>,
    start: Start<'_>,
    factor: f32,
    out: ViewMut<'_>,
) {
    let from = x.shape();
    let tile = (PACKED / from.width / LANES * LANES).clamp(LANES, TILE);
    let quantized: Vec<_> = (0..from.batch).map(|sample| QuantizedRows::new(x, sample)).collect();
    (0..rows.len().div_ceil(tile)).into_par_iter().for_each_init(Panels::default, |panels, i| {
        let first = i * tile;
        let count = tile.min(rows.len() - first);
        panels.pack(from.width, count, |output| weight.q8_0_row(rows.start + first + output));
        for (sample, x) in quantized.iter().enumerate() {
            panels.multiply(x, |token, column, products| {
                let column = first + column;
                // SAFETY: these columns lie within a row of `out` (its shape was checked) and are this tile's alone.
                #[allow(unsafe_code)]
                let row = unsafe {
                    let start = out.at(sample, token).wrapping_add(column);
                    std::slice::from_raw_parts_mut(start, products.len())
                };
                for (i, (y, product)) in row.iter_mut().zip(products).enumerate() {
                    *y = match start {
                        Start::Zero => 0.0,
                        Start::Bias(bias) => bias[column + i],
                        Start::Result => *y,
                    } + factor * product;
                }
            });
        }
    });
}

/// The product of a single row: bound by how fast the weights come from memory.
fn one_row(x: &[f32], weight: &[f32], start: Start<'_>, bias: Option<&[f32]>, factor: f32, out: *mut f32) {
    for (i, row) in weight.chunks_exact(x.len()).enumerate() {
        let product = factor * dot(x, row);
        // SAFETY: the caller's tile has a number at `out` for each row of `weight`, and no other thread touches them.
        #[allow(unsafe_code)]
        unsafe {
            let out = out.add(i);
            *out = match (start, bias) {
                (Start::Result, _) => *out + product,
                (_, Some(bias)) => bias[i] + product,
                _ => product,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    #[test]
    fn a_part_of_the_rows_is_multiplied_added_and_alike_in_a_batch() {
        for tokens in [1, 3, 40] {
            let (input, outputs, rows) = (70, 300, 20..290);
            let (x, w, bias) = (some(2 * tokens * input, 1), some(outputs * input, 2), some(rows.len(), 3));
            let weight = StoredTensor::from_f32(vec![outputs, input], &w).unwrap();
            // Columns 5 .. of a wider result.
            let (width, shape) = (rows.len() + 9, [2, tokens, rows.len() + 9]);
            let mut out = vec![7.0; 2 * tokens * width];
            let columns = 5..5 + rows.len();
            let x_view = View::new(&x, [2, tokens, input]);
            multiply(
                x_view,
                &weight,
                rows.clone(),
                Start::Bias(&bias),
                1.0,
                ViewMut::new(&mut out, shape).columns(columns.clone()),
            );
            multiply(
                x_view,
                &weight,
                rows.clone(),
                Start::Result,
                0.5,
                ViewMut::new(&mut out, shape).columns(columns),
            );
            for (i, (row, x)) in out.chunks(width).zip(x.chunks(input)).enumerate() {
                assert!(row[..5].iter().chain(&row[5 + rows.len()..]).all(|x| *x == 7.0), "{i}");
                for (j, got) in row[5..5 + rows.len()].iter().enumerate() {
                    let weights = &w[(rows.start + j) * input..(rows.start + j + 1) * input];
                    let exact: f64 = x.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let exact = 1.5 * exact + f64::from(bias[j]);
                    assert!((f64::from(*got) - exact).abs() < 5e-5, "{tokens} {i} {j}: {got} {exact}");
                }
            }
            let mut alone = vec![0.0; tokens * rows.len()];
            let second = View::new(&x[tokens * input..], [1, tokens, input]);
            let shape = [1, tokens, rows.len()];
            multiply(second, &weight, rows.clone(), Start::Bias(&bias), 1.0, ViewMut::new(&mut alone, shape));
            multiply(second, &weight, rows.clone(), Start::Result, 0.5, ViewMut::new(&mut alone, shape));
            let together: Vec<f32> =
                out.chunks(width).skip(tokens).flat_map(|row| row[5..5 + rows.len()].to_vec()).collect();
            assert_eq!(alone, together);
        }
    }
}
