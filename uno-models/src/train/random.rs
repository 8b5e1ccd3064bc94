//! Draws that depend on a seed, a counter and a purpose alone. Nothing has to be remembered between draws: a run that is resumed
//! at sample n draws what an uninterrupted one would have drawn, and samples may be computed in any order or on any machine.

use uno_core::noise::{RESIDENT_THREADS, torch_cuda_normal};

/// What is drawn for. Draws for different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The noise that a latent is mixed with.
    Noise,
    /// The time of a sample.
    Time,
    /// Whether a prompt is dropped.
    TextDropout,
    /// The order of the data.
    Shuffle,
    /// First values of parameters.
    Init,
    /// Anything else of the caller's, told apart by a number.
    Other(u32),
}

/// A stream of draws for one purpose and one counter.
#[derive(Debug, Clone)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// The stream for `purpose` at `counter` (a sample's number, an epoch, the number of a parameter).
    pub fn new(seed: u64, purpose: Purpose, counter: u64) -> Self {
        let purpose = match purpose {
            Purpose::Noise => 1,
            Purpose::Time => 2,
            Purpose::TextDropout => 3,
            Purpose::Shuffle => 4,
            Purpose::Init => 5,
            Purpose::Other(n) => 0x1_0000_0000 + u64::from(n),
        };
        Self { state: mix(mix(mix(seed) ^ purpose) ^ counter) }
    }

    /// 64 random bits (SplitMix64: Steele, Lea and Flood, 2014).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0 to `count - 1`; 0 if there is nothing to choose from.
    pub fn below(&mut self, count: usize) -> usize {
        // The bias is below count / 2^64.
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// `count` standard normal values.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        torch_cuda_normal(self.bits(), count, RESIDENT_THREADS)
    }

    /// The numbers 0 to `count - 1` in a random order (Fisher and Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// The finalizer of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_starts_as_published() {
        // SplitMix64 from state 0: the first values of the reference implementation.
        let mut draws = Draws { state: 0 };
        assert_eq!(draws.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(draws.bits(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn equal_counters_give_equal_draws_and_others_differ() {
        let first = |seed, purpose, counter| Draws::new(seed, purpose, counter).bits();
        let base = first(1, Purpose::Noise, 2);
        assert_eq!(base, first(1, Purpose::Noise, 2));
        for other in [first(2, Purpose::Noise, 2), first(1, Purpose::Time, 2), first(1, Purpose::Noise, 3)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn uniform_draws_are_uniform_and_permutations_hold_everything_once() {
        let mut draws = Draws::new(0, Purpose::Time, 0);
        let mean = (0..10_000).map(|_| draws.uniform()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let mut counts = [0; 5];
        (0..10_000).for_each(|_| counts[draws.below(5)] += 1);
        assert!(counts.iter().all(|n| (1800..2200).contains(n)), "{counts:?}");
        let mut order = draws.permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        assert!(draws.permutation(0).is_empty() && draws.below(0) == 0);
    }
}
