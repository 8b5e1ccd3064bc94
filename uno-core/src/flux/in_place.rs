//! The blocks on the CPU in f32, with weights as stored: the same sums as in [`blocks`](super::blocks), in three buffers that
//! last from the first block to the last.
//!
//! Text, latent and references lie in one buffer from the beginning, so that nothing is ever joined or cut. Queries, keys and
//! values stay where their product put them: they are normed and rotated in place, and attention writes over the queries.
//! In a single-stream block the MLP then takes the place of keys and values, beside the attention's result, where the last
//! product wants it.

use std::ops::Range;

use burn::tensor::Tensor;

use super::blocks::{QkNorm, Stream};
use super::reference_cache::{KeysValues, References};
use super::run::{BlockTokens, Extent};
use super::{DoubleStreamBlock, Rope, SingleStreamBlock};
use crate::kernels::activation::gelu_in_place;
use crate::kernels::attention::{Bias, attention};
use crate::kernels::norm::{add_gated, modulate};
use crate::kernels::rope::norm_and_rope;
use crate::kernels::{View, ViewMut, is_ours, numbers, tensor};
use crate::nn::{EPS, Linear, Prefetch};

/// The state between blocks, and room for their intermediate results.
pub(super) struct InPlace<'a> {
    /// `[batch, tokens, hidden]`: text, latent, references unless those are cached.
    x: Vec<f32>,
    /// `[batch, tokens, hidden]`: what a product reads or has just made.
    normed: Vec<f32>,
    /// `[batch, keys, up to hidden + mlp]`: queries, keys, values; the inside of the MLP.
    wide: Vec<f32>,
    batch: usize,
    tokens: usize,
    /// Tokens that are attended to: also those of references that are cached.
    keys: usize,
    extent: Extent,
    hidden: usize,
    rope: &'a Rope,
}

/// Widths of the buffers for a block's intermediate results, in numbers per token.
fn width_of_wide(hidden: usize, mlp: usize, has_single: bool) -> usize {
    (3 * hidden).max(if has_single { hidden + mlp } else { mlp })
}

impl<'a> InPlace<'a> {
    /// Whether `blocks` can run so, on tokens like `x`.
    pub(super) fn serves(x: &Tensor<3>, mut blocks: impl Iterator<Item = &'a dyn Prefetch>) -> bool {
        is_ours(x) && blocks.all(|block| block.linears().iter().all(|l| l.is_as_stored()))
    }

    /// Begins with text and image tokens, `[batch, tokens, hidden]`.
    pub(super) fn new(
        txt: Tensor<3>,
        img: Vec<Tensor<3>>,
        extent: Extent,
        rope: &'a Rope,
        mlp: usize,
        has_single: bool,
    ) -> Self {
        let [batch, _, hidden] = txt.dims();
        let mut parts = vec![txt];
        parts.extend(img);
        let x = Tensor::cat(parts, 1);
        let tokens = x.dims()[1];
        let keys = extent.text + extent.latent + extent.references;
        let room = |tokens: usize, width: usize| vec![0.0; batch * tokens * width];
        Self {
            x: numbers(x),
            normed: room(tokens, hidden),
            wide: room(keys, width_of_wide(hidden, mlp, has_single)),
            batch,
            tokens,
            keys,
            extent,
            hidden,
            rope,
        }
    }

    fn latent_range(&self) -> Range<usize> {
        self.extent.text..self.extent.text + self.extent.latent
    }

    /// One vector of a modulation that has `parts`. -> `[batch, 1, hidden]`
    fn part<'m>(&self, modulation: &'m [f32], parts: usize, i: usize) -> View<'m> {
        let all = View::new(modulation, [self.batch, 1, parts * self.hidden]);
        all.columns(i * self.hidden..(i + 1) * self.hidden)
    }

    /// The first columns of the wide buffer.
    fn wide(&mut self, width: usize) -> ViewMut<'_> {
        ViewMut::new(&mut self.wide, [self.batch, self.keys, width])
    }

    /// Of some tokens: `(1 + scale) norm(x) + shift`.
    fn modulate(&mut self, modulation: &[f32], parts: usize, first: usize, tokens: Range<usize>) {
        let shape = [self.batch, self.tokens, self.hidden];
        let (shift, scale) = (self.part(modulation, parts, first), self.part(modulation, parts, first + 1));
        let out = ViewMut::new(&mut self.normed, shape).tokens(tokens.clone());
        modulate(View::new(&self.x, shape).tokens(tokens), shift, scale, EPS, out);
    }

    /// `linear` of some columns of the wide buffer, gated and added to the state.
    fn finish(
        &mut self,
        linear: &Linear,
        (width, columns): (usize, Range<usize>),
        (modulation, parts, gate): (&[f32], usize, usize),
        tokens: Range<usize>,
    ) {
        let shape = [self.batch, self.tokens, self.hidden];
        let gate = self.part(modulation, parts, gate);
        let from =
            View::new(&self.wide, [self.batch, self.keys, width]).columns(columns).tokens(tokens.clone());
        let mut out = ViewMut::new(&mut self.normed, shape).tokens(tokens.clone());
        linear.apply(from, 0..self.hidden, out.lend());
        add_gated(ViewMut::new(&mut self.x, shape).tokens(tokens), gate, out.view());
    }

    /// Norms and rotates queries and keys of some tokens in the wide buffer. `part` counts from queries.
    fn norm_and_rope(&mut self, norm: &QkNorm, width: usize, part: usize, tokens: Range<usize>) {
        let hidden = self.hidden;
        let norm = if part == 0 { &norm.query_norm } else { &norm.key_norm };
        let rope = self.rope;
        let scale = numbers(norm.scale.val());
        let columns = part * hidden..(part + 1) * hidden;
        let from = tokens.start * (scale.len() / 2);
        let x = self.wide(width).columns(columns).tokens(tokens);
        norm_and_rope(x, &scale, norm.eps, &rope.cos_numbers()[from..], &rope.sin_numbers()[from..]);
    }

    /// Keeps the references' keys and values, or puts those that were kept in their place.
    fn exchange(&mut self, references: References<'_>, width: usize) {
        let (hidden, first) = (self.hidden, self.extent.text + self.extent.latent);
        let shape = [self.batch, self.keys - first, 2 * hidden];
        let range = first..self.keys;
        let place = self.wide(width).columns(hidden..3 * hidden).tokens(range);
        match references {
            References::Computed | References::Cached(KeysValues::Tensors(_)) => {}
            References::Cached(KeysValues::Numbers(kept)) => {
                let kept = View::new(kept, shape);
                place.for_each_row(|sample, token, row| row.copy_from_slice(kept.row(sample, token)));
            }
            References::Recorded(slot) => {
                let mut kept = vec![0.0; shape.iter().product()];
                let from = place.view();
                let to = ViewMut::new(&mut kept, shape);
                to.for_each_row(|sample, token, row| row.copy_from_slice(from.row(sample, token)));
                *slot = Some(KeysValues::Numbers(kept));
            }
        }
    }

    /// Attention of some queries over all tokens; the result takes their place.
    fn attend(&mut self, width: usize, heads: usize, queries: Range<usize>) {
        let hidden = self.hidden;
        let (q, kv) = self.wide(width).split_columns(hidden);
        let kv = kv.view();
        let scale = 1.0 / ((hidden / heads.max(1)) as f64).sqrt();
        let [k, v] = [kv.columns(0..hidden), kv.columns(hidden..2 * hidden)];
        attention(q, k, v, heads, queries, scale as f32, Bias::None);
    }
}

impl BlockTokens for InPlace<'_> {
    fn double(&mut self, block: &DoubleStreamBlock, modulation: [Tensor<3>; 2], references: References<'_>) {
        let hidden = self.hidden;
        let [img, txt] = modulation.map(numbers);
        let text = 0..self.extent.text;
        let streams: [(&Stream, Range<usize>, Vec<f32>); 2] =
            [(&block.txt, text.clone(), txt), (&block.img, text.end..self.tokens, img)];
        for (stream, tokens, modulation) in &streams {
            self.modulate(modulation, 6, 0, tokens.clone());
            let shape = [self.batch, self.tokens, hidden];
            let from = View::new(&self.normed, shape).tokens(tokens.clone());
            let to = ViewMut::new(&mut self.wide, [self.batch, self.keys, 3 * hidden]);
            stream.attn.qkv.apply(from, 0..3 * hidden, to.tokens(tokens.clone()));
            for part in 0..2 {
                self.norm_and_rope(&stream.attn.norm, 3 * hidden, part, tokens.clone());
            }
        }
        self.exchange(references, 3 * hidden);
        self.attend(3 * hidden, block.num_heads, 0..self.tokens);
        for (stream, tokens, modulation) in &streams {
            self.finish(&stream.attn.proj, (3 * hidden, 0..hidden), (modulation, 6, 2), tokens.clone());
        }
        for (stream, tokens, modulation) in &streams {
            self.modulate(modulation, 6, 3, tokens.clone());
            let mlp = stream.mlp_in.shape()[1];
            let from = View::new(&self.normed, [self.batch, self.tokens, hidden]).tokens(tokens.clone());
            let mut inside =
                ViewMut::new(&mut self.wide, [self.batch, self.keys, mlp]).tokens(tokens.clone());
            stream.mlp_in.apply(from, 0..mlp, inside.lend());
            gelu_in_place(inside);
            self.finish(&stream.mlp_out, (mlp, 0..mlp), (modulation, 6, 5), tokens.clone());
        }
    }

    fn single(
        &mut self,
        block: &SingleStreamBlock,
        modulation: Tensor<3>,
        references: References<'_>,
        is_last: bool,
    ) {
        let hidden = self.hidden;
        let outputs = block.linear1.shape()[1];
        let mlp = outputs.saturating_sub(3 * hidden);
        let width = (3 * hidden).max(hidden + mlp);
        let shape = [self.batch, self.tokens, hidden];
        let all = 0..self.tokens;
        // After the last block nobody asks for text and references: they serve as keys and values only.
        let wanted = if is_last { self.latent_range() } else { all.clone() };
        let modulation = numbers(modulation);
        self.modulate(&modulation, 3, 0, all.clone());
        let normed = View::new(&self.normed, shape);
        let wide = ViewMut::new(&mut self.wide, [self.batch, self.keys, width]).columns(0..3 * hidden);
        if wanted == all {
            block.linear1.apply(normed, 0..3 * hidden, wide.tokens(all.clone()));
        } else {
            let (q, kv) = wide.split_columns(hidden);
            block.linear1.apply(normed.tokens(wanted.clone()), 0..hidden, q.tokens(wanted.clone()));
            block.linear1.apply(normed, hidden..3 * hidden, kv.tokens(all.clone()));
        }
        self.norm_and_rope(&block.norm, width, 0, wanted.clone());
        self.norm_and_rope(&block.norm, width, 1, all);
        self.exchange(references, width);
        self.attend(width, block.num_heads, wanted.clone());
        let normed = View::new(&self.normed, shape).tokens(wanted.clone());
        let wide = ViewMut::new(&mut self.wide, [self.batch, self.keys, width]).tokens(wanted.clone());
        let mut inside = wide.columns(hidden..hidden + mlp);
        block.linear1.apply(normed, 3 * hidden..outputs, inside.lend());
        gelu_in_place(inside);
        self.finish(&block.linear2, (width, 0..hidden + mlp), (&modulation, 3, 2), wanted);
    }

    fn latent(&self) -> Tensor<3> {
        let range = self.latent_range();
        let shape = [self.batch, range.len(), self.hidden];
        let x = View::new(&self.x, [self.batch, self.tokens, self.hidden]).tokens(range);
        let mut out = vec![0.0; shape.iter().product()];
        let to = ViewMut::new(&mut out, shape);
        to.for_each_row(|sample, token, row| row.copy_from_slice(x.row(sample, token)));
        tensor(out, shape)
    }
}
