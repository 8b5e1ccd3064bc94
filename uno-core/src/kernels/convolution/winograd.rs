//! 3x3 convolution by Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): 16 products for every 2x2 numbers of the
//! result instead of 36. With `d` the 4x4 numbers that 2x2 results depend on and `g` the 3x3 weights, the results are
//! `A^T ((G g G^T) * (B^T d B)) A`; summed over the channels, `*` becomes one product of matrices for each of the 16 places.
//!
//! If every pixel is first doubled in both directions, `B^T` gives zero in its third row: 9 products for 4 results remain.

use std::ops::Range;

use super::{Kernel, Matrix, Part, Parts, Picture, on_all_threads, product, read_row, row_of};
use crate::kernels::ViewMut;
use crate::kernels::group_norm::Affine;

/// Squares of 2x2 that are worked on at a time, in each thread.
const SQUARES: usize = 256;
/// Numbers between the rows of transformed inputs and results, so that they do not all fall in the same lines of the cache.
const GAP: usize = 16;

/// How the input becomes the picture that is convolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// As it is.
    Same,
    /// Every pixel becomes 2x2 of its kind.
    Doubled,
}

impl Source {
    /// Rows (and columns) of the 4x4 that are not always zero.
    fn places(self) -> &'static [usize] {
        match self {
            Self::Same => &[0, 1, 2, 3],
            Self::Doubled => &[0, 1, 3],
        }
    }
}

/// Bytes of transformed weights.
pub(crate) fn weight_bytes([input, output]: [usize; 2], source: Source) -> usize {
    let places = source.places().len();
    places * places * input * output * size_of::<f32>()
}

/// Bytes that all threads together need for a result of `[height, width]`.
pub(crate) fn scratch_bytes(
    [input, output]: [usize; 2],
    [height, width]: [usize; 2],
    source: Source,
) -> usize {
    let parts = Parts::new(height.div_ceil(2), width.div_ceil(2), SQUARES);
    let places = source.places().len();
    let each = places * places * (input + output) * (parts.places() + GAP) * size_of::<f32>();
    each.saturating_mul(rayon::current_num_threads().min(parts.count()))
}

/// A 3x3 convolution with transformed weights.
#[derive(Debug)]
pub(crate) struct Winograd {
    /// `[places^2, out, in]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    input: usize,
    output: usize,
    source: Source,
}

/// `G g` for one column of `g`.
fn transform_weight([a, b, c]: [f32; 3]) -> [f32; 4] {
    [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]
}

/// Memory of one thread.
struct Scratch {
    /// A row as it is read.
    row: Vec<f32>,
    /// Rows of one channel, transformed across: `[rows, places, columns]`.
    across: Vec<f32>,
    /// `[places^2, in, squares]`.
    inputs: Vec<f32>,
    /// `[places^2, out, squares]`.
    results: Vec<f32>,
    /// Rows of the results, transformed down: `[2, 4, columns]`.
    down: Vec<f32>,
}

impl Winograd {
    pub(crate) fn new(kernel: Kernel<'_>, source: Source) -> Self {
        use rayon::prelude::*;
        let Kernel { input, output, .. } = kernel;
        let places = source.places();
        let mut weight = vec![0.0; places.len() * places.len() * input * output];
        // One pair of rows of the transformed kernel at a time: each place is a matrix of its own.
        weight.par_chunks_mut((input * output).max(1)).enumerate().for_each(|(at, matrix)| {
            let (i, j) = (places[at / places.len()], places[at % places.len()]);
            let (kernels, _) = kernel.weight.as_chunks::<9>();
            for (out, g) in matrix.iter_mut().zip(kernels) {
                let column = |x: usize| transform_weight([g[x], g[3 + x], g[6 + x]])[i];
                *out = transform_weight([column(0), column(1), column(2)])[j];
            }
        });
        Self { weight, bias: kernel.bias.to_vec(), input, output, source }
    }

    /// The convolution of `x` `[in, H, W]` after `before` into `out` `[out, H, W]` (`[out, 2 H, 2 W]` if doubled), or added to it.
    pub(crate) fn run(&self, x: Picture<'_>, before: Option<&Affine>, out: &mut [f32], add: bool) {
        let (height, width) = match self.source {
            Source::Same => (x.height, x.width),
            Source::Doubled => (2 * x.height, 2 * x.width),
        };
        let parts = Parts::new(height.div_ceil(2), width.div_ceil(2), SQUARES);
        let places = self.source.places().len();
        let stride = parts.places() + GAP;
        let new = || Scratch {
            row: vec![0.0; 2 * parts.columns + 2],
            across: vec![0.0; (2 * parts.rows + 2) * places * parts.columns],
            inputs: vec![0.0; places * places * self.input * stride],
            results: vec![0.0; places * places * self.output * stride],
            down: vec![0.0; 8 * parts.columns],
        };
        let out = ViewMut::new(out, [1, self.output * height, width]);
        on_all_threads(parts.count(), new, |scratch, i| {
            let part = parts.get(i);
            let squares = part.rows.len() * part.columns.len();
            self.transform_inputs(&x, before, &part, scratch, stride);
            for at in 0..places * places {
                let side = |channels: usize| at * channels * stride..(at + 1) * channels * stride;
                product(
                    [squares, self.output, self.input],
                    &mut scratch.results[side(self.output)],
                    stride,
                    false,
                    Matrix { numbers: &scratch.inputs[side(self.input)], row: 1, column: stride },
                    Matrix {
                        numbers: &self.weight[at * self.input * self.output..][..self.input * self.output],
                        row: 1,
                        column: self.input,
                    },
                );
            }
            for channel in 0..self.output {
                for (r, square_row) in part.rows.clone().enumerate() {
                    let Range { start, end } = part.columns;
                    self.transform_down(scratch, stride, channel, r * (end - start), end - start);
                    for half in 0..(height - 2 * square_row).min(2) {
                        // SAFETY: the rows and columns of this part are this call's alone.
                        #[allow(unsafe_code)]
                        let row = unsafe {
                            let row = channel * height + 2 * square_row + half;
                            row_of(&out, row, 2 * start..(2 * end).min(width))
                        };
                        let down = &scratch.down[half * 4 * (end - start)..][..4 * (end - start)];
                        finish(down, self.bias[channel], row, add);
                    }
                }
            }
        });
    }

    fn transform_inputs(
        &self,
        x: &Picture<'_>,
        before: Option<&Affine>,
        part: &Part,
        scratch: &mut Scratch,
        stride: usize,
    ) {
        let Scratch { row, across, inputs, .. } = scratch;
        let places = self.source.places().len();
        let (count, rows) = (part.columns.len(), part.rows.len());
        let line = places * count;
        for channel in 0..self.input {
            match self.source {
                Source::Same => {
                    let columns = 2 * part.columns.start..2 * part.columns.end + 2;
                    let row = &mut row[..2 * count + 2];
                    for (r, across) in across.chunks_exact_mut(line).take(2 * rows + 2).enumerate() {
                        let y = (2 * part.rows.start + r).checked_sub(1);
                        read_row(x, before, channel, y, columns.clone(), row);
                        transform_across(row, across);
                    }
                    for r in 0..rows {
                        let from = &across[2 * r * line..][..4 * line];
                        transform_rows(from, inputs, [self.input * stride, channel * stride + r * count]);
                    }
                }
                Source::Doubled => {
                    let row = &mut row[..count + 2];
                    for (r, across) in across.chunks_exact_mut(line).take(rows + 2).enumerate() {
                        let y = (part.rows.start + r).checked_sub(1);
                        read_row(x, before, channel, y, part.columns.start..part.columns.end + 2, row);
                        transform_doubled_across(row, across);
                    }
                    for r in 0..rows {
                        let from = &across[r * line..][..3 * line];
                        transform_doubled_rows(
                            from,
                            inputs,
                            [self.input * stride, channel * stride + r * count],
                        );
                    }
                }
            }
        }
    }

    /// `A^T m` for the squares from `from` on: two rows of four places.
    fn transform_down(
        &self,
        scratch: &mut Scratch,
        stride: usize,
        channel: usize,
        from: usize,
        count: usize,
    ) {
        let Scratch { results, down, .. } = scratch;
        let plane = self.output * stride;
        let (upper, lower) = down[..8 * count].split_at_mut(4 * count);
        let at = |place: usize| &results[place * plane + channel * stride + from..][..count];
        for j in 0..4 {
            let place = j * count..(j + 1) * count;
            let (upper, lower) = (&mut upper[place.clone()], &mut lower[place]);
            match self.source {
                Source::Same => down_same([at(j), at(4 + j), at(8 + j), at(12 + j)], upper, lower),
                Source::Doubled if j == 2 => {
                    upper.fill(0.0);
                    lower.fill(0.0);
                }
                Source::Doubled => {
                    let j = j.min(2);
                    down_doubled([at(j), at(3 + j), at(6 + j)], upper, lower);
                }
            }
        }
    }
}

vectorized! {
    /// `d B` of a row whose squares begin at every second number: four parts of `out`.
    fn transform_across(row: &[f32], out: &mut [f32]) {
        let (pairs, _) = row.as_chunks::<2>();
        let count = pairs.len().saturating_sub(1);
        let (first, rest) = out.split_at_mut(count);
        let (second, rest) = rest.split_at_mut(count);
        let (third, fourth) = rest.split_at_mut(count);
        let fourth = &mut fourth[..count];
        for t in 0..count {
            let ([a, b], [c, d]) = (pairs[t], pairs[t + 1]);
            first[t] = a - c;
            second[t] = b + c;
            third[t] = c - b;
            fourth[t] = b - d;
        }
    }
}

vectorized! {
    /// The same for doubled pixels.
    fn transform_doubled_across(row: &[f32], out: &mut [f32]) {
        let count = row.len().saturating_sub(2);
        let (first, rest) = out.split_at_mut(count);
        let (second, third) = rest.split_at_mut(count);
        let third = &mut third[..count];
        for t in 0..count {
            let (a, b, c) = (row[t], row[t + 1], row[t + 2]);
            first[t] = a - b;
            second[t] = b + b;
            third[t] = b - c;
        }
    }
}

vectorized! {
    /// `B^T` of four rows `[4, 4, columns]`; place `p` goes to `p * plane + offset` of `out`.
    fn transform_rows(from: &[f32], out: &mut [f32], place: [usize; 2]) {
        let [plane, offset] = place;
        let count = from.len() / 16;
        for j in 0..4 {
            let at = |i: usize| &from[(4 * i + j) * count..][..count];
            let (a, b, c, d) = (at(0), at(1), at(2), at(3));
            let mut to = |i: usize, a: &[f32], b: &[f32], sign: f32| {
                let out = &mut out[(4 * i + j) * plane + offset..][..count];
                for t in 0..count {
                    out[t] = sign.mul_add(b[t], a[t]);
                }
            };
            to(0, a, c, -1.0);
            to(1, b, c, 1.0);
            to(2, c, b, -1.0);
            to(3, b, d, -1.0);
        }
    }
}

vectorized! {
    /// The same for doubled pixels: three rows `[3, 3, columns]`.
    fn transform_doubled_rows(from: &[f32], out: &mut [f32], place: [usize; 2]) {
        let [plane, offset] = place;
        let count = from.len() / 9;
        for j in 0..3 {
            let at = |i: usize| &from[(3 * i + j) * count..][..count];
            let (a, b, c) = (at(0), at(1), at(2));
            let mut to = |i: usize, a: &[f32], b: &[f32], sign: f32| {
                let out = &mut out[(3 * i + j) * plane + offset..][..count];
                for t in 0..count {
                    out[t] = sign.mul_add(b[t], a[t]);
                }
            };
            to(0, a, b, -1.0);
            to(1, b, b, 1.0);
            to(2, b, c, -1.0);
        }
    }
}

vectorized! {
    fn down_same(m: [&[f32]; 4], upper: &mut [f32], lower: &mut [f32]) {
        let count = upper.len();
        let (a, b, c, d) = (&m[0][..count], &m[1][..count], &m[2][..count], &m[3][..count]);
        let lower = &mut lower[..count];
        for t in 0..count {
            upper[t] = a[t] + b[t] + c[t];
            lower[t] = b[t] - c[t] - d[t];
        }
    }
}

vectorized! {
    fn down_doubled(m: [&[f32]; 3], upper: &mut [f32], lower: &mut [f32]) {
        let count = upper.len();
        let (a, b, d) = (&m[0][..count], &m[1][..count], &m[2][..count]);
        let lower = &mut lower[..count];
        for t in 0..count {
            upper[t] = a[t] + b[t];
            lower[t] = b[t] - d[t];
        }
    }
}

vectorized! {
    /// `m A` of four parts, and the bias; each gives two numbers side by side. The last may be one that the picture lacks.
    fn finish(m: &[f32], bias: f32, out: &mut [f32], add: bool) {
        let count = m.len() / 4;
        let (a, rest) = m.split_at(count);
        let (b, rest) = rest.split_at(count);
        let (c, d) = rest.split_at(count);
        let (pairs, odd) = out.as_chunks_mut::<2>();
        let whole = pairs.len();
        let (a, b, c, d, last) = (&a[..whole], &b[..whole], &c[..whole], &d[..whole], (a, b, c));
        if add {
            for t in 0..whole {
                pairs[t][0] += a[t] + b[t] + c[t] + bias;
                pairs[t][1] += b[t] - c[t] - d[t] + bias;
            }
        } else {
            for t in 0..whole {
                pairs[t] = [a[t] + b[t] + c[t] + bias, b[t] - c[t] - d[t] + bias];
            }
        }
        if let Some(odd) = odd.first_mut() {
            let number = last.0[whole] + last.1[whole] + last.2[whole] + bias;
            *odd = if add { *odd + number } else { number };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, exact, some};
    use super::*;

    #[test]
    fn squares_agree_with_the_definition() {
        for ([input, output], [height, width]) in [
            ([3, 5], [1, 1]),
            ([4, 3], [7, 9]),
            ([32, 17], [12, 10]),
            ([2, 2], [6, 1031]),
            ([16, 8], [70, 33]),
        ] {
            let x = some(input * height * width, 1);
            let (weight, bias) = (some(output * input * 9, 2), some(output, 3));
            let kernel = Kernel { weight: &weight, bias: &bias, input, output };
            let picture = Picture { numbers: &x, height, width };
            let mut out = vec![f32::NAN; output * height * width];
            let convolution = Winograd::new(kernel, Source::Same);
            convolution.run(picture, None, &mut out, false);
            let wanted = exact(&picture, &kernel, 1, 1);
            check(&out, &wanted);
            convolution.run(picture, None, &mut out, true);
            check(&out, &wanted.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        }
    }

    #[test]
    fn doubled_pixels_agree_with_the_definition() {
        for ([input, output], [height, width]) in [([3, 5], [1, 1]), ([4, 3], [7, 9]), ([8, 6], [20, 270])] {
            let x = some(input * height * width, 1);
            let (weight, bias) = (some(output * input * 9, 2), some(output, 3));
            let kernel = Kernel { weight: &weight, bias: &bias, input, output };
            let doubled: Vec<f32> = (0..4 * input * height * width)
                .map(|i| {
                    let (line, column) = (i / (2 * width), i % (2 * width));
                    let (channel, y) = (line / (2 * height), line % (2 * height));
                    x[(channel * height + y / 2) * width + column / 2]
                })
                .collect();
            let mut out = vec![f32::NAN; 4 * output * height * width];
            let picture = Picture { numbers: &x, height, width };
            Winograd::new(kernel, Source::Doubled).run(picture, None, &mut out, false);
            let doubled = Picture { numbers: &doubled, height: 2 * height, width: 2 * width };
            check(&out, &exact(&doubled, &kernel, 1, 1));
        }
    }

    #[test]
    fn norm_and_silu_come_before_the_zeros_around_the_picture() {
        let (input, output, height, width) = (4, 3, 6, 5);
        let x = some(input * height * width, 1);
        let (weight, bias) = (some(output * input * 9, 2), some(output, 3));
        let kernel = Kernel { weight: &weight, bias: &bias, input, output };
        let before = Affine::measure(&x, 2, &[1.5; 4], &[0.5; 4], 1e-6);
        let mut activated = vec![0.0; x.len()];
        for (i, (x, out)) in x.chunks(height * width).zip(activated.chunks_mut(height * width)).enumerate() {
            before.silu_into(i, x, out);
        }
        let convolution = Winograd::new(kernel, Source::Same);
        let mut out = vec![0.0; output * height * width];
        convolution.run(Picture { numbers: &x, height, width }, Some(&before), &mut out, false);
        check(&out, &exact(&Picture { numbers: &activated, height, width }, &kernel, 1, 1));
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let ([input, output], [height, width]) = ([24, 16], [64, 48]);
        let x = some(input * height * width, 1);
        let (weight, bias) = (some(output * input * 9, 2), some(output, 3));
        let kernel = Kernel { weight: &weight, bias: &bias, input, output };
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; output * height * width];
            let picture = Picture { numbers: &x, height, width };
            pool.install(|| Winograd::new(kernel, Source::Same).run(picture, None, &mut out, false));
            out
        };
        assert!(run(1) == run(2) && run(1) == run(5));
    }
}
