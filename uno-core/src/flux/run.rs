//! One generation's way through the transformer, step by step: what is computed once for all steps, what is kept from one to the
//! next, and the blocks in their order.

use burn::tensor::Tensor;

use super::first_block_cache::FirstBlockCache;
use super::in_place::InPlace;
use super::joint::Joint;
use super::modulation::{Modulations, StepModulation};
use super::reference_cache::{ReferenceCache, References};
use super::{DoubleStreamBlock, Flux, Rope, SingleStreamBlock};
use crate::approximation::Approximation;
use crate::nn::{EPS, Prefetch, layer_norm_plain, reading_ahead};
use crate::traits::Conditioning;

/// The tokens of one step on their way through the blocks.
pub(super) trait BlockTokens {
    /// Runs a block with two streams. `modulation` is that of image and text, `[batch, 1, 6 * hidden]` each.
    fn double(&mut self, block: &DoubleStreamBlock, modulation: [Tensor<3>; 2], references: References<'_>);

    /// Runs a block with one stream, with its modulation `[batch, 1, 3 * hidden]`. After the last one, only the latent's tokens
    /// need to be right.
    fn single(
        &mut self,
        block: &SingleStreamBlock,
        modulation: Tensor<3>,
        references: References<'_>,
        is_last: bool,
    );

    /// The latent's tokens, `[batch, latent tokens, hidden]`.
    fn latent(&self) -> Tensor<3>;
}

/// How the tokens of a sequence are made up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) text: usize,
    pub(super) latent: usize,
    pub(super) references: usize,
}

/// A generation of some samples.
pub(super) struct Run<'a> {
    flux: &'a Flux,
    /// `[batch, text tokens, hidden]`.
    txt: Tensor<3>,
    /// `[batch, tokens, hidden]` each.
    references: Vec<Tensor<3>>,
    rope: Rope,
    modulations: Modulations<'a>,
    first_block_cache: Option<FirstBlockCache>,
    reference_cache: Option<ReferenceCache>,
}

impl<'a> Run<'a> {
    /// `times` `[steps, batch]`, `guidance` `[batch]`; everything was checked to fit together.
    pub(super) fn new(
        flux: &'a Flux,
        conditioning: &Conditioning,
        times: Vec<f32>,
        guidance: &[f32],
        approximation: Approximation,
    ) -> Self {
        let embed = |x: &Tensor<3>| x.clone().to_device(&flux.device).cast(flux.dtype);
        let references = conditioning.references.iter();
        let references: Vec<_> = references.map(|r| flux.img_in.forward(embed(r))).collect();
        let blocks = flux.double_blocks.len() + flux.single_blocks.len();
        let interval = approximation.reference_cache.filter(|&steps| steps > 1 && !references.is_empty());
        Self {
            txt: flux.txt_in.forward(embed(&conditioning.txt)),
            references,
            rope: Rope::new(&conditioning.ids, flux.config.head_dim(), &flux.device),
            modulations: Modulations::new(flux, conditioning.vec.clone(), times, guidance),
            first_block_cache: approximation.first_block_cache.map(FirstBlockCache::new),
            reference_cache: interval.map(|steps| ReferenceCache::new(steps, blocks)),
            flux,
        }
    }

    /// The velocity of a packed latent at one step, and whether most blocks were spared.
    pub(super) fn velocity(&mut self, step: usize, latent: Tensor<3>) -> (Tensor<3>, bool) {
        let flux = self.flux;
        let latent = flux.img_in.forward(latent.to_device(&flux.device).cast(flux.dtype));
        let modulation = self.modulations.at(step);
        let (after_all, reused) = self.blocks(step, latent, &modulation);
        let [shift, scale] = modulation.last;
        let normed = layer_norm_plain(after_all, EPS) * scale.add_scalar(1.0) + shift;
        (flux.final_layer.linear.forward(normed), reused)
    }

    /// All blocks, or the first one: `[batch, latent tokens, hidden]` -> the same.
    fn blocks(&mut self, step: usize, before: Tensor<3>, modulation: &StepModulation) -> (Tensor<3>, bool) {
        let flux = self.flux;
        let served = self.reference_cache.as_ref().is_some_and(|cache| cache.serves(step));
        let extent = Extent {
            text: self.txt.dims()[1],
            latent: before.dims()[1],
            references: self.references.iter().map(|r| r.dims()[1]).sum(),
        };
        let mut img = vec![before.clone()];
        if !served {
            img.extend(self.references.iter().cloned());
        }
        let mut tokens: Box<dyn BlockTokens + '_> = if InPlace::serves(&self.txt, flux.blocks()) {
            let has_single = !flux.single_blocks.is_empty();
            let mlp = flux.config.mlp_hidden;
            Box::new(InPlace::new(self.txt.clone(), img, extent, &self.rope, mlp, has_single))
        } else {
            Box::new(Joint::new(self.txt.clone(), img, extent, &self.rope))
        };
        let depth = flux.double_blocks.len();
        let following = |i: usize| flux.blocks().nth(i + 1);
        let mut after_first = None;
        for (i, block) in flux.double_blocks.iter().enumerate() {
            let references = of_block(&mut self.reference_cache, i, served);
            let modulation = modulation.double[i].clone();
            reading_ahead(following(i), || tokens.double(block, modulation, references));
            if let Some(cache) = self.first_block_cache.as_ref().filter(|_| i == 0) {
                let now = tokens.latent();
                if let Some(after_all) = cache.after_all(&before, &now) {
                    return (after_all, true);
                }
                after_first = Some(now);
            }
        }
        for (i, block) in flux.single_blocks.iter().enumerate() {
            let references = of_block(&mut self.reference_cache, depth + i, served);
            let (modulation, is_last) = (modulation.single[i].clone(), i + 1 == flux.single_blocks.len());
            reading_ahead(following(depth + i), || tokens.single(block, modulation, references, is_last));
        }

        let after_all = tokens.latent();
        if let Some((cache, after_first)) = self.first_block_cache.as_mut().zip(after_first) {
            cache.keep(before, after_first, after_all.clone());
        }
        if let Some(cache) = self.reference_cache.as_mut().filter(|_| !served) {
            cache.refreshed(step);
        }
        (after_all, false)
    }
}

/// What a block does about the references' keys and values.
fn of_block(cache: &mut Option<ReferenceCache>, i: usize, served: bool) -> References<'_> {
    cache.as_mut().map_or(References::Computed, |cache| cache.of(i, served))
}

impl Flux {
    /// All blocks, first to last.
    fn blocks(&self) -> impl Iterator<Item = &dyn Prefetch> {
        let double = self.double_blocks.iter().map(|block| block as &dyn Prefetch);
        double.chain(self.single_blocks.iter().map(|block| block as &dyn Prefetch))
    }
}
