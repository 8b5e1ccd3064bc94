//! 3x3 convolution with stride 2, after a row and a column of zeros on the right and bottom only: nine products that are added
//! up, one for each place of the kernel.

use super::{Kernel, Matrix, Parts, Picture, on_all_threads, product, read_row, row_of};
use crate::kernels::ViewMut;

/// Pixels of the result that are worked on at a time, in each thread.
const PIXELS: usize = 256;
const GAP: usize = 16;

/// Bytes that all threads together need for a result of `[height, width]`.
pub(crate) fn scratch_bytes(input: usize, output: usize, [height, width]: [usize; 2]) -> usize {
    let parts = Parts::new(height, width, PIXELS);
    let each = (9 * input + output) * (parts.places() + GAP) * size_of::<f32>();
    each.saturating_mul(rayon::current_num_threads().min(parts.count()))
}

/// Weights `[out, in, 3, 3]` as `[9, out, in]`.
fn reordered(kernel: &Kernel<'_>) -> Vec<f32> {
    let (kernels, _) = kernel.weight.as_chunks::<9>();
    (0..9).flat_map(|tap| kernels.iter().map(move |kernel| kernel[tap])).collect()
}

vectorized! {
    /// `out = x[start], x[start + 2], ...`.
    fn every_second(x: &[f32], out: &mut [f32]) {
        let (pairs, _) = x.as_chunks::<2>();
        for (out, pair) in out.iter_mut().zip(pairs) {
            *out = pair[0];
        }
    }
}

vectorized! {
    fn add_bias(x: &[f32], bias: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x + bias;
        }
    }
}

/// The convolution of `x` `[in, H, W]` into `out` `[out, H / 2, W / 2]`.
pub(crate) fn halving(x: Picture<'_>, kernel: Kernel<'_>, out: &mut [f32]) {
    let Kernel { input, output, bias, .. } = kernel;
    let weight = reordered(&kernel);
    let (height, width) = (x.height / 2, x.width / 2);
    let parts = Parts::new(height, width, PIXELS);
    let stride = parts.places() + GAP;
    let out = ViewMut::new(out, [1, output * height, width]);
    // A row as it is read, the inputs at each place of the kernel, results.
    let new = || {
        let row = vec![0.0; 2 * parts.columns + 4];
        (row, vec![0.0; 9 * input * stride], vec![0.0; output * stride])
    };
    on_all_threads(parts.count(), new, |(row, inputs, results), i| {
        let part = parts.get(i);
        let count = part.columns.len();
        let row = &mut row[..2 * count + 3];
        for channel in 0..input {
            for (r, y) in part.rows.clone().enumerate() {
                for down in 0..3 {
                    // `read_row` counts columns from one before the picture.
                    let columns = 2 * part.columns.start + 1..2 * part.columns.end + 4;
                    read_row(&x, None, channel, Some(2 * y + down), columns, row);
                    for across in 0..3 {
                        let at = ((3 * down + across) * input + channel) * stride + r * count;
                        every_second(&row[across..], &mut inputs[at..at + count]);
                    }
                }
            }
        }
        for tap in 0..9 {
            product(
                [part.rows.len() * count, output, input],
                results,
                stride,
                tap > 0,
                Matrix {
                    numbers: &inputs[tap * input * stride..(tap + 1) * input * stride],
                    row: 1,
                    column: stride,
                },
                Matrix {
                    numbers: &weight[tap * input * output..(tap + 1) * input * output],
                    row: 1,
                    column: input,
                },
            );
        }
        for channel in 0..output {
            for (r, y) in part.rows.clone().enumerate() {
                // SAFETY: the rows and columns of this part are this call's alone.
                #[allow(unsafe_code)]
                let row = unsafe { row_of(&out, channel * height + y, part.columns.clone()) };
                add_bias(&results[channel * stride + r * count..][..count], bias[channel], row);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, exact, some};
    use super::*;

    #[test]
    fn every_second_pixel_agrees_with_the_definition() {
        for ([input, output], [height, width]) in
            [([3, 5], [2, 2]), ([4, 3], [6, 10]), ([32, 17], [40, 34]), ([2, 2], [4, 1030])]
        {
            let x = some(input * height * width, 1);
            let (weight, bias) = (some(output * input * 9, 2), some(output, 3));
            let kernel = Kernel { weight: &weight, bias: &bias, input, output };
            let picture = Picture { numbers: &x, height, width };
            let mut out = vec![f32::NAN; output * height * width / 4];
            halving(picture, kernel, &mut out);
            check(&out, &exact(&picture, &kernel, 2, 0));
        }
    }
}
