//! What encoding and decoding take in memory, told beforehand.
//!
//! The walk repeats that of [`Encoder`](super::Encoder) and [`Decoder`](super::Decoder): at each step, what is held and what
//! the step adds. Bytes saturate, so that absurd sizes give an absurd answer and no overflow.

use super::AutoEncoderConfig;
use super::strips::{Plan, STRIP_BYTES};

/// Keys and scores of one tile of burn's attention, per query.
const SCORES: usize = 64;

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

    /// Notes a convolution: by strips above its input (unless `kept`, which counts it) and result, else at once.
    fn run(&mut self, plan: Plan, kept: usize, in_place: bool) {
        let [input, output] = plan.planes(plan.steps);
        let strip = plan.strips(STRIP_BYTES).first().map_or(0, ExactSizeIterator::len);
        // The weights in the order of the convolution.
        let weights = 9 * size_of::<f32>() * plan.channels[0] * plan.channels[1];
        if strip == plan.steps {
            self.note(&[kept, 2 * input, output, plan.patches(strip), weights]);
        } else {
            let input = if kept == 0 || in_place { input } else { 0 };
            let output = if in_place { 0 } else { output };
            self.note(&[kept, input, output, plan.bytes(strip), weights]);
        }
    }

    /// The first or last convolution: its input is not needed afterwards.
    fn convolve(&mut self, channels: [usize; 2]) {
        self.run(Plan::same(channels, self.height, self.width), 0, false);
    }

    /// A residual block: the first convolution keeps its input, the second writes over its own.
    fn resnet(&mut self, [input, output]: [usize; 2]) {
        let kept = self.plane(input);
        self.run(Plan::same([input, output], self.height, self.width), kept, false);
        self.run(Plan::same([output, output], self.height, self.width), kept, true);
    }

    fn middle(&mut self, channels: usize) {
        self.resnet([channels, channels]);
        // Attention: its input; queries, keys and values twice; the result.
        let plane = self.plane(channels);
        self.note(&[plane.saturating_mul(8), self.plane(SCORES)]);
        self.resnet([channels, channels]);
    }

    fn double(&mut self, channels: usize) {
        self.run(Plan::doubling(channels, self.height, self.width), 0, false);
        (self.height, self.width) = (self.height.saturating_mul(2), self.width.saturating_mul(2));
    }

    fn halve(&mut self, channels: usize) {
        self.run(Plan::halving(channels, self.height, self.width), 0, false);
        (self.height, self.width) = (self.height / 2, self.width / 2);
    }
}
