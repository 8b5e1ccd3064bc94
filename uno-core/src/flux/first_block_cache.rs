//! Steps that resemble the one before, told by what the first block does ([`Approximation::first_block_cache`]).
//!
//! After ParaAttention's "first block cache", which follows TeaCache (arXiv 2411.19108).
//!
//! [`Approximation::first_block_cache`]: crate::approximation::Approximation::first_block_cache

use burn::tensor::{FloatDType, Tensor};

/// What the blocks added to the latent's tokens, `[1, latent tokens, hidden]`, at the last step that ran all of them.
#[derive(Debug)]
pub(super) struct FirstBlockCache {
    threshold: f32,
    last: Option<Added>,
}

#[derive(Debug)]
struct Added {
    by_first: Tensor<3>,
    by_rest: Tensor<3>,
}

impl FirstBlockCache {
    /// Reuses while the first block's addition differs by less than this part of its mean magnitude.
    pub(super) fn new(threshold: f32) -> Self {
        Self { threshold, last: None }
    }

    /// The latent's tokens after the last block, if those after the first tell that the rest can be spared.
    pub(super) fn after_all(&self, before: &Tensor<3>, after_first: &Tensor<3>) -> Option<Tensor<3>> {
        let last = self.last.as_ref()?;
        let by_first = after_first.clone() - before.clone();
        let change = mean_magnitude(by_first - last.by_first.clone())?;
        let magnitude = mean_magnitude(last.by_first.clone())?;
        (change < self.threshold * magnitude).then(|| after_first.clone() + last.by_rest.clone())
    }

    /// Keeps what the blocks of a full step added.
    pub(super) fn keep(&mut self, before: Tensor<3>, after_first: Tensor<3>, after_all: Tensor<3>) {
        let by_first = after_first.clone() - before;
        self.last = Some(Added { by_first, by_rest: after_all - after_first });
    }
}

/// `None` where it is not finite.
fn mean_magnitude(x: Tensor<3>) -> Option<f32> {
    let mean = x.cast(FloatDType::F32).abs().mean().try_into_scalar::<f32>().ok()?;
    mean.is_finite().then_some(mean)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_rest_is_spared_only_while_the_first_block_adds_nearly_the_same() {
        let of = |x: f32| Tensor::<3>::full([1, 4, 8], x, &Device::flex());
        let mut cache = FirstBlockCache::new(0.1);
        assert!(cache.after_all(&of(0.0), &of(1.0)).is_none());
        cache.keep(of(0.0), of(1.0), of(5.0));
        let spared = cache.after_all(&of(2.0), &of(3.05)).unwrap();
        assert!((spared.mean().into_scalar::<f32>() - 7.05).abs() < 1e-5);
        assert!(cache.after_all(&of(2.0), &of(3.2)).is_none());
        assert!(cache.after_all(&of(2.0), &of(f32::NAN)).is_none());
    }
}
