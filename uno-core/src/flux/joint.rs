//! The blocks on any device, by burn's operations.

use burn::tensor::Tensor;

use super::reference_cache::References;
use super::run::{BlockTokens, Extent};
use super::{DoubleStreamBlock, Rope, SingleStreamBlock};

/// Text and image on their way through the blocks: apart, then joined.
pub(super) struct Joint<'a> {
    /// `[batch, tokens, hidden]`; empty once they are joined.
    txt: Option<Tensor<3>>,
    /// Image tokens, or all of them once they are joined.
    x: Tensor<3>,
    extent: Extent,
    rope: &'a Rope,
}

impl<'a> Joint<'a> {
    /// Begins with text and image tokens, `[batch, tokens, hidden]`.
    pub(super) fn new(txt: Tensor<3>, img: Vec<Tensor<3>>, extent: Extent, rope: &'a Rope) -> Self {
        Self { txt: Some(txt), x: Tensor::cat(img, 1), extent, rope }
    }
}

impl BlockTokens for Joint<'_> {
    fn double(&mut self, block: &DoubleStreamBlock, modulation: [Tensor<3>; 2], references: References<'_>) {
        // All blocks with two streams come before those with one.
        let Some(txt) = self.txt.take() else { return };
        let references = (self.extent.references, references);
        let (img, txt) = block.forward_modulated(self.x.clone(), txt, modulation, self.rope, references);
        self.x = img;
        self.txt = Some(txt);
    }

    fn single(
        &mut self,
        block: &SingleStreamBlock,
        modulation: Tensor<3>,
        references: References<'_>,
        _is_last: bool,
    ) {
        if let Some(txt) = self.txt.take() {
            self.x = Tensor::cat(vec![txt, self.x.clone()], 1);
        }
        let references = (self.extent.references, references);
        self.x = block.forward_modulated(self.x.clone(), modulation, self.rope, references);
    }

    fn latent(&self) -> Tensor<3> {
        let first = if self.txt.is_some() { 0 } else { self.extent.text };
        self.x.clone().narrow(1, first, self.extent.latent)
    }
}
