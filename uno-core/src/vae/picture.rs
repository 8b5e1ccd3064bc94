//! Pictures as plain numbers, for the way through the network on the CPU in f32.

use burn::tensor::Tensor;

use crate::kernels::{convolution, numbers, tensor};

/// One picture or what became of it: `[channels, height, width]`.
pub(super) struct Picture {
    pub(super) numbers: Vec<f32>,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Picture {
    /// All zeros.
    pub(super) fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { numbers: vec![0.0; channels * height * width], channels, height, width }
    }

    /// `[1, channels, height, width]`
    pub(super) fn from_tensor(x: Tensor<4>) -> Self {
        let [_, channels, height, width] = x.dims();
        Self { numbers: numbers(x), channels, height, width }
    }

    /// `[1, channels, height, width]`
    pub(super) fn into_tensor(self) -> Tensor<4> {
        tensor(self.numbers, [1, self.channels, self.height, self.width])
    }

    /// As convolutions read it.
    pub(super) fn view(&self) -> convolution::Picture<'_> {
        convolution::Picture { numbers: &self.numbers, height: self.height, width: self.width }
    }
}
