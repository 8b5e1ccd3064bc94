//! What encoding and decoding take in memory, told beforehand.
//!
//! The walk repeats that of [`Encoder`](super::Encoder) and [`Decoder`](super::Decoder): at each step, what is held and what
//! the step adds. Bytes saturate, so that absurd sizes give an absurd answer and no overflow.

use super::AutoEncoderConfig;
use crate::kernels::convolution::winograd::{self, Source};
use crate::kernels::convolution::{halving, pointwise};

impl AutoEncoderConfig {
    /// Bytes that decoding to one picture of `width` x `height` takes at its most, above the weights, on the CPU: what is held
    /// on the way, and the picture. A GPU's convolutions choose their own buffers and may take more.
    pub fn decode_peak_bytes(&self, width: usize, height: usize) -> usize {
        let f = self.downsampling();
        let mut walk = Walk { height: height / f, width: width / f, peak: 0 };
        let mut channels = self.channels.last().copied().unwrap_or(self.base_channels);
        walk.convolve([self.latent_channels, channels]);
        walk.middle(channels);
        for (level, &output) in self.channels.iter().enumerate().rev() {
            for _ in 0..self.num_res_blocks + 1 {
                walk.resnet([std::mem::replace(&mut channels, output), output]);
            }
            if level > 0 {
                walk.double(output);
            }
        }
        walk.convolve([channels, 3]);
        walk.peak
    }

    /// Bytes that encoding one picture of `width` x `height` takes at its most, above the weights, on the CPU: the picture and
    /// what is held on the way.
    pub fn encode_peak_bytes(&self, width: usize, height: usize) -> usize {
        let mut walk = Walk { height, width, peak: 0 };
        let picture = walk.plane(3);
        let mut channels = self.base_channels;
        walk.convolve([3, channels]);
        for (level, &output) in self.channels.iter().enumerate() {
            for _ in 0..self.num_res_blocks {
                walk.resnet([std::mem::replace(&mut channels, output), output]);
            }
            if level + 1 < self.channels.len() {
                walk.halve(output);
            }
        }
        walk.middle(channels);
        walk.convolve([channels, 2 * self.latent_channels]);
        walk.peak.saturating_add(picture)
    }
}

/// A walk through the network at the current size.
struct Walk {
    height: usize,
    width: usize,
    peak: usize,
}

impl Walk {
    /// Bytes of all `channels` at the current size.
    fn plane(&self, channels: usize) -> usize {
        [channels, self.height, self.width].into_iter().fold(size_of::<f32>(), usize::saturating_mul)
    }

    /// Notes that so many bytes were held.
    fn note(&mut self, parts: &[usize]) {
        self.peak = self.peak.max(parts.iter().copied().fold(0, usize::saturating_add));
    }

    /// Notes a 3x3 convolution beside so many `kept` bytes (its input among them): its weights are transformed, and then it
    /// makes its result.
    fn run(&mut self, channels: [usize; 2], source: Source, kept: usize, result: usize) {
        let weights = winograd::weight_bytes(channels, source);
        let as_loaded = 9 * size_of::<f32>() * channels[0] * channels[1];
        self.note(&[kept, weights, as_loaded]);
        let scale = if source == Source::Doubled { 2 } else { 1 };
        let size = [self.height, self.width].map(|length| length.saturating_mul(scale));
        self.note(&[kept, weights, result, winograd::scratch_bytes(channels, size, source)]);
    }

    /// The first or last convolution.
    fn convolve(&mut self, [input, output]: [usize; 2]) {
        self.run([input, output], Source::Same, self.plane(input), self.plane(output));
    }

    /// A residual block: the first convolution makes a picture, the second adds to the input, whose channels were changed
    /// before if they have to.
    fn resnet(&mut self, [input, output]: [usize; 2]) {
        let made = self.plane(output);
        self.run([input, output], Source::Same, self.plane(input), made);
        if input != output {
            let scratch = pointwise::scratch_bytes([input, output], self.height.saturating_mul(self.width));
            let weights = size_of::<f32>() * input * output;
            self.note(&[made, self.plane(input.max(output)), weights, scratch]);
        }
        self.run([output, output], Source::Same, made.saturating_mul(2), 0);
    }

    fn middle(&mut self, channels: usize) {
        self.resnet([channels, channels]);
        // Attention: its input, that normed, queries, keys and values.
        let weights = size_of::<f32>() * channels * channels;
        self.note(&[self.plane(channels).saturating_mul(5), weights]);
        self.resnet([channels, channels]);
    }

    fn double(&mut self, channels: usize) {
        let plane = self.plane(channels);
        self.run([channels; 2], Source::Doubled, plane, plane.saturating_mul(4));
        (self.height, self.width) = (self.height.saturating_mul(2), self.width.saturating_mul(2));
    }

    fn halve(&mut self, channels: usize) {
        let before = self.plane(channels);
        (self.height, self.width) = (self.height / 2, self.width / 2);
        let scratch = halving::scratch_bytes(channels, channels, [self.height, self.width]);
        // The weights as loaded, and in the order in which they are used.
        let weights = 2 * 9 * size_of::<f32>() * channels * channels;
        self.note(&[before, self.plane(channels), weights, scratch]);
    }
}
