//! 3x3 convolution with its gradients.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::super::convolution::winograd::{Source, Winograd};
use super::super::convolution::{Kernel, Picture, gradient};
use super::norm::sum_of;
use super::{Function, record};

/// 3x3, size kept: `[batch, in, H, W]`, weight `[out * in * 9]`, bias `[out]` -> `[batch, out, H, W]`.
#[derive(Debug)]
struct Convolution {
    input: usize,
    output: usize,
}

impl Convolution {
    fn pixels(shape: &[usize]) -> [usize; 2] {
        match *shape {
            [_, _, height, width] => [height, width],
            _ => [1, 1],
        }
    }

    /// Each sample of `x` convolved.
    fn run(x: &[f32], [height, width]: [usize; 2], kernel: Kernel<'_>) -> Vec<f32> {
        let pixels = height * width;
        let (input, output) = (kernel.input * pixels, kernel.output * pixels);
        let winograd = Winograd::new(kernel, Source::Same);
        let mut out = vec![0.0; x.len() / input.max(1) * output];
        x.par_chunks(input.max(1)).zip(out.par_chunks_mut(output.max(1))).for_each(|(x, out)| {
            winograd.run(Picture { numbers: x, height, width }, None, out, false);
        });
        out
    }
}

impl Function for Convolution {
    fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if let Some(channels) = shape.get_mut(1) {
            *channels = self.output;
        }
        shape
    }

    fn forward(&self, [x, weight, bias]: [&[f32]; 3], shape: &[usize]) -> Vec<f32> {
        let kernel = Kernel { weight, bias, input: self.input, output: self.output };
        Self::run(x, Self::pixels(shape), kernel)
    }

    fn backward(
        &self,
        [x, weight, _]: [&[f32]; 3],
        shape: &[usize],
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> [Vec<f32>; 3] {
        let [height, width] = Self::pixels(shape);
        let pixels = height * width;
        let of_input = if wanted[0] {
            let turned = gradient::turned(weight, [self.input, self.output]);
            let bias = vec![0.0; self.input];
            let kernel = Kernel { weight: &turned, bias: &bias, input: self.output, output: self.input };
            Self::run(gradient, [height, width], kernel)
        } else {
            Vec::new()
        };
        let samples = x.par_chunks(self.input * pixels).zip(gradient.par_chunks(self.output * pixels));
        let parts = samples
            .map(|(x, gradient)| gradient::of_weights(Picture { numbers: x, height, width }, gradient));
        let of_weight = sum_of(parts.collect(), weight.len());
        let bias_parts = gradient
            .chunks(self.output * pixels)
            .map(|sample| sample.chunks(pixels).map(|channel| channel.iter().sum::<f32>()).collect());
        [of_input, of_weight, sum_of(bias_parts.collect(), self.output)]
    }
}

/// 3x3, size kept: `x` `[batch, in, H, W]`, weight `[out, in, 3, 3]`, bias `[out]` -> `[batch, out, H, W]`.
pub(crate) fn same(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [output, input, ..] = weight.dims();
    record(Convolution { input, output }, x, weight.reshape([output * input * 9]), bias)
}

#[cfg(test)]
mod tests {
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;

    use super::super::tests::{difference, random};
    use super::*;

    #[test]
    fn a_convolution_and_its_gradients_agree_with_burns() {
        for ([input, output], [height, width]) in [([5, 7], [6, 9]), ([3, 32], [16, 16]), ([32, 3], [8, 8])] {
            let x = random([2, input, height, width]);
            let (weight, bias) = (random([output, input, 3, 3]), random([output]));
            let weights = random([2, output, height, width]).detach();
            let ours = same(x.clone(), weight.clone(), bias.clone());
            let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
            let burns = conv2d(x.clone(), weight.clone(), Some(bias.clone()), options);
            assert!(difference(ours.clone(), burns.clone()) < 1e-3);
            let [a, b] = [ours, burns].map(|y| (y * weights.clone()).sum().backward());
            let of = |gradient: Option<Tensor<4>>| Tensor::from_inner(gradient.unwrap());
            assert!(difference(of(x.grad(&a)), of(x.grad(&b))) < 1e-3);
            assert!(difference(of(weight.grad(&a)), of(weight.grad(&b))) < 2e-3);
            let of = |gradient: Option<Tensor<1>>| Tensor::from_inner(gradient.unwrap());
            assert!(difference(of(bias.grad(&a)), of(bias.grad(&b))) < 1e-3);
        }
    }
}
