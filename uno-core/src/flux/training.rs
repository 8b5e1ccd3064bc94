//! Gradients of what trains inside the blocks, with gradient checkpointing: between forward and backward only the input of each
//! block is kept, and a block's activations are computed again when it is its turn on the way back (Chen et al., arXiv 1604.06174).
//!
//! burn checkpoints single operations, which keeps most of a block's activations; so blocks are run one by one here.

use burn::module::Module;
use burn::tensor::{Gradients, Tensor};

use super::modulation::{Modulations, StepModulation};
use super::reference_cache::References;
use super::{Flux, Rope};
use crate::error::{Error, Result};
use crate::nn::{EPS, layer_norm_plain};
use crate::traits::VelocityInput;

/// Everything of one evaluation that stays while blocks are run again.
struct Evaluation<'a> {
    flux: &'a Flux,
    modulation: StepModulation,
    rope: Rope,
    text_tokens: usize,
}

impl Flux {
    /// Evaluates the velocity, `loss` of it (a scalar), and the gradients of what requires them in this model, which has to
    /// be inside the blocks. `collect` is called with parts of the gradients; each parameter is in exactly one part. Returns the
    /// loss.
    ///
    /// With `by_block`, each block runs twice, and only one block's activations are in memory at a time.
    ///
    /// # Errors
    ///
    /// Shapes that do not fit together or to the model; nothing that requires gradients; with `by_block`, something outside of
    /// the blocks that does.
    pub fn backward(
        &self,
        input: VelocityInput<'_>,
        by_block: bool,
        loss: impl FnOnce(Tensor<3>) -> Tensor<1>,
        mut collect: impl FnMut(&Gradients),
    ) -> Result<Tensor<1>> {
        let nothing = || Error::invalid("gradients", "none", "a model with parameters that require them");
        self.check(&input)?;
        let VelocityInput { latent, t, guidance, conditioning } = input;
        let embed = |x: &Tensor<3>| x.clone().to_device(&self.device).cast(self.dtype);
        let txt = self.txt_in.forward(embed(&conditioning.txt));
        let mut parts = vec![txt.clone(), self.img_in.forward(embed(&latent))];
        parts.extend(conditioning.references.iter().map(|r| self.img_in.forward(embed(r))));
        let before = Tensor::cat(parts, 1);
        let modulation = Modulations::new(self, conditioning.vec.clone(), t.to_vec(), guidance).at(0);
        let evaluation = Evaluation {
            flux: self,
            modulation,
            rope: Rope::new(&conditioning.ids, self.config.head_dim(), &self.device),
            text_tokens: txt.dims()[1],
        };

        let before = before.autodiff();
        let blocks = self.double_blocks.len() + self.single_blocks.len();
        if !by_block {
            let after = (0..blocks).fold(before, |x, i| evaluation.block(i, x));
            let loss = loss(evaluation.last(after, latent.dims()[1]));
            if !loss.is_tracked() {
                return Err(nothing());
            }
            collect(&loss.backward());
            return Ok(loss.inner());
        }
        let outside = [&before, &evaluation.modulation.last[0]].into_iter();
        let of_blocks = &evaluation.modulation;
        let of_blocks = of_blocks.double.iter().flatten().chain(&of_blocks.single);
        if outside.chain(of_blocks).any(Tensor::is_tracked) {
            let wanted = "parameters inside the blocks only; or no gradient checkpointing";
            return Err(Error::invalid("gradients", "some outside of the blocks", wanted));
        }

        // Forward. Without graph, but by the operations that the way back uses, so that both see the same numbers.
        let frozen = self.clone().no_grad();
        let forward = Evaluation { flux: &frozen, ..evaluation };
        let mut inputs = vec![before];
        for i in 0..blocks {
            let after = forward.block(i, inputs[i].clone());
            inputs.push(after.detach());
        }
        let evaluation = Evaluation { flux: self, ..forward };

        // Last layer and loss.
        let leaf = |x: Tensor<3>| x.inner().autodiff().require_grad();
        let after = leaf(inputs.pop().ok_or_else(nothing)?);
        let loss = loss(evaluation.last(after.clone(), latent.dims()[1]));
        let gradients = loss.backward();
        collect(&gradients);
        let mut flowing = after.grad(&gradients).ok_or_else(nothing)?;
        drop(gradients);

        // Backward through the blocks. The gradient of sum(y * g) for a constant g is that of y under g.
        let mut found = false;
        for i in (0..blocks).rev() {
            let input = inputs.pop().ok_or_else(nothing)?;
            // Nobody asks for the gradient of the first block's input.
            let input = if i == 0 { input } else { leaf(input) };
            let output = evaluation.block(i, input.clone());
            if !output.is_tracked() {
                break;
            }
            let gradients = (output * Tensor::from_inner(flowing)).sum().backward();
            collect(&gradients);
            found = true;
            flowing = match input.grad(&gradients) {
                Some(gradient) => gradient,
                None => break,
            };
        }
        if found { Ok(loss.inner()) } else { Err(nothing()) }
    }
}

impl Evaluation<'_> {
    /// Block `i`, counted over both kinds: `[batch, text and image tokens, hidden]` -> the same.
    fn block(&self, i: usize, x: Tensor<3>) -> Tensor<3> {
        let computed = || (0, References::Computed);
        let depth = self.flux.double_blocks.len();
        if let Some(block) = self.flux.double_blocks.get(i) {
            let tokens = x.dims()[1];
            let txt = x.clone().narrow(1, 0, self.text_tokens);
            let img = x.narrow(1, self.text_tokens, tokens - self.text_tokens);
            let modulation = self.modulation.double[i].clone();
            let (img, txt) = block.forward_modulated(img, txt, modulation, &self.rope, computed());
            return Tensor::cat(vec![txt, img], 1);
        }
        let modulation = self.modulation.single[i - depth].clone();
        self.flux.single_blocks[i - depth].forward_modulated(x, modulation, &self.rope, computed())
    }

    /// From the last block's output to the velocity of the latent's tokens.
    fn last(&self, x: Tensor<3>, latent_tokens: usize) -> Tensor<3> {
        let [shift, scale] = self.modulation.last.clone();
        let latent = x.narrow(1, self.text_tokens, latent_tokens);
        let normed = layer_norm_plain(latent, EPS) * scale.add_scalar(1.0) + shift;
        self.flux.final_layer.linear.forward(normed)
    }
}
