//! Initial noise that equals PyTorch's for the same seed.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::flux::round_to;

/// Whose random numbers are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoiseSource {
    /// `torch.randn(..., device="cuda")`: what the official pipeline draws on a GPU.
    #[default]
    TorchCuda,
    /// `torch.randn(..., device="cpu")`.
    TorchCpu,
}

/// Threads that an NVIDIA GPU keeps resident; PyTorch's numbers repeat their pattern with this period. 270,336 is an H100's
/// (132 multiprocessors of 2048 threads). Latents up to 768x768 (147,456 numbers) do not depend on it on any data-centre GPU.
pub const RESIDENT_THREADS: usize = 132 * 2048;

/// Standard normal noise for one latent of `[1, channels, 2 * ceil(height / 16), 2 * ceil(width / 16)]`, f32.
///
/// `dtype` is the format that it is drawn in (the official pipeline draws bf16); the numbers are rounded to it.
/// `height` and `width` are in pixels.
///
/// # Errors
///
/// None at present; the signature leaves room for sources that read files.
pub fn latent_noise(
    source: NoiseSource,
    seed: u64,
    channels: usize,
    [height, width]: [usize; 2],
    dtype: FloatDType,
    device: &Device,
) -> Result<Tensor<4>> {
    let shape = [1, channels, 2 * height.div_ceil(16), 2 * width.div_ceil(16)];
    let count = shape.iter().product();
    let mut values = match source {
        NoiseSource::TorchCpu => torch_cpu_normal(seed, count),
        NoiseSource::TorchCuda => torch_cuda_normal(seed, count, RESIDENT_THREADS),
    };
    values.iter_mut().for_each(|x| *x = round_to(*x, dtype));
    Ok(Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)))
}

/// `count` values of `torch.randn` on the CPU, at least 16 (ATen `DistributionTemplates.h: normal_fill`; for fewer, PyTorch
/// has another algorithm, which no latent is small enough to need).
///
/// PyTorch keeps the low 32 bits of the seed for its Mersenne twister.
fn torch_cpu_normal(seed: u64, count: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed as u32);
    let mut values: Vec<f32> = (0..count).map(|_| generator.uniform24()).collect();
    let whole = count - count % 16;
    values[..whole].as_chunks_mut().0.iter_mut().for_each(box_muller_16);
    if whole < count
        && let Some(last) = values.last_chunk_mut::<16>()
    {
        last.iter_mut().for_each(|x| *x = generator.uniform24());
        box_muller_16(last);
    }
    values
}

fn box_muller_16(group: &mut [f32; 16]) {
    let (first, second) = group.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        (*b, *a) = polar(1.0 - *a, 2.0 * std::f32::consts::PI * *b);
    }
}

/// `(r sin angle, r cos angle)` with `r = sqrt(-2 ln u)`. The functions are evaluated in f64 and rounded, so that no
/// platform's own f32 functions show.
fn polar(u: f32, angle: f32) -> (f32, f32) {
    let r = (-2.0 * f64::from(u).ln()).sqrt() as f32;
    let (sin, cos) = f64::from(angle).sin_cos();
    (r * sin as f32, r * cos as f32)
}

/// `count` values of `torch.randn` on a GPU with `resident_threads` threads (ATen `DistributionTemplates.h` on CUDA:
/// a grid-stride loop in which each thread takes four values per round from its own Philox stream).
pub fn torch_cuda_normal(seed: u64, count: usize, resident_threads: usize) -> Vec<f32> {
    const BLOCK: usize = 256;
    // As many whole blocks as there are values for, but no more than fit on the GPU.
    let threads = (count.div_ceil(BLOCK) * BLOCK).min(resident_threads.max(BLOCK) / BLOCK * BLOCK).max(BLOCK);
    let mut values = vec![0.0; count];
    for thread in 0..threads.min(count) {
        for round in 0..count.div_ceil(4 * threads) {
            let words = philox4x32(seed, round as u64, thread as u64);
            let normal = box_muller_4(words);
            for (k, value) in normal.into_iter().enumerate() {
                if let Some(slot) = values.get_mut(thread + (4 * round + k) * threads) {
                    *slot = value;
                }
            }
        }
    }
    values
}

/// Two Box-Muller pairs from four words, sine first (cuRAND `curand_normal4`).
fn box_muller_4([x0, x1, x2, x3]: [u32; 4]) -> [f32; 4] {
    const TO_UNIT: f32 = 1.0 / 4_294_967_296.0;
    const TO_ANGLE: f32 = TO_UNIT * 2.0 * std::f32::consts::PI;
    let pair = |x: u32, y: u32| {
        let u = x as f32 * TO_UNIT + TO_UNIT / 2.0;
        let v = y as f32 * TO_ANGLE + TO_ANGLE / 2.0;
        polar(u, v)
    };
    let ((a, b), (c, d)) = (pair(x0, x1), pair(x2, x3));
    [a, b, c, d]
}

/// Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011);
/// the counter is (offset, stream), the key the seed.
fn philox4x32(seed: u64, offset: u64, stream: u64) -> [u32; 4] {
    const M: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut x = [offset as u32, (offset >> 32) as u32, stream as u32, (stream >> 32) as u32];
    for _ in 0..10 {
        let (p0, p1) = (M[0] * u64::from(x[0]), M[1] * u64::from(x[2]));
        x = [(p1 >> 32) as u32 ^ x[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ x[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(W[0]), key[1].wrapping_add(W[1])];
    }
    x
}

/// Mersenne twister MT19937 (Matsumoto and Nishimura, 1998).
struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: 624 }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in [0, 1) with 24 bits.
    fn uniform24(&mut self) -> f32 {
        (self.next_u32() & 0xff_ffff) as f32 / 16_777_216.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_starts_as_published() {
        let mut generator = Mt19937::new(5489);
        assert_eq!(generator.next_u32(), 3_499_211_612);
        assert_eq!((1..10_000).map(|_| generator.next_u32()).last(), Some(4_123_659_995));
    }

    #[test]
    fn philox_gives_the_published_words() {
        // Known answers of the Random123 distribution (philox4x32, 10 rounds).
        assert_eq!(philox4x32(0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32(u64::MAX, u64::MAX, u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn seed_zero_on_a_gpu_starts_with_the_values_that_people_know() {
        // torch.manual_seed(0); torch.randn(5, device="cuda")
        let known = [-0.924_662_6, -0.425_344_15, -2.643_845_8, 0.145_183_88, -0.120_866_47];
        for (got, known) in torch_cuda_normal(0, 5, RESIDENT_THREADS).into_iter().zip(known) {
            assert!((got - known).abs() < 2e-6, "{got} is not {known}");
        }
    }

    #[test]
    fn beyond_the_resident_threads_the_later_outputs_of_a_thread_follow() {
        let small = torch_cuda_normal(7, 256, 256);
        let large = torch_cuda_normal(7, 256 * 5, 256);
        assert_eq!(small, large[..256]);
        let words = philox4x32(7, 0, 3);
        assert_eq!(large[256 + 3], box_muller_4(words)[1]);
        assert_eq!(large[4 * 256 + 3], box_muller_4(philox4x32(7, 1, 3))[0]);
    }

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        for values in [torch_cpu_normal(1, 65_536), torch_cuda_normal(1, 65_536, RESIDENT_THREADS)] {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32;
            assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        }
    }
}
