//! T5 v1.1 encoder: token ids to one state per token.
//!
//! After transformers' `models/t5/modeling_t5.py` (`T5EncoderModel`). There is no attention mask: padding is attended to.

use burn::module::{Module, Param};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernels::activation::gated_gelu;
use crate::kernels::attention::{Bias, attention as attention_in_place};
use crate::kernels::{View, ViewMut, is_ours, numbers, tensor};
use crate::nn::{Embedding, Linear, Prefetch, RmsNorm, attention, join_heads, reading_ahead, split_heads};
use crate::weights::foreign::{self, Wanted};
use crate::weights::{Checkpoint, LoadOptions, Weights, layout, load};

/// Dimensions of a T5 encoder. Widths and depth come from the tensors' shapes; the rest has T5's fixed values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct T5Config {
    /// Tokens that have an embedding.
    pub vocab_size: usize,
    /// Width of the stream.
    pub d_model: usize,
    /// Width of one attention head.
    pub d_kv: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Buckets of relative positions.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share a bucket.
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in norms.
    pub layer_norm_epsilon: f64,
}

/// Of every T5. Half of a direction's buckets hold one distance each, and these must end before it.
const MAX_DISTANCE: usize = 128;
const BLOCK0: &str = "encoder.block.0.layer.0.SelfAttention";

impl T5Config {
    /// Reads all dimensions off the shapes in `checkpoint`.
    ///
    /// # Errors
    ///
    /// A tensor that tells a dimension is missing or has another rank, or heads that do not divide their width.
    pub fn detect(checkpoint: &Checkpoint) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::t5);
        foreign::check(checkpoint, Wanted::T5)?;
        let matrix = |name: &str| -> Result<[usize; 2]> {
            let shape = checkpoint.shape(name).and_then(|s| s.try_into().ok());
            shape.ok_or_else(|| foreign::lacks(checkpoint, Wanted::T5, name))
        };
        let [vocab_size, d_model] = matrix(embedding_key(checkpoint))?;
        let [inner, _] = matrix(&format!("{BLOCK0}.q.weight"))?;
        let [buckets, num_heads] = matrix(&format!("{BLOCK0}.relative_attention_bias.weight"))?;
        let [d_ff, _] = matrix("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
        // Widths of zero are refused because a file without any data could claim all other dimensions beside them.
        if num_heads == 0
            || inner == 0
            || inner % num_heads != 0
            || buckets < 4
            || buckets % 2 != 0
            || buckets / 4 >= MAX_DISTANCE
            || vocab_size == 0
            || d_model == 0
            || d_ff == 0
        {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "dimensions do not fit together: {vocab_size} tokens, width {d_model}, {num_heads} heads, inner width \
                     {inner}, feed-forward width {d_ff}, {buckets} buckets (wanted an even number from 4 to {})",
                    4 * MAX_DISTANCE - 2
                ),
            ));
        }
        Ok(Self {
            vocab_size,
            d_model,
            d_kv: inner / num_heads,
            d_ff,
            num_heads,
            num_layers: checkpoint.count("encoder.block.{}."),
            relative_attention_num_buckets: buckets,
            relative_attention_max_distance: MAX_DISTANCE,
            layer_norm_epsilon: 1e-6,
        })
    }
}

/// Files name the embedding in one of two ways, or both (the two are then the same).
fn embedding_key(checkpoint: &Checkpoint) -> &'static str {
    const KEYS: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];
    KEYS.into_iter().find(|key| checkpoint.tensors().contains_key(*key)).unwrap_or(KEYS[0])
}

#[derive(Module, Debug)]
struct Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ff_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
    num_heads: usize,
}

impl Block {
    fn load(w: Weights<'_>, config: &T5Config) -> Self {
        let (d, inner, eps) = (config.d_model, config.num_heads * config.d_kv, config.layer_norm_epsilon);
        let linear = |name: &str, shape| w.at(name, |w| Linear::load_without_bias(w, shape));
        Self {
            attention_norm: RmsNorm::load(w, "layer.0.layer_norm.weight", d, eps),
            q: linear("layer.0.SelfAttention.q", [d, inner]),
            k: linear("layer.0.SelfAttention.k", [d, inner]),
            v: linear("layer.0.SelfAttention.v", [d, inner]),
            o: linear("layer.0.SelfAttention.o", [inner, d]),
            ff_norm: RmsNorm::load(w, "layer.1.layer_norm.weight", d, eps),
            wi_0: linear("layer.1.DenseReluDense.wi_0", [d, config.d_ff]),
            wi_1: linear("layer.1.DenseReluDense.wi_1", [d, config.d_ff]),
            wo: linear("layer.1.DenseReluDense.wo", [config.d_ff, d]),
            num_heads: config.num_heads,
        }
    }

    /// The linear layer `name` of this block.
    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "layer.0.SelfAttention.q" => Some(&mut self.q),
            "layer.0.SelfAttention.k" => Some(&mut self.k),
            "layer.0.SelfAttention.v" => Some(&mut self.v),
            "layer.0.SelfAttention.o" => Some(&mut self.o),
            "layer.1.DenseReluDense.wi_0" => Some(&mut self.wi_0),
            "layer.1.DenseReluDense.wi_1" => Some(&mut self.wi_1),
            "layer.1.DenseReluDense.wo" => Some(&mut self.wo),
            _ => None,
        }
    }

    /// `x` `[1, tokens, d_model]` -> the same.
    fn forward(&self, x: Tensor<3>, bias: &PositionBias) -> Tensor<3> {
        let normed = self.attention_norm.forward(x.clone());
        let attended = self.attend(normed, bias);
        let x = x + self.o.forward(attended);
        let normed = self.ff_norm.forward(x.clone());
        let gated = gated_gelu(self.wi_0.forward(normed.clone()), self.wi_1.forward(normed));
        x + self.wo.forward(gated)
    }

    /// `[1, tokens, d_model]` -> `[1, tokens, heads * d_kv]`.
    fn attend(&self, normed: Tensor<3>, bias: &PositionBias) -> Tensor<3> {
        match bias {
            PositionBias::ByDistance(table) => {
                let q = self.q.forward(normed.clone());
                let shape = q.dims();
                let (k, v) = (numbers(self.k.forward(normed.clone())), numbers(self.v.forward(normed)));
                let mut q = numbers(q);
                let [k, v] = [View::new(&k, shape), View::new(&v, shape)];
                let bias = Bias::Distance(table);
                attention_in_place(ViewMut::new(&mut q, shape), k, v, self.num_heads, 0..shape[1], 1.0, bias);
                tensor(q, shape)
            }
            PositionBias::Whole(bias) => {
                let heads = |linear: &Linear| split_heads(linear.forward(normed.clone()), self.num_heads);
                let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
                let bias = Some(Tensor::clone(bias));
                join_heads(attention(heads(&self.q), heads(&self.k), heads(&self.v), bias, options))
            }
        }
    }
}

/// What is added to attention scores by relative position.
enum PositionBias {
    /// `[heads, 2 tokens - 1]`, by key minus query, from `1 - tokens` on: for the kernel of this crate.
    ByDistance(Vec<f32>),
    /// `[1, heads, tokens, tokens]`: for burn's.
    Whole(Box<Tensor<4>>),
}

impl Prefetch for Block {
    fn linears(&self) -> Vec<&Linear> {
        vec![&self.q, &self.k, &self.v, &self.o, &self.wi_0, &self.wi_1, &self.wo]
    }
}

/// The T5 v1.1 encoder.
#[derive(Module, Debug)]
pub struct T5Encoder {
    embedding: Embedding,
    /// `[buckets, heads]`, held by block 0 and shared by all.
    relative_attention_bias: Param<Tensor<2>>,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
    #[module(skip)]
    config: T5Config,
    #[module(skip)]
    device: Device,
    #[module(skip)]
    dtype: FloatDType,
}

impl T5Encoder {
    /// Loads the encoder; all dimensions come from the tensors' shapes. A decoder in the same file is ignored.
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::t5);
        let config = T5Config::detect(checkpoint)?;
        let embedding = embedding_key(checkpoint);
        let ignore = |key: &str| {
            key.starts_with("decoder.")
                || key == "lm_head.weight"
                || key == "logit_scale"
                || key == "encoder.embed_tokens.weight"
        };
        load(checkpoint, "a T5 encoder", options, ignore, |w| {
            let bias_shape = [config.relative_attention_num_buckets, config.num_heads];
            Ok(Self {
                embedding: Embedding::load(w, embedding, [config.vocab_size, config.d_model]),
                relative_attention_bias: w
                    .param(&format!("{BLOCK0}.relative_attention_bias.weight"), bias_shape),
                blocks: (0..config.num_layers)
                    .map(|i| w.at(format!("encoder.block.{i}"), |w| Block::load(w, &config)))
                    .collect(),
                final_layer_norm: RmsNorm::load(
                    w,
                    "encoder.final_layer_norm.weight",
                    config.d_model,
                    config.layer_norm_epsilon,
                ),
                device: w.device().clone(),
                dtype: w.dtype(),
                config: config.clone(),
            })
        })
    }

    /// Dimensions.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The linear layer that checkpoints call `name` (without `.weight`), if there is one.
    pub fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        let (block, name) = name.strip_prefix("encoder.block.")?.split_once('.')?;
        self.blocks.get_mut(block.parse::<usize>().ok()?)?.linear_mut(name)
    }

    /// The last hidden state after the final norm: token ids `[tokens]` -> `[1, tokens, d_model]`.
    ///
    /// # Errors
    ///
    /// No ids, or an id beyond the vocabulary.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor<3>> {
        let mut x = self.embedding.forward(ids, &self.device, self.dtype)?;
        let bias = self.position_bias(ids.len(), &x);
        for (i, block) in self.blocks.iter().enumerate() {
            let next = self.blocks.get(i + 1).map(|block| block as &dyn Prefetch);
            x = reading_ahead(next, &self.device, self.dtype, || block.forward(x, &bias));
        }
        Ok(self.final_layer_norm.forward(x))
    }

    /// As [`forward`](Self::forward) for several prompts of the same length at once, for training: token ids `[batch]` of
    /// `[tokens]` -> `[batch, tokens, d_model]`.
    ///
    /// # Errors
    ///
    /// No ids, lengths that differ, or an id beyond the vocabulary.
    pub fn forward_batch(&self, ids: &[&[u32]]) -> Result<Tensor<3>> {
        let (flat, tokens) = joined(ids)?;
        let x = self.embedding.forward(&flat, &self.device, self.dtype)?;
        let mut x = x.reshape([ids.len(), tokens, self.config.d_model]);
        let bias = match self.position_bias(tokens, &x) {
            PositionBias::Whole(bias) => {
                let heads = self.config.num_heads;
                PositionBias::Whole(Box::new(bias.expand([ids.len(), heads, tokens, tokens])))
            }
            by_distance => by_distance,
        };
        for block in &self.blocks {
            x = block.forward(x, &bias);
        }
        Ok(self.final_layer_norm.forward(x))
    }

    /// What is added to attention scores between as many tokens as `x` has.
    fn position_bias(&self, tokens: usize, x: &Tensor<3>) -> PositionBias {
        let T5Config { num_heads, relative_attention_num_buckets: buckets, .. } = self.config;
        let bucket = |distance| bucket(distance, buckets, self.config.relative_attention_max_distance);
        let table = self.relative_attention_bias.val();
        let last = tokens as i64 - 1;
        if is_ours(x) && is_ours(&table) {
            let table = numbers(table);
            let of_head = |head: usize| {
                (-last..=last)
                    .map(move |d| (head, d))
                    .map(|(head, d)| table[bucket(d) as usize * num_heads + head])
            };
            return PositionBias::ByDistance((0..num_heads).flat_map(of_head).collect());
        }
        let buckets: Vec<i64> =
            (0..=last).flat_map(|query| (0..=last).map(move |key| key - query)).map(bucket).collect();
        let indices = Tensor::from_data(TensorData::new(buckets, [tokens * tokens]), &self.device);
        let bias = table.select(0, indices).reshape([1, tokens, tokens, num_heads]);
        PositionBias::Whole(Box::new(bias.permute([0, 3, 1, 2])))
    }
}

/// Prompts one after another, and the tokens of each.
pub(super) fn joined(ids: &[&[u32]]) -> Result<(Vec<u32>, usize)> {
    let tokens = ids.first().map_or(0, |first| first.len());
    match ids.iter().find(|ids| ids.len() != tokens) {
        Some(other) => Err(Error::invalid(
            "token ids of a batch",
            format!("prompts of {tokens} and of {} tokens", other.len()),
            "prompts of the same length (padded)",
        )),
        None => Ok((ids.concat(), tokens)),
    }
}

/// Bucket of a relative position, for attention in both directions
/// (Raffel et al., arXiv 1910.10683, section 2.1; `T5Attention._relative_position_bucket`).
fn bucket(distance: i64, buckets: usize, max_distance: usize) -> i64 {
    let half = buckets as i64 / 2;
    let side = if distance > 0 { half } else { 0 };
    let distance = distance.abs();
    let exact = half / 2;
    if distance < exact {
        return side + distance;
    }
    // In f32, as upstream: the rounding of the logarithm decides at bucket borders.
    let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let far = exact + (ratio * (half - exact) as f32) as i64;
    side + far.min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::StorageDtype;

    fn detected(vocab: usize, d: usize, ff: usize, buckets: usize) -> Result<T5Config> {
        let shapes = [
            ("shared.weight".to_owned(), [vocab, d]),
            (format!("{BLOCK0}.q.weight"), [6, d]),
            (format!("{BLOCK0}.relative_attention_bias.weight"), [buckets, 2]),
            ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight".to_owned(), [ff, d]),
        ];
        let shapes = shapes.map(|(name, shape)| (name, StorageDtype::F32, shape.to_vec()));
        T5Config::detect(&Checkpoint::from_shapes("x", shapes))
    }

    #[test]
    fn dimensions_that_need_no_data_or_overflow_are_refused() {
        assert!(detected(8, 4, 5, 32).is_ok() && detected(8, 4, 5, 510).is_ok());
        for (vocab, d, ff, buckets) in [
            (usize::MAX, 0, 5, 32),
            (8, 4, 0, 32),
            (0, 4, 5, 32),
            (8, 4, 5, 2),
            (8, 4, 5, 512),
            (8, 4, 5, 33),
        ] {
            let error = detected(vocab, d, ff, buckets).unwrap_err().to_string();
            assert!(error.contains(&format!("width {d}")), "{error}");
        }
    }

    #[test]
    fn the_most_buckets_are_all_in_range() {
        for distance in -2000..2000 {
            assert!((0..510).contains(&bucket(distance, 510, MAX_DISTANCE)), "{distance}");
        }
    }

    #[test]
    fn buckets_are_exact_near_and_logarithmic_far() {
        let b = |distance| bucket(distance, 32, 128);
        assert_eq!([b(0), b(-1), b(-7), b(1), b(7)], [0, 1, 7, 17, 23]);
        assert_eq!([b(-8), b(-15), b(-16), b(-127), b(-128), b(-500)], [8, 9, 10, 15, 15, 15]);
        assert_eq!([b(8), b(500)], [24, 31]);
    }
}
