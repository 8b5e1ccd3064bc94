//! 1x1 convolution: one product for some pixels at a time.

use super::{Kernel, Matrix, Parts, on_all_threads, product, row_of};
use crate::kernels::ViewMut;

/// Pixels that are worked on at a time, in each thread.
const PIXELS: usize = 512;

/// Bytes that all threads together need for so many pixels.
pub(crate) fn scratch_bytes([input, output]: [usize; 2], pixels: usize) -> usize {
    let parts = Parts::new(1, pixels, PIXELS);
    let each = (input + output) * parts.places() * size_of::<f32>();
    each.saturating_mul(rayon::current_num_threads().min(parts.count()))
}

vectorized! {
    fn add_slice(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}

/// The convolution over its own input: `x` `[in, pixels]` becomes `[out, pixels]`.
pub(crate) fn in_place(x: &mut Vec<f32>, kernel: Kernel<'_>, pixels: usize) {
    let Kernel { weight, bias, input, output } = kernel;
    x.resize(input.max(output) * pixels, 0.0);
    let parts = Parts::new(1, pixels, PIXELS);
    let view = ViewMut::new(x, [1, input.max(output), pixels]);
    let new = || [vec![0.0; input * parts.places()], vec![0.0; output * parts.places()]];
    on_all_threads(parts.count(), new, |[inputs, results], i| {
        let columns = parts.get(i).columns;
        let count = columns.len();
        for (channel, inputs) in inputs.chunks_exact_mut(count).take(input).enumerate() {
            // SAFETY: the columns of this part are this call's alone.
            #[allow(unsafe_code)]
            inputs.copy_from_slice(unsafe { row_of(&view, channel, columns.clone()) });
        }
        for (results, bias) in results.chunks_exact_mut(count).zip(bias) {
            results.fill(*bias);
        }
        product(
            [count, output, input],
            results,
            count,
            true,
            Matrix { numbers: inputs, row: 1, column: count },
            Matrix { numbers: weight, row: 1, column: input },
        );
        for (channel, results) in results.chunks_exact(count).take(output).enumerate() {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe { row_of(&view, channel, columns.clone()) }.copy_from_slice(results);
        }
    });
    x.truncate(output * pixels);
    x.shrink_to_fit();
}

/// The convolution of `x` `[in, pixels]`, pixel by pixel: `[pixels, out]`.
pub(crate) fn to_tokens(x: &[f32], kernel: Kernel<'_>, pixels: usize) -> Vec<f32> {
    use rayon::prelude::*;
    let Kernel { weight, bias, input, output } = kernel;
    let mut out = vec![0.0; output * pixels];
    out.par_chunks_mut((output * PIXELS).max(1)).enumerate().for_each(|(i, out)| {
        let count = out.len() / output;
        out.chunks_exact_mut(output).for_each(|row| row.copy_from_slice(bias));
        product(
            [output, count, input],
            out,
            output,
            true,
            Matrix { numbers: weight, row: input, column: 1 },
            Matrix { numbers: &x[i * PIXELS..], row: pixels, column: 1 },
        );
    });
    out
}

/// The convolution of `x` `[pixels, in]`, pixel by pixel, added to `out` `[out, pixels]`.
pub(crate) fn add_from_tokens(x: &[f32], kernel: Kernel<'_>, pixels: usize, out: &mut [f32]) {
    let Kernel { weight, bias, input, output } = kernel;
    let parts = Parts::new(1, pixels, PIXELS);
    let view = ViewMut::new(out, [1, output, pixels]);
    on_all_threads(
        parts.count(),
        || vec![0.0; output * parts.places()],
        |results, i| {
            let columns = parts.get(i).columns;
            let count = columns.len();
            for (results, bias) in results.chunks_exact_mut(count).zip(bias) {
                results.fill(*bias);
            }
            product(
                [count, output, input],
                results,
                count,
                true,
                Matrix { numbers: &x[columns.start * input..columns.end * input], row: input, column: 1 },
                Matrix { numbers: weight, row: 1, column: input },
            );
            for (channel, results) in results.chunks_exact(count).take(output).enumerate() {
                // SAFETY: the columns of this part are this call's alone.
                #[allow(unsafe_code)]
                add_slice(results, unsafe { row_of(&view, channel, columns.clone()) });
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, some};
    use super::*;

    #[test]
    fn all_forms_agree_with_the_definition() {
        for (input, output, pixels) in [(3, 5, 1), (8, 4, 700), (4, 8, 1100), (16, 16, 513)] {
            let x = some(input * pixels, 1);
            let (weight, bias) = (some(output * input, 2), some(output, 3));
            let kernel = Kernel { weight: &weight, bias: &bias, input, output };
            let exact = |o: usize, p: usize| {
                let product = |i: usize| f64::from(weight[o * input + i]) * f64::from(x[i * pixels + p]);
                f64::from(bias[o]) + (0..input).map(product).sum::<f64>()
            };
            let planes: Vec<f64> = (0..output * pixels).map(|i| exact(i / pixels, i % pixels)).collect();
            let mut over = x.clone();
            in_place(&mut over, kernel, pixels);
            check(&over, &planes);
            let tokens: Vec<f64> = (0..output * pixels).map(|i| exact(i % output, i / output)).collect();
            check(&to_tokens(&x, kernel, pixels), &tokens);
            let turned: Vec<f32> = (0..input * pixels).map(|i| x[i % input * pixels + i / input]).collect();
            let mut sum = some(output * pixels, 4);
            let wanted: Vec<f64> = sum.iter().zip(&planes).map(|(a, b)| f64::from(*a) + b).collect();
            add_from_tokens(&turned, kernel, pixels, &mut sum);
            check(&sum, &wanted);
        }
    }
}
