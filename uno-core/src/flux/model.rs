//! The whole transformer: tokens in, velocity out.

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use super::blocks::Stream;
use super::run::Run;
use super::{DoubleStreamBlock, FluxConfig, SingleStreamBlock};
use crate::approximation::Approximation;
use crate::error::{Error, Result};
use crate::kernels::activation::silu;
use crate::kernels::is_ours;
use crate::nn::Linear;
use crate::traits::{Predicted, Steps, Velocity, VelocityInput, VelocityModel};
use crate::weights::{Checkpoint, LoadOptions, Weights, layout, load};

/// `in_layer`, SiLU, `out_layer`: from an embedding to the conditioning vector.
#[derive(Module, Debug)]
pub(super) struct MlpEmbedder {
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

    /// `[batch, steps, in]` -> `[batch, steps, hidden]`.
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.out_layer.forward(silu(self.in_layer.forward(x)))
    }
}

/// From the streams' last state to a velocity per latent token.
#[derive(Module, Debug)]
pub(super) struct LastLayer {
    /// `adaLN_modulation.1`: to (shift, scale).
    pub(super) ada_ln_modulation: Linear,
    pub(super) linear: Linear,
}

/// The FLUX.1 transformer.
#[derive(Module, Debug)]
pub struct Flux {
    pub(super) img_in: Linear,
    pub(super) txt_in: Linear,
    pub(super) time_in: MlpEmbedder,
    pub(super) vector_in: MlpEmbedder,
    pub(super) guidance_in: Option<MlpEmbedder>,
    /// Blocks with two streams, first to last.
    pub double_blocks: Vec<DoubleStreamBlock>,
    /// Blocks with one stream, first to last.
    pub single_blocks: Vec<SingleStreamBlock>,
    pub(super) final_layer: LastLayer,
    #[module(skip)]
    pub(super) config: FluxConfig,
    #[module(skip)]
    pub(super) device: Device,
    #[module(skip)]
    pub(super) dtype: FloatDType,
}

impl Flux {
    /// Loads the transformer from a checkpoint in any layout that is known (see [`layout`]); all dimensions come from the tensors' shapes.
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape; products in 8-bit
    /// integers where they cannot be.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::flux);
        let config = FluxConfig::detect(checkpoint)?;
        let mut model =
            load(checkpoint, "a FLUX transformer", options, |_| false, |w| Ok(Self::build(w, config)))?;
        if options.int8 {
            model.multiply_in_int8()?;
        }
        Ok(model)
    }

    /// Lets the products of all blocks be computed in 8-bit integers, but for modulations, whose errors would reach every token.
    fn multiply_in_int8(&mut self) -> Result<()> {
        let refused = |got: String, wanted: &str| Err(Error::invalid("int8", got, wanted));
        if !is_ours(&Tensor::<1>::zeros([1], (&self.device, self.dtype.into()))) {
            let got = format!("{:?} on {:?}", self.dtype, self.device);
            return refused(got, "f32 on the CPU: products in 8-bit integers are only there; or no int8");
        }
        let double = self.double_blocks.iter_mut().flat_map(|b| [&mut b.img, &mut b.txt]);
        let double = double.flat_map(Stream::step_linears_mut);
        let single = self.single_blocks.iter_mut().flat_map(|b| [&mut b.linear1, &mut b.linear2]);
        let (mut count, mut others) = (0, Vec::new());
        for linear in double.chain(single) {
            count += 1;
            others.extend(linear.weight.multiply_in_int8().err());
        }
        match others.first() {
            None => Ok(()),
            Some(first) => refused(
                format!("{} of {count} matrices in another storage, the first in {first}", others.len()),
                "weights as stored, in Q8_0: make such a file with `convert --storage q8_0`; or no int8",
            ),
        }
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
                ada_ln_modulation: w
                    .used_once()
                    .at("adaLN_modulation.1", |w| Linear::load(w, [hidden, 2 * hidden])),
                linear: w.at("linear", |w| Linear::load(w, [hidden, config.in_channels])),
            }),
            device: w.device().clone(),
            dtype: w.dtype(),
            config,
        }
    }

    /// For so many steps at most, modulations are computed together and kept.
    pub const MODULATED_STEPS: usize = super::modulation::STEPS;

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

    pub(super) fn check(&self, input: &VelocityInput<'_>) -> Result<()> {
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
}

impl VelocityModel for Flux {
    fn velocity(&self, input: VelocityInput<'_>) -> Result<Tensor<3>> {
        self.check(&input)?;
        let VelocityInput { latent, t, guidance, conditioning } = input;
        let mut run = Run::new(self, conditioning, t.to_vec(), guidance, Approximation::default());
        Ok(run.velocity(0, latent).0)
    }

    fn prepare<'a>(&'a self, steps: Steps<'a>) -> Result<Velocity<'a>> {
        steps.approximation.check()?;
        if steps.approximation.first_block_cache.is_some() && self.double_blocks.is_empty() {
            return Err(Error::invalid("first_block_cache", "on", "off: no block here has two streams"));
        }
        let mut runs: Vec<Run<'a>> = Vec::new();
        Ok(Box::new(move |step, latent| {
            let batch = latent.dims()[0];
            let Steps { conditioning, guidance, approximation, times } = steps;
            let t = steps.time(step, batch)?;
            self.check(&VelocityInput { latent: latent.clone(), t: &t, guidance, conditioning })?;
            if runs.is_empty() {
                // Which steps are spared is decided for each sample by itself.
                let apart = if approximation.first_block_cache.is_some() { batch } else { 1 };
                let group = batch / apart;
                let run = |i: usize| {
                    let times = times.iter().flat_map(|t| std::iter::repeat_n(*t, group)).collect();
                    let samples = i * group..(i + 1) * group;
                    let guidance = &guidance[samples.clone()];
                    Run::new(self, &conditioning.samples(samples), times, guidance, approximation)
                };
                runs = (0..apart).map(run).collect();
            }
            let group = batch / runs.len();
            let mut reused = 0;
            let velocities = runs.iter_mut().enumerate().map(|(i, run)| {
                let (velocity, is_reused) = run.velocity(step, latent.clone().narrow(0, i * group, group));
                reused += usize::from(is_reused) * group;
                velocity
            });
            let velocity = Tensor::cat(velocities.collect(), 0);
            Ok(Predicted { velocity, reused })
        }))
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
