//! CLIP text encoder: token ids to one state for the whole prompt.
//!
//! After transformers' `models/clip/modeling_clip.py` (`CLIPTextModel`, `pooler_output`). There is no padding mask.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::activation::gelu;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernels::activation::quick_gelu;
use crate::kernels::attention::{Bias, attention as attention_in_place};
use crate::kernels::{View, ViewMut, is_ours, numbers, tensor};
use crate::nn::{Embedding, LayerNorm, Linear, attention, join_heads, split_heads};
use crate::weights::foreign::{self, Wanted};
use crate::weights::{Checkpoint, LoadOptions, Weights, layout, load};

/// Activation of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClipActivation {
    /// `x * sigmoid(1.702 x)`: OpenAI's models.
    QuickGelu,
    /// Exact GELU: some later ones.
    Gelu,
}

/// Dimensions of a CLIP text encoder. Widths and depth come from the tensors' shapes, the number of heads from `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClipTextConfig {
    /// Tokens that have an embedding.
    pub vocab_size: usize,
    /// Width of the stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Positions that have an embedding: the longest prompt in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the MLP.
    pub hidden_act: ClipActivation,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
}

/// Largest `config.json` that is read; that of CLIP ViT-L has 4.5 kB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What shapes do not tell, as far as a `config.json` says it.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    num_attention_heads: Option<usize>,
    hidden_act: Option<ClipActivation>,
    layer_norm_eps: Option<f64>,
    /// Files of a whole CLIP model hold the text encoder's settings here.
    text_config: Option<Box<ConfigFile>>,
}

impl ClipTextConfig {
    /// Reads a `config.json` from disk, for [`ClipTextConfig::detect`].
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is far too large for one.
    pub fn read(path: &Path) -> Result<Vec<u8>> {
        let length = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if length > MAX_CONFIG_BYTES {
            let reason =
                format!("{length} bytes are too many for a config.json; wanted at most {MAX_CONFIG_BYTES}");
            return Err(Error::format(path, reason));
        }
        std::fs::read(path).map_err(Error::io(path))
    }

    /// Reads the dimensions off the shapes in `checkpoint`, and the rest from `config_json`, its `config.json`. Without one,
    /// heads are 64 wide and the activation is the quick GELU, as in OpenAI's models.
    ///
    /// # Errors
    ///
    /// A tensor that tells a dimension is missing or has another rank; settings that are no JSON or do not fit.
    pub fn detect(checkpoint: &Checkpoint, config_json: Option<&[u8]>) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::clip);
        foreign::check(checkpoint, Wanted::Clip)?;
        let matrix = |name: &str| -> Result<[usize; 2]> {
            let shape = checkpoint.shape(name).and_then(|s| s.try_into().ok());
            shape.ok_or_else(|| foreign::lacks(checkpoint, Wanted::Clip, name))
        };
        let [vocab_size, hidden_size] = matrix("text_model.embeddings.token_embedding.weight")?;
        let [max_position_embeddings, _] = matrix("text_model.embeddings.position_embedding.weight")?;
        let [intermediate_size, _] = matrix("text_model.encoder.layers.0.mlp.fc1.weight")?;
        let file = match config_json {
            Some(json) => {
                let file: ConfigFile = serde_json::from_slice(json).map_err(|e| {
                    Error::format(checkpoint.path(), format!("the config.json beside it cannot be used: {e}"))
                })?;
                file.text_config.map_or_else(ConfigFile::default, |inner| *inner).or(
                    file.num_attention_heads,
                    file.hidden_act,
                    file.layer_norm_eps,
                )
            }
            None => ConfigFile::default(),
        };
        let heads = file.num_attention_heads.unwrap_or(hidden_size / 64);
        // Widths of zero are refused because a file without any data could claim all other dimensions beside them.
        if vocab_size == 0 || hidden_size == 0 || intermediate_size == 0 || max_position_embeddings < 2 {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "dimensions are too small: {vocab_size} tokens, width {hidden_size}, MLP width {intermediate_size}, \
                     {max_position_embeddings} positions (wanted at least 2)"
                ),
            ));
        }
        if heads == 0 || hidden_size % heads != 0 {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "{heads} attention heads do not divide the width {hidden_size}; give the model's own config.json"
                ),
            ));
        }
        Ok(Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: checkpoint.count("text_model.encoder.layers.{}."),
            num_attention_heads: heads,
            max_position_embeddings,
            hidden_act: file.hidden_act.unwrap_or(ClipActivation::QuickGelu),
            layer_norm_eps: file.layer_norm_eps.unwrap_or(1e-5),
        })
    }
}

impl ConfigFile {
    /// Fills what is not set.
    fn or(mut self, heads: Option<usize>, act: Option<ClipActivation>, eps: Option<f64>) -> Self {
        self.num_attention_heads = self.num_attention_heads.or(heads);
        self.hidden_act = self.hidden_act.or(act);
        self.layer_norm_eps = self.layer_norm_eps.or(eps);
        self
    }
}

#[derive(Module, Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    num_heads: usize,
    #[module(skip)]
    activation: ClipActivation,
}

impl Layer {
    fn load(w: Weights<'_>, config: &ClipTextConfig) -> Self {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let linear = |name: &str, shape| w.at(name, |w| Linear::load(w, shape));
        Self {
            layer_norm1: w.at("layer_norm1", |w| LayerNorm::load(w, d, eps)),
            q_proj: linear("self_attn.q_proj", [d, d]),
            k_proj: linear("self_attn.k_proj", [d, d]),
            v_proj: linear("self_attn.v_proj", [d, d]),
            out_proj: linear("self_attn.out_proj", [d, d]),
            layer_norm2: w.at("layer_norm2", |w| LayerNorm::load(w, d, eps)),
            fc1: linear("mlp.fc1", [d, config.intermediate_size]),
            fc2: linear("mlp.fc2", [config.intermediate_size, d]),
            num_heads: config.num_attention_heads,
            activation: config.hidden_act,
        }
    }

    /// The linear layer `name` of this layer.
    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "self_attn.q_proj" => Some(&mut self.q_proj),
            "self_attn.k_proj" => Some(&mut self.k_proj),
            "self_attn.v_proj" => Some(&mut self.v_proj),
            "self_attn.out_proj" => Some(&mut self.out_proj),
            "mlp.fc1" => Some(&mut self.fc1),
            "mlp.fc2" => Some(&mut self.fc2),
            _ => None,
        }
    }

    /// Each token attends to those up to itself. `[batch, tokens, hidden]` each -> the same.
    fn attend(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let shape = q.dims();
        if is_ours(&q) {
            let (mut q, k, v) = (numbers(q), numbers(k), numbers(v));
            let [k, v] = [View::new(&k, shape), View::new(&v, shape)];
            let scale = 1.0 / ((shape[2] / self.num_heads) as f64).sqrt();
            let to = ViewMut::new(&mut q, shape);
            attention_in_place(to, k, v, self.num_heads, 0..shape[1], scale as f32, Bias::Causal);
            return tensor(q, shape);
        }
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let [q, k, v] = [q, k, v].map(|x| split_heads(x, self.num_heads));
        join_heads(attention(q, k, v, None, options))
    }

    /// `[batch, tokens, hidden]` -> the same.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let normed = self.layer_norm1.forward(x.clone());
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(|l| l.forward(normed.clone()));
        let x = x + self.out_proj.forward(self.attend(q, k, v));
        let hidden = self.fc1.forward(self.layer_norm2.forward(x.clone()));
        let hidden = match self.activation {
            ClipActivation::QuickGelu => quick_gelu(hidden),
            ClipActivation::Gelu => gelu(hidden),
        };
        x + self.fc2.forward(hidden)
    }
}

/// The CLIP text encoder.
#[derive(Module, Debug)]
pub struct ClipTextEncoder {
    token_embedding: Embedding,
    /// `[positions, hidden]`.
    position_embedding: Param<Tensor<2>>,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    config: ClipTextConfig,
    #[module(skip)]
    device: Device,
    #[module(skip)]
    dtype: FloatDType,
}

impl ClipTextEncoder {
    /// Loads the text encoder; a vision encoder and projections in the same file are ignored.
    /// `config_json` is the path of the model's `config.json`, see [`ClipTextConfig::detect`].
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape.
    pub fn load(checkpoint: &Checkpoint, config_json: Option<&Path>, options: &LoadOptions) -> Result<Self> {
        let json = config_json.map(ClipTextConfig::read).transpose()?;
        Self::load_with(checkpoint, ClipTextConfig::detect(checkpoint, json.as_deref())?, options)
    }

    /// Loads the text encoder with a configuration that is already known.
    ///
    /// # Errors
    ///
    /// As [`ClipTextEncoder::load`].
    pub fn load_with(checkpoint: &Checkpoint, config: ClipTextConfig, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::clip);
        let ignore = |key: &str| {
            // The image encoder, in transformers' layout or in ours.
            key.starts_with("vision_model.")
                || key.starts_with("visual.")
                || key == "text_model.embeddings.position_ids"
                || ["logit_scale", "visual_projection.weight", "text_projection.weight"].contains(&key)
        };
        load(checkpoint, "a CLIP text encoder", options, ignore, |w| {
            let d = config.hidden_size;
            w.at("text_model", |w| {
                Ok(Self {
                    token_embedding: Embedding::load(
                        w,
                        "embeddings.token_embedding.weight",
                        [config.vocab_size, d],
                    ),
                    position_embedding: w
                        .param("embeddings.position_embedding.weight", [config.max_position_embeddings, d]),
                    layers: (0..config.num_hidden_layers)
                        .map(|i| w.at(format!("encoder.layers.{i}"), |w| Layer::load(w, &config)))
                        .collect(),
                    final_layer_norm: w
                        .at("final_layer_norm", |w| LayerNorm::load(w, d, config.layer_norm_eps)),
                    device: w.device().clone(),
                    dtype: w.dtype(),
                    config: config.clone(),
                })
            })
        })
    }

    /// Dimensions.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The linear layer that checkpoints call `name` (without `.weight`), if there is one.
    pub fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        let (layer, name) = name.strip_prefix("text_model.encoder.layers.")?.split_once('.')?;
        self.layers.get_mut(layer.parse::<usize>().ok()?)?.linear_mut(name)
    }

    /// The normed state at the first position of the highest token id, which is the end token's:
    /// token ids `[tokens]` -> `[1, hidden]`.
    ///
    /// # Errors
    ///
    /// No ids, more than there are positions, or an id beyond the vocabulary.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor<2>> {
        let positions = self.config.max_position_embeddings;
        if ids.len() > positions {
            return Err(Error::invalid("CLIP token ids", ids.len(), format!("at most {positions}")));
        }
        let x = self.token_embedding.forward(ids, &self.device, self.dtype)?;
        let x = x + self.position_embedding.val().narrow(0, 0, ids.len()).unsqueeze();
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x));
        Ok(self.final_layer_norm.forward(x).narrow(1, end_of(ids), 1).squeeze_dim(1))
    }

    /// As [`forward`](Self::forward) for several prompts of the same length at once, for training: token ids `[batch]` of
    /// `[tokens]` -> `[batch, hidden]`.
    ///
    /// # Errors
    ///
    /// No ids, lengths that differ, more than there are positions, or an id beyond the vocabulary.
    pub fn forward_batch(&self, ids: &[&[u32]]) -> Result<Tensor<2>> {
        let (flat, tokens) = super::t5::joined(ids)?;
        let positions = self.config.max_position_embeddings;
        if tokens > positions {
            return Err(Error::invalid("CLIP token ids", tokens, format!("at most {positions}")));
        }
        let (batch, width) = (ids.len(), self.config.hidden_size);
        let x = self.token_embedding.forward(&flat, &self.device, self.dtype)?;
        let x = x.reshape([batch, tokens, width]);
        let x = x + self.position_embedding.val().narrow(0, 0, tokens).unsqueeze();
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x));
        let ends: Vec<i64> =
            ids.iter().enumerate().map(|(i, ids)| (i * tokens + end_of(ids)) as i64).collect();
        let ends = Tensor::from_data(TensorData::new(ends, [batch]), &self.device);
        let ended = x.reshape([batch * tokens, width]).select(0, ends);
        Ok(self.final_layer_norm.forward(ended.unsqueeze_dim(1)).squeeze_dim(1))
    }
}

/// The first position of the highest id, which is the end token's.
fn end_of(ids: &[u32]) -> usize {
    let highest = ids.iter().max();
    ids.iter().position(|id| Some(id) == highest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::StorageDtype;

    #[test]
    fn dimensions_that_need_no_data_are_refused() {
        let detected = |vocab: usize, d: usize, ff: usize| {
            let shapes = [
                ("embeddings.token_embedding", [vocab, d]),
                ("embeddings.position_embedding", [7, d]),
                ("encoder.layers.0.mlp.fc1", [ff, d]),
            ];
            let shapes = shapes.map(|(name, shape)| {
                (format!("text_model.{name}.weight"), StorageDtype::F32, shape.to_vec())
            });
            let config_json = br#"{"num_attention_heads":2}"#;
            ClipTextConfig::detect(&Checkpoint::from_shapes("x", shapes), Some(config_json))
        };
        assert!(detected(8, 6, 5).is_ok());
        for (vocab, d, ff) in [(usize::MAX, 0, 5), (8, 6, 0), (0, 6, 5)] {
            let error = detected(vocab, d, ff).unwrap_err().to_string();
            assert!(error.contains(&format!("width {d}")), "{error}");
        }
    }
}
