//! Keys and values of the references' tokens, kept over some steps ([`Approximation::reference_cache`]).
//!
//! What the references contribute to attention changes from step to step, since they attend to the latent and are modulated by
//! the time, but it changes slowly. Between refreshes their tokens are not computed at all.
//!
//! [`Approximation::reference_cache`]: crate::approximation::Approximation::reference_cache

use burn::tensor::Tensor;

/// Keys (normed and rotated) and values of the references' tokens in one block.
#[derive(Debug)]
pub(super) enum KeysValues {
    /// `[batch, tokens, 2 * hidden]`, keys before values: of blocks that run in place.
    Numbers(Vec<f32>),
    /// `[batch, heads, tokens, D]` each.
    Tensors([Tensor<4>; 2]),
}

/// What a block does about the references' keys and values.
#[derive(Debug)]
pub(super) enum References<'c> {
    /// Their tokens are among the others.
    Computed,
    /// The same; their keys and values are kept.
    Recorded(&'c mut Option<KeysValues>),
    /// Their tokens are not there; these are their keys and values.
    Cached(&'c KeysValues),
}

/// The cache of all blocks.
#[derive(Debug)]
pub(super) struct ReferenceCache {
    interval: usize,
    refreshed: Option<usize>,
    blocks: Vec<Option<KeysValues>>,
}

impl ReferenceCache {
    /// For so many blocks, to be refreshed at every `interval` steps.
    pub(super) fn new(interval: usize, blocks: usize) -> Self {
        Self { interval, refreshed: None, blocks: (0..blocks).map(|_| None).collect() }
    }

    /// Whether a step takes keys and values from here.
    pub(super) fn serves(&self, step: usize) -> bool {
        self.refreshed.is_some_and(|last| (last..last + self.interval).contains(&step))
    }

    /// What block `i` does in a step that is served, or in one that is not.
    pub(super) fn of(&mut self, i: usize, served: bool) -> References<'_> {
        match self.blocks.get_mut(i) {
            Some(slot) if !served => References::Recorded(slot),
            Some(Some(cached)) => References::Cached(cached),
            _ => References::Computed,
        }
    }

    /// Notes that all blocks were recorded in this step.
    pub(super) fn refreshed(&mut self, step: usize) {
        self.refreshed = Some(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_serves_until_its_interval_is_over() {
        let mut cache = ReferenceCache::new(3, 1);
        assert!(!cache.serves(0));
        cache.refreshed(0);
        assert_eq!([1, 2, 3].map(|step| cache.serves(step)), [true, true, false]);
        cache.refreshed(3);
        assert!(cache.serves(5) && !cache.serves(6));
    }
}
