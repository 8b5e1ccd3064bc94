//! The vision transformer (Dosovitskiy et al., arXiv 2010.11929) that DINO, DINOv2 and CLIP share: patches, a class token,
//! positions, and blocks with norms before attention and MLP.

use burn::module::{Module, Param};
use burn::tensor::activation::gelu;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernels::activation::quick_gelu;
use crate::nn::{LayerNorm, Linear, attention, join_heads, split_heads};
use crate::tensor_to_vec;
use crate::text::ClipActivation;
use crate::weights::{Checkpoint, Weights};

/// Dimensions of a vision transformer. Shapes tell all but the heads, which are 64 wide unless its `config.json` says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VitConfig {
    /// Width of the stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Patches per side that positions were trained for.
    pub grid: usize,
    /// Activation of the MLP.
    pub hidden_act: ClipActivation,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
}

/// What shapes do not tell, as far as a `config.json` says it.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    num_attention_heads: Option<usize>,
    hidden_act: Option<ClipActivation>,
    layer_norm_eps: Option<f64>,
    /// Files of a whole CLIP model hold the image encoder's settings here.
    vision_config: Option<Box<ConfigFile>>,
}

impl VitConfig {
    /// Reads the dimensions off a checkpoint in our names below `prefix`, and the rest from `config_json`; `otherwise` are
    /// activation and epsilon where that says nothing.
    pub(super) fn detect(
        checkpoint: &Checkpoint,
        prefix: &str,
        config_json: Option<&[u8]>,
        otherwise: (ClipActivation, f64),
    ) -> Result<Self> {
        let shape = |name: &str, rank: usize| -> Result<Vec<usize>> {
            let name = format!("{prefix}{name}");
            let found = checkpoint.shape(&name).filter(|shape| shape.len() == rank);
            found.map(<[usize]>::to_vec).ok_or_else(|| {
                let reason =
                    format!("is no image encoder: tensor {name} is missing or has not {rank} dimensions");
                Error::format(checkpoint.path(), reason)
            })
        };
        let patches = shape("patch_embed.proj.weight", 4)?;
        let (hidden_size, patch_size) = (patches[0], patches[2]);
        let positions = shape("pos_embed", 3)?[1].saturating_sub(1);
        let intermediate_size = shape("blocks.0.mlp.fc1.weight", 2)?[0];
        let file: ConfigFile = match config_json {
            None => ConfigFile::default(),
            Some(json) => serde_json::from_slice(json).map_err(|e| {
                Error::format(checkpoint.path(), format!("the config.json beside it cannot be used: {e}"))
            })?,
        };
        let inner = file.vision_config.map(|inner| *inner).unwrap_or_default();
        let heads = inner.num_attention_heads.or(file.num_attention_heads).unwrap_or(hidden_size / 64);
        let grid = positions.isqrt();
        if grid == 0 || grid * grid != positions || patch_size == 0 || intermediate_size == 0 {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "{positions} positions beside the class token, patches of {patch_size}, MLP width {intermediate_size}; wanted \
                     a square number of positions, and widths above 0"
                ),
            ));
        }
        if heads == 0 || !hidden_size.is_multiple_of(heads) {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "{heads} attention heads do not divide the width {hidden_size}; give the model's own config.json"
                ),
            ));
        }
        Ok(Self {
            hidden_size,
            intermediate_size,
            num_hidden_layers: checkpoint.count(&format!("{prefix}blocks.{{}}.")),
            num_attention_heads: heads,
            patch_size,
            grid,
            hidden_act: inner.hidden_act.or(file.hidden_act).unwrap_or(otherwise.0),
            layer_norm_eps: inner.layer_norm_eps.or(file.layer_norm_eps).unwrap_or(otherwise.1),
        })
    }
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    /// Factors on what is added, `[hidden]` (DINOv2).
    scales: Option<[Param<Tensor<1>>; 2]>,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    num_heads: usize,
    #[module(skip)]
    activation: ClipActivation,
}

impl Block {
    fn load(w: Weights<'_>, config: &VitConfig) -> Self {
        let (d, ff, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let has_scales = w.contains("ls1.gamma");
        Self {
            norm1: w.at("norm1", |w| LayerNorm::load(w, d, eps)),
            qkv: w.at("attn.qkv", |w| Linear::load(w, [d, 3 * d])),
            proj: w.at("attn.proj", |w| Linear::load(w, [d, d])),
            scales: has_scales.then(|| [w.param("ls1.gamma", [d]), w.param("ls2.gamma", [d])]),
            norm2: w.at("norm2", |w| LayerNorm::load(w, d, eps)),
            fc1: w.at("mlp.fc1", |w| Linear::load(w, [d, ff])),
            fc2: w.at("mlp.fc2", |w| Linear::load(w, [ff, d])),
            num_heads: config.num_attention_heads,
            activation: config.hidden_act,
        }
    }

    /// `[batch, tokens, hidden]` -> the same.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let scaled = |added: Tensor<3>, which: usize| match &self.scales {
            Some(scales) => added * scales[which].val().unsqueeze(),
            None => added,
        };
        let qkv = self.qkv.forward(self.norm1.forward(x.clone()));
        let width = x.dims()[2];
        let [q, k, v] =
            [0, 1, 2].map(|i| split_heads(qkv.clone().narrow(2, i * width, width), self.num_heads));
        let attended = join_heads(attention(q, k, v, None, AttentionModuleOptions::default()));
        let x = x + scaled(self.proj.forward(attended), 0);
        let hidden = self.fc1.forward(self.norm2.forward(x.clone()));
        let hidden = match self.activation {
            ClipActivation::QuickGelu => quick_gelu(hidden),
            ClipActivation::Gelu => gelu(hidden),
        };
        x + scaled(self.fc2.forward(hidden), 1)
    }
}

/// A vision transformer up to the norm of its class token.
#[derive(Module, Debug)]
pub(super) struct Vit {
    /// `[3 * patch * patch, hidden]`.
    patches: Param<Tensor<2>>,
    /// `[hidden]`.
    patch_bias: Option<Param<Tensor<1>>>,
    /// `[1, 1, hidden]`.
    class: Param<Tensor<3>>,
    /// `[1, 1 + grid * grid, hidden]`.
    positions: Param<Tensor<3>>,
    /// Before the blocks (CLIP).
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[module(skip)]
    config: VitConfig,
}

impl Vit {
    pub(super) fn load(w: Weights<'_>, config: &VitConfig) -> Self {
        let (d, p, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
        let kernel = w.param::<4>("patch_embed.proj.weight", [d, 3, p, p]).val();
        let has_norm_pre = w.contains("norm_pre.weight");
        Self {
            patches: Param::from_tensor(kernel.reshape([d, 3 * p * p]).transpose()),
            patch_bias: w.contains("patch_embed.proj.bias").then(|| w.param("patch_embed.proj.bias", [d])),
            class: w.param("cls_token", [1, 1, d]),
            positions: w.param("pos_embed", [1, 1 + config.grid * config.grid, d]),
            norm_pre: has_norm_pre.then(|| w.at("norm_pre", |w| LayerNorm::load(w, d, eps))),
            blocks: (0..config.num_hidden_layers)
                .map(|i| w.at(format!("blocks.{i}"), |w| Block::load(w, config)))
                .collect(),
            norm: w.at("norm", |w| LayerNorm::load(w, d, eps)),
            config: config.clone(),
        }
    }

    pub(super) fn config(&self) -> &VitConfig {
        &self.config
    }

    pub(super) fn device(&self) -> Device {
        self.class.val().device()
    }

    /// Pictures `[batch, 3, H, W]` -> the normed class token `[batch, hidden]`.
    pub(super) fn forward(&self, pictures: Tensor<4>) -> Result<Tensor<2>> {
        let [batch, channels, height, width] = pictures.dims();
        let p = self.config.patch_size;
        let fits = channels == 3 && height >= p && width >= p && height % p == 0 && width % p == 0;
        if !fits {
            return Err(Error::invalid(
                "pictures [batch, 3, H, W]",
                format!("{:?}", pictures.dims()),
                format!("3 channels and sides that are multiples of {p}"),
            ));
        }
        let (rows, columns) = (height / p, width / p);
        let tokens = pictures.reshape([batch, 3, rows, p, columns, p]).permute([0, 2, 4, 1, 3, 5]).reshape([
            batch,
            rows * columns,
            3 * p * p,
        ]);
        let mut tokens = tokens.matmul(self.patches.val().unsqueeze());
        if let Some(bias) = &self.patch_bias {
            tokens = tokens + bias.val().unsqueeze();
        }
        let class = self.class.val().expand([batch, 1, self.config.hidden_size]);
        let x = Tensor::cat(vec![class, tokens], 1) + self.positions_for([rows, columns])?;
        let x = match &self.norm_pre {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        Ok(self.norm.forward(x.narrow(1, 0, 1)).squeeze_dim(1))
    }

    /// Positions of the class token and of a grid, `[1, 1 + rows * columns, hidden]`: those of the checkpoint, or between them by
    /// PyTorch's bicubic interpolation, as transformers has it (`interpolate_pos_encoding`).
    fn positions_for(&self, to: [usize; 2]) -> Result<Tensor<3>> {
        let positions = self.positions.val();
        let (grid, d) = (self.config.grid, self.config.hidden_size);
        if to == [grid; 2] {
            return Ok(positions);
        }
        let class = positions.clone().narrow(1, 0, 1);
        let numbers = tensor_to_vec(positions.narrow(1, 1, grid * grid))?;
        let between = bicubic(&numbers, [grid; 2], to, d);
        let between = TensorData::new(between, [1, to[0] * to[1], d]);
        let between = Tensor::<3>::from_data(between, (&class.device(), DType::F32)).cast(class.dtype());
        Ok(Tensor::cat(vec![class, between], 1))
    }
}

/// PyTorch's `interpolate(mode="bicubic", align_corners=False)` of a grid of vectors: `[rows, columns, d]` from one size to another.
fn bicubic(numbers: &[f32], from: [usize; 2], to: [usize; 2], d: usize) -> Vec<f32> {
    /// The constant of Keys' kernel in PyTorch.
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    // Per new place: four old ones, cut at the borders, and their weights.
    let taps = |from: usize, to: usize| -> Vec<[(usize, f32); 4]> {
        let place = |i: usize| {
            let at = from as f32 / to as f32 * (i as f32 + 0.5) - 0.5;
            let (first, t) = (at.floor(), at - at.floor());
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            let cut = |k: usize| (first as isize + k as isize - 1).clamp(0, from as isize - 1) as usize;
            std::array::from_fn(|k| (cut(k), weights[k]))
        };
        (0..to).map(place).collect()
    };
    let (rows, columns) = (taps(from[0], to[0]), taps(from[1], to[1]));
    let mut out = Vec::with_capacity(to[0] * to[1] * d);
    for row in &rows {
        for column in &columns {
            out.extend((0..d).map(|c| {
                let along = |(y, weight): &(usize, f32)| {
                    let line: f32 = column.iter().map(|(x, w)| w * numbers[(y * from[1] + x) * d + c]).sum();
                    weight * line
                };
                row.iter().map(along).sum::<f32>()
            }));
        }
    }
    out
}
