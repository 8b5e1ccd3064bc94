//! The whole transformer: tokens in, velocity out.

use std::ops::Range;
use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use super::in_place::InPlace;
use super::{DoubleStreamBlock, FluxConfig, Rope, SingleStreamBlock};
use crate::error::{Error, Result};
use crate::kernels::activation::silu;
use crate::nn::{EPS, Linear, Prefetch, layer_norm_plain, reading_ahead};
use crate::traits::{Conditioning, Velocity, VelocityInput, VelocityModel};
use crate::weights::{Checkpoint, LoadOptions, Weights, layout, load};

/// `in_layer`, SiLU, `out_layer`: from an embedding to the conditioning vector.
#[derive(Module, Debug)]
struct MlpEmbedder {
    in_layer: Linear,
    out_layer: Linear,
}

impl MlpEmbedder {
    fn load(w: Weights<'_>, input: usize, hidden: usize) -> Self {
        Self {
            in_layer: w.at("in_layer", |w| Linear::load(w, [input, hidden])),
            out_layer: w.at("out_layer", |w| Linear::load(w, [hidden, hidden])),
        }
    }

    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "in_layer" => Some(&mut self.in_layer),
            "out_layer" => Some(&mut self.out_layer),
            _ => None,
        }
    }

    /// `[batch, in]` -> `[batch, hidden]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.out_layer.forward_vec(silu(self.in_layer.forward_vec(x)))
    }
}

/// From the streams' last state to a velocity per latent token.
#[derive(Module, Debug)]
struct LastLayer {
    /// `adaLN_modulation.1`: to (shift, scale).
    ada_ln_modulation: Linear,
    linear: Linear,
}

/// The FLUX.1 transformer.
#[derive(Module, Debug)]
pub struct Flux {
    img_in: Linear,
    txt_in: Linear,
    time_in: MlpEmbedder,
    vector_in: MlpEmbedder,
    guidance_in: Option<MlpEmbedder>,
    /// Blocks with two streams, first to last.
    pub double_blocks: Vec<DoubleStreamBlock>,
    /// Blocks with one stream, first to last.
    pub single_blocks: Vec<SingleStreamBlock>,
    final_layer: LastLayer,
    #[module(skip)]
    config: FluxConfig,
    #[module(skip)]
    device: Device,
    #[module(skip)]
    dtype: FloatDType,
}

impl Flux {
    /// Loads the transformer from a checkpoint in any layout that is known (see [`layout`]); all dimensions come from the tensors' shapes.
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::flux);
        let config = FluxConfig::detect(checkpoint)?;
        load(checkpoint, "a FLUX transformer", options, |_| false, |w| Ok(Self::build(w, config)))
    }

    fn build(w: Weights<'_>, config: FluxConfig) -> Self {
        let hidden = config.hidden_size;
        let embedder = |name: &str, input| w.at(name, |w| MlpEmbedder::load(w, input, hidden));
        Self {
            img_in: w.at("img_in", |w| Linear::load(w, [config.in_channels, hidden])),
            txt_in: w.at("txt_in", |w| Linear::load(w, [config.context_in_dim, hidden])),
            time_in: embedder("time_in", config.time_dim),
            vector_in: embedder("vector_in", config.vec_in_dim),
            guidance_in: config.guidance_embed.then(|| embedder("guidance_in", config.time_dim)),
            double_blocks: (0..config.depth)
                .map(|i| w.at(format!("double_blocks.{i}"), |w| DoubleStreamBlock::load(w, &config)))
                .collect(),
            single_blocks: (0..config.depth_single_blocks)
                .map(|i| w.at(format!("single_blocks.{i}"), |w| SingleStreamBlock::load(w, &config)))
                .collect(),
            final_layer: w.at("final_layer", |w| LastLayer {
                ada_ln_modulation: w.at("adaLN_modulation.1", |w| Linear::load(w, [hidden, 2 * hidden])),
                linear: w.at("linear", |w| Linear::load(w, [hidden, config.in_channels])),
            }),
            device: w.device().clone(),
            dtype: w.dtype(),
            config,
        }
    }

    /// Dimensions.
    pub fn config(&self) -> &FluxConfig {
        &self.config
    }

    /// The linear layer that checkpoints call `name` (without `.weight`), if there is one.
    pub fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        let mut parts = name.splitn(3, '.');
        match (parts.next()?, parts.next(), parts.next()) {
            ("img_in", None, _) => Some(&mut self.img_in),
            ("txt_in", None, _) => Some(&mut self.txt_in),
            ("time_in", Some(layer), None) => self.time_in.linear_mut(layer),
            ("vector_in", Some(layer), None) => self.vector_in.linear_mut(layer),
            ("guidance_in", Some(layer), None) => self.guidance_in.as_mut()?.linear_mut(layer),
            ("final_layer", Some("linear"), None) => Some(&mut self.final_layer.linear),
            ("final_layer", Some("adaLN_modulation"), Some("1")) => {
                Some(&mut self.final_layer.ada_ln_modulation)
            }
            ("double_blocks", Some(i), Some(layer)) => {
                self.double_blocks.get_mut(i.parse::<usize>().ok()?)?.linear_mut(layer)
            }
            ("single_blocks", Some(i), Some(layer)) => {
                self.single_blocks.get_mut(i.parse::<usize>().ok()?)?.linear_mut(layer)
            }
            _ => None,
        }
    }

    /// All linear layers that may hold LoRA branches.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let embedders = [Some(&mut self.time_in), Some(&mut self.vector_in), self.guidance_in.as_mut()];
        let outer = [
            &mut self.img_in,
            &mut self.txt_in,
            &mut self.final_layer.linear,
            &mut self.final_layer.ada_ln_modulation,
        ];
        let embedders = embedders.into_iter().flatten().flat_map(|e| [&mut e.in_layer, &mut e.out_layer]);
        let double = self.double_blocks.iter_mut().flat_map(DoubleStreamBlock::linears_mut);
        let single = self.single_blocks.iter_mut().flat_map(SingleStreamBlock::linears_mut);
        outer.into_iter().chain(embedders).chain(double).chain(single)
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number format that the model computes in.
    pub fn dtype(&self) -> FloatDType {
        self.dtype
    }

    /// The conditioning vector `[batch, hidden]` of timesteps, guidance and what was made of the pooled text.
    fn conditioning_vector(&self, t: &[f32], guidance: &[f32], vec: Tensor<2>) -> Tensor<2> {
        let embed =
            |values: &[f32]| timestep_embedding(values, self.config.time_dim, &self.device, self.dtype);
        let mut sum = self.time_in.forward(embed(t));
        if let Some(guidance_in) = &self.guidance_in {
            sum = sum + guidance_in.forward(embed(guidance));
        }
        sum + vec
    }

    fn check(&self, input: &VelocityInput<'_>) -> Result<()> {
        let conditioning = input.conditioning;
        let [batch, tokens, channels] = input.latent.dims();
        let wanted = |what: &str, got: &[usize], wanted: &[usize]| {
            if got == wanted {
                Ok(())
            } else {
                Err(Error::invalid(what, format!("{got:?}"), format!("{wanted:?}")))
            }
        };
        wanted("latent [batch, tokens, channels]", &[channels], &[self.config.in_channels])?;
        let [txt_batch, _, txt_width] = conditioning.txt.dims();
        wanted(
            "txt [batch, tokens, features]",
            &[txt_batch, txt_width],
            &[batch, self.config.context_in_dim],
        )?;
        wanted("vec [batch, features]", &conditioning.vec.dims(), &[batch, self.config.vec_in_dim])?;
        for (i, reference) in conditioning.references.iter().enumerate() {
            let [b, _, c] = reference.dims();
            wanted(&format!("reference {i} [batch, tokens, channels]"), &[b, c], &[batch, channels])?;
        }
        wanted("timesteps [batch]", &[input.t.len()], &[batch])?;
        wanted("guidance [batch]", &[input.guidance.len()], &[batch])?;
        let sequence = conditioning.txt.dims()[1]
            + tokens
            + conditioning.references.iter().map(|r| r.dims()[1]).sum::<usize>();
        wanted("position ids [text, latent and reference tokens]", &[conditioning.ids.len()], &[sequence])
    }

    /// What the conditioning alone decides.
    fn prepared(&self, conditioning: &Conditioning) -> Prepared {
        let to_compute = |x: &Tensor<3>| x.clone().to_device(&self.device).cast(self.dtype);
        let vec = conditioning.vec.clone().to_device(&self.device).cast(self.dtype);
        Prepared {
            txt: self.txt_in.forward(to_compute(&conditioning.txt)),
            references: conditioning.references.iter().map(|r| self.img_in.forward(to_compute(r))).collect(),
            vec: self.vector_in.forward(vec),
            rope: Rope::new(&conditioning.ids, self.config.head_dim(), &self.device),
        }
    }

    /// The velocity, for input that was checked.
    fn prepared_velocity(&self, input: &VelocityInput<'_>, prepared: &Prepared) -> Result<Tensor<3>> {
        let latent = input.latent.clone().to_device(&self.device).cast(self.dtype);
        let latent_tokens = input.latent.dims()[1];
        let text_tokens = prepared.txt.dims()[1];
        let mut img = vec![self.img_in.forward(latent)];
        img.extend(prepared.references.iter().cloned());
        let (txt, rope) = (prepared.txt.clone(), &prepared.rope);
        let vec = self.conditioning_vector(input.t, input.guidance, prepared.vec.clone());
        let wanted = text_tokens..text_tokens + latent_tokens;
        let latent = if self.runs_in_place(&txt, &vec) {
            self.blocks_in_place(txt, img, &vec, rope, wanted)
        } else {
            self.blocks(txt, Tensor::cat(img, 1), &vec, rope).narrow(1, text_tokens, latent_tokens)
        };

        let modulation: Tensor<3> = self.final_layer.ada_ln_modulation.forward(silu(vec).unsqueeze_dim(1));
        let hidden = self.config.hidden_size;
        let shift = modulation.clone().narrow(2, 0, hidden);
        let scale = modulation.narrow(2, hidden, hidden);
        Ok(self.final_layer.linear.forward(layer_norm_plain(latent, EPS) * scale.add_scalar(1.0) + shift))
    }

    /// Whether all blocks run in place: on the CPU in f32, with weights as stored.
    fn runs_in_place(&self, txt: &Tensor<3>, vec: &Tensor<2>) -> bool {
        let double = self.double_blocks.iter().map(|block| block as &dyn Prefetch);
        InPlace::serves(txt, vec, double.chain(self.single_blocks.iter().map(|block| block as &dyn Prefetch)))
    }

    /// All blocks, on the CPU. -> the tokens `wanted`, `[batch, these, hidden]`.
    fn blocks_in_place(
        &self,
        txt: Tensor<3>,
        img: Vec<Tensor<3>>,
        vec: &Tensor<2>,
        rope: &Rope,
        wanted: Range<usize>,
    ) -> Tensor<3> {
        let mut state =
            InPlace::new(txt, img, vec, rope, self.config.mlp_hidden, !self.single_blocks.is_empty());
        let first_single = self.single_blocks.first().map(|block| block as &dyn Prefetch);
        for (i, block) in self.double_blocks.iter().enumerate() {
            let next = self.double_blocks.get(i + 1).map(|block| block as &dyn Prefetch).or(first_single);
            reading_ahead(next, || state.double(block));
        }
        for (i, block) in self.single_blocks.iter().enumerate() {
            let next = self.single_blocks.get(i + 1).map(|block| block as &dyn Prefetch);
            // After the last block nobody asks for text and references.
            let tokens = if next.is_some() { 0..rope.tokens() } else { wanted.clone() };
            reading_ahead(next, || state.single(block, tokens));
        }
        state.into_tokens(wanted)
    }

    /// All blocks. -> text and image, `[batch, tokens, hidden]`.
    fn blocks(&self, mut txt: Tensor<3>, mut img: Tensor<3>, vec: &Tensor<2>, rope: &Rope) -> Tensor<3> {
        let first_single = self.single_blocks.first().map(|block| block as &dyn Prefetch);
        for (i, block) in self.double_blocks.iter().enumerate() {
            let next = self.double_blocks.get(i + 1).map(|block| block as &dyn Prefetch).or(first_single);
            (img, txt) = reading_ahead(next, || block.forward(img, txt, vec, rope));
        }
        let mut joint = Tensor::cat(vec![txt, img], 1);
        for (i, block) in self.single_blocks.iter().enumerate() {
            let next = self.single_blocks.get(i + 1).map(|block| block as &dyn Prefetch);
            joint = reading_ahead(next, || block.forward(joint, vec, rope));
        }
        joint
    }
}

/// What is the same at every step, computed once.
struct Prepared {
    /// `[batch, text tokens, hidden]`.
    txt: Tensor<3>,
    /// `[batch, tokens, hidden]` each.
    references: Vec<Tensor<3>>,
    /// The pooled text's part of the conditioning vector, `[batch, hidden]`.
    vec: Tensor<2>,
    rope: Rope,
}

impl VelocityModel for Flux {
    fn velocity(&self, input: VelocityInput<'_>) -> Result<Tensor<3>> {
        self.check(&input)?;
        self.prepared_velocity(&input, &self.prepared(input.conditioning))
    }

    fn prepare<'a>(&'a self, conditioning: &'a Conditioning) -> Velocity<'a> {
        let prepared = OnceLock::new();
        Box::new(move |latent, t, guidance| {
            let input = VelocityInput { latent, t, guidance, conditioning };
            self.check(&input)?;
            self.prepared_velocity(&input, prepared.get_or_init(|| self.prepared(conditioning)))
        })
    }

    fn in_channels(&self) -> usize {
        self.config.in_channels
    }
}
/// Sinusoidal embedding `[cos, sin]` of `1000 * t` -> `[batch, dim]` (FLUX `layers.py: timestep_embedding`).
///
/// In a 16-bit format `t` is rounded before the factor 1000 and the product once more, as in the official pipeline.
pub fn timestep_embedding(t: &[f32], dim: usize, device: &Device, dtype: FloatDType) -> Tensor<2> {
    let half = dim / 2;
    let frequencies: Vec<f32> = (0..half).map(|i| frequency(i, half)).collect();
    let mut values = Vec::with_capacity(t.len() * dim);
    for &t in t {
        let scaled = round_to(1000.0 * round_to(t, dtype), dtype);
        let angles = frequencies.iter().map(|f| f64::from(scaled * f));
        values.extend(angles.clone().map(|angle| angle.cos() as f32));
        values.extend(angles.map(|angle| angle.sin() as f32));
        values.extend(std::iter::repeat_n(0.0, dim - 2 * half));
    }
    Tensor::<2>::from_data(TensorData::new(values, [t.len(), dim]), (device, DType::F32)).cast(dtype)
}

/// `exp(-ln(10000) * i / half)`: the exponent in f32, its exponential rounded to the nearest f32.
fn frequency(i: usize, half: usize) -> f32 {
    let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
    let nearest = f64::from(exponent).exp() as f32;
    // Fitted to the golden values: this one of the 128 lies in the middle between two f32 numbers (but for 0.02 of their
    // distance), and the PyTorch build that made them rounds it up. At t = 1 the cosine shows it by 1e-4. It is no general
    // rule: other builds and processors round others up (docs/parity.md).
    if (i, half) == (12, 128) { nearest.next_up() } else { nearest }
}

/// Rounds to the nearest number of a format.
pub(crate) fn round_to(x: f32, dtype: FloatDType) -> f32 {
    match dtype {
        FloatDType::BF16 => half::bf16::from_f32(x).to_f32(),
        FloatDType::F16 => half::f16::from_f32(x).to_f32(),
        _ => x,
    }
}
