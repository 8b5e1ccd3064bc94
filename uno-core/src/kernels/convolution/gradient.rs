//! Gradients of the 3x3 convolution: at its input a convolution with the kernel turned around, at its weights nine products of
//! shifted pictures.

use super::{Matrix, Picture, product};

/// Weights `[out, in, 3, 3]` as those `[in, out, 3, 3]` of the convolution that leads back to the input.
pub(crate) fn turned(weight: &[f32], [input, output]: [usize; 2]) -> Vec<f32> {
    let mut turned = vec![0.0; weight.len()];
    for o in 0..output {
        for i in 0..input {
            for tap in 0..9 {
                turned[(i * output + o) * 9 + 8 - tap] = weight[(o * input + i) * 9 + tap];
            }
        }
    }
    turned
}

/// Planes of `[channels, H, W]` with `top` rows and `left` columns of zeros before and as many columns as fill rows of `width`.
fn padded(
    numbers: &[f32],
    [height, width]: [usize; 2],
    rows: usize,
    [top, left]: [usize; 2],
    wide: usize,
) -> Vec<f32> {
    let channels = numbers.len() / (height * width).max(1);
    let plane = rows * wide;
    // Products of the last taps read a little beyond the last plane.
    let mut out = vec![0.0; channels * plane + 2 * wide + 2];
    for (channel, numbers) in numbers.chunks_exact(height * width).enumerate() {
        for (y, row) in numbers.chunks_exact(width).enumerate() {
            let start = channel * plane + (y + top) * wide + left;
            out[start..start + width].copy_from_slice(row);
        }
    }
    out
}

/// The gradient of weights `[out, in, 3, 3]` for the input `x` and the gradient `[out, H, W]` of the result, size kept.
pub(crate) fn of_weights(x: Picture<'_>, gradient: &[f32]) -> Vec<f32> {
    let size = [x.height, x.width];
    let pixels = (x.height * x.width).max(1);
    let (input, output) = (x.numbers.len() / pixels, gradient.len() / pixels);
    let wide = x.width + 2;
    let places = x.height * wide;
    let inputs = padded(x.numbers, size, x.height + 2, [1, 1], wide);
    let gradients = padded(gradient, size, x.height, [0, 0], wide);
    let mut weight = vec![0.0; output * input * 9];
    let mut products = vec![0.0; output * input];
    for tap in 0..9 {
        let shift = tap / 3 * wide + tap % 3;
        let a = Matrix { numbers: &inputs[shift..], row: (x.height + 2) * wide, column: 1 };
        let b = Matrix { numbers: &gradients, row: 1, column: places };
        product([input, output, places], &mut products, input, false, a, b);
        for (weight, product) in weight.chunks_exact_mut(9).zip(&products) {
            weight[tap] = *product;
        }
    }
    weight
}
