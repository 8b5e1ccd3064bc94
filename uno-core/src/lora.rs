//! LoRA files attached to a model or merged into it: UNO's own, and further ones in the key styles found in the wild.
//!
//! UNO adapts attention of the transformer only: `qkv` and `proj` of both streams in double blocks, and in single blocks the qkv
//! part of `linear1` and all of `linear2` (official `flux/modules/layers.py`: `DoubleStreamBlockLoraProcessor`,
//! `SingleStreamBlockLoraProcessor`). There is no alpha: `y += scale * up(down(x))`. Other files may adapt any linear layer of
//! transformer, CLIP and T5, or parts of one (queries, keys and values apart), and count `alpha / rank` times: by a tensor of
//! alpha, else by PEFT's configuration ([`open`]), else once. [`lora_keys`] tells what a key means.

mod config;
mod file;
mod kinds;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::FloatDType;

pub use file::open;

use crate::error::{Error, Result};
use crate::flux::{Flux, FluxConfig};
use crate::lora_keys::{self, Component, Half, Rows, Target};
use crate::nn::{Linear, LoraBranch, Matrix};
use crate::text::{ClipTextEncoder, T5Encoder};
use crate::weights::{Checkpoint, LoadOptions, StoredTensor};
use config::Configs;

/// A part of the model whose linear layers can be adapted.
pub trait Adapted {
    /// Which part.
    const COMPONENT: Component;

    /// The linear layer that checkpoints call `name` (without `.weight`), if there is one.
    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear>;

    /// The part with its dimensions, in words for messages: `this transformer (width 3072, ...)`.
    fn about(&self) -> String;
}

impl Adapted for Flux {
    const COMPONENT: Component = Component::Transformer;

    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        Self::linear_mut(self, name)
    }

    fn about(&self) -> String {
        let FluxConfig { hidden_size, depth, depth_single_blocks, .. } = self.config();
        format!(
            "this transformer (width {hidden_size}, {depth} double and {depth_single_blocks} single blocks)"
        )
    }
}

impl Adapted for ClipTextEncoder {
    const COMPONENT: Component = Component::Clip;

    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        Self::linear_mut(self, name)
    }

    fn about(&self) -> String {
        let config = self.config();
        format!("this CLIP (width {}, {} layers)", config.hidden_size, config.num_hidden_layers)
    }
}

impl Adapted for T5Encoder {
    const COMPONENT: Component = Component::T5;

    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        Self::linear_mut(self, name)
    }

    fn about(&self) -> String {
        format!("this T5 (width {}, {} blocks)", self.config().d_model, self.config().num_layers)
    }
}

/// What attaching a LoRA did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attached {
    /// Key style of the file, in words for people.
    pub style: &'static str,
    /// How many layers (or parts of one) of the model it adapts.
    pub layers: usize,
    /// The other parts of a model that the file adapts, which are for further calls with these.
    pub others: Vec<Component>,
}

/// One adapted layer, or part of one: `weight[outputs] += scale * up @ down`.
#[derive(Debug, Clone)]
pub struct LoraDelta {
    /// What the layer is in.
    pub component: Component,
    /// The layer's name in the checkpoint, without `.weight`.
    pub layer: String,
    /// `[rank, in]`.
    pub down: StoredTensor,
    /// `[outputs, rank]`.
    pub up: StoredTensor,
    /// Factor on the product, alpha included.
    pub scale: f64,
    /// The outputs of the layer that are adapted, if not all.
    pub rows: Option<Rows>,
}

impl LoraDelta {
    /// The outputs that are adapted of the layer, which takes `input` numbers and gives `outputs`; an error says in words what does
    /// not fit. `about` is the part of the model, in words.
    ///
    /// # Errors
    ///
    /// A layer of other widths.
    pub fn place(
        &self,
        [input, outputs]: [usize; 2],
        about: impl std::fmt::Display,
    ) -> Result<Range<usize>, String> {
        let (got_input, got_outputs) = (self.down.shape()[1], self.up.shape()[0]);
        // Where a layer has several parts, those of attention are as wide as its input.
        let widths = |count: usize| input.saturating_mul(count);
        let wanted = match self.rows {
            None => 0..outputs,
            Some(Rows::Hidden(i)) => widths(i)..widths(i + 1),
            Some(Rows::FirstThree) => 0..widths(3),
            Some(Rows::AfterThree) => widths(3)..outputs,
        };
        let is_there = wanted.start < wanted.end && wanted.end <= outputs;
        match () {
            () if is_there && (got_input, got_outputs) == (input, wanted.len()) => Ok(wanted),
            () if self.is_input_of_transformer() && got_input > input => Err(control(got_input, input)),
            () => Err(format!(
                "{}: adapts {got_input} inputs and {got_outputs} outputs, {about} has {input} and {} there; it is for a model of \
                 another width",
                self.layer,
                wanted.len()
            )),
        }
    }

    /// Whether the layer takes the picture.
    fn is_input_of_transformer(&self) -> bool {
        self.component == Component::Transformer && self.layer == IMG_IN
    }
}

/// The layer that takes the picture.
const IMG_IN: &str = "img_in";
/// Channels that FLUX.1-dev takes.
const CHANNELS: usize = 64;

/// What a LoRA is whose transformer takes more channels.
fn control(got: usize, wanted: usize) -> String {
    let of = match got {
        128 => "FLUX.1-Canny and Depth",
        384 => "FLUX.1-Fill",
        _ => "pictures that guide",
    };
    format!(
        "is a control LoRA: its {IMG_IN} takes {got} channels ({of}), which is not read; wanted a LoRA for FLUX.1-dev, whose \
         transformer takes {wanted}"
    )
}

/// Adds what the LoRA in `checkpoint` is to `model` as branches beside its weights, with factor `scale`. What it is to other
/// parts of a model is for calls with these ([`Attached::others`]).
///
/// Branches add up: attaching a second LoRA keeps the first. Nothing changes if an error is returned.
///
/// # Errors
///
/// A file that adapts nothing, with tensors that belong to no layer, incomplete, or made for a model of other dimensions.
pub fn attach<M: Adapted>(
    model: &mut M,
    checkpoint: &Checkpoint,
    scale: f64,
    options: &LoadOptions,
) -> Result<Attached> {
    let refuse = |reason: String| Error::format(checkpoint.path(), reason);
    let (mine, others): (Vec<_>, Vec<_>) =
        deltas(checkpoint, scale)?.into_iter().partition(|delta| delta.component == M::COMPONENT);
    // All layers are there before any is changed.
    let about = model.about();
    let mut places = Vec::with_capacity(mine.len());
    for delta in &mine {
        let shape = model.linear_mut(&delta.layer).map(|linear| linear.shape());
        let shape =
            shape.ok_or_else(|| refuse(format!("adapts {}, which {about} does not have", delta.layer)))?;
        places.push(delta.place(shape, &about).map_err(refuse)?.start);
    }
    let attached = Attached {
        style: lora_keys::style(checkpoint.tensors().keys().map(String::as_str)),
        layers: mine.len(),
        others: Component::ALL
            .into_iter()
            .filter(|component| others.iter().any(|delta| delta.component == *component))
            .collect(),
    };
    for (LoraDelta { layer, down, up, scale, .. }, first_output) in mine.into_iter().zip(places) {
        if let Some(linear) = model.linear_mut(&layer) {
            let (down, up) = (Matrix::waiting(down, options), Matrix::waiting(up, options));
            linear.lora.push(LoraBranch { down, up, scale, first_output });
        }
    }
    Ok(attached)
}

/// Merges all attached branches into the weights, which are then held in `dtype`: the same result up to rounding, and
/// faster steps for the memory of the adapted matrices in that format.
///
/// # Errors
///
/// A model that multiplies in 8-bit integers ([`LoadOptions::int8`]): merged weights could not.
pub fn merge(model: &mut Flux, dtype: FloatDType) -> Result<()> {
    let device = model.device().clone();
    model.linears_mut().try_for_each(|linear| linear.merge_lora(&device, dtype))
}

/// The tensors of a LoRA file that adapt this part of a model, as a file of their own without configuration: to tell what they
/// take.
pub fn part(checkpoint: &Checkpoint, component: Component) -> Checkpoint {
    let is_of =
        |key: &str| lora_keys::parse(key).is_some_and(|(target, _)| target.layer.component == component);
    let tensors = checkpoint.tensors().iter().filter(|(key, _)| is_of(key));
    Checkpoint::from_tensors(checkpoint.path(), tensors.map(|(key, tensor)| (key.clone(), tensor.clone())))
}

/// What a LoRA file adds to a model, in the order of its layers.
///
/// # Errors
///
/// As [`attach`], but that a layer is there and fits is only checked there.
pub fn deltas(checkpoint: &Checkpoint, scale: f64) -> Result<Vec<LoraDelta>> {
    if !scale.is_finite() {
        return Err(Error::invalid("LoRA scale", scale, "a finite number"));
    }
    let refuse = |reason: String| Err(Error::format(checkpoint.path(), reason));
    let mut found: BTreeMap<Target, Halves<'_>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (key, tensor) in checkpoint.tensors() {
        let place = match lora_keys::parse(key) {
            Some((_, Half::Dora)) => {
                return refuse(format!(
                    "is no plain LoRA but a DoRA (it holds {key:?}), which is more than a sum and is not read; {}",
                    kinds::MERGE
                ));
            }
            Some((target, half)) => {
                let halves = found.entry(target).or_default();
                match half {
                    Half::Down => &mut halves.down,
                    Half::Up => &mut halves.up,
                    _ => &mut halves.alpha,
                }
            }
            None => {
                unknown.push((key.as_str(), tensor));
                continue;
            }
        };
        if let Some((other, _)) = place.replace((key, tensor)) {
            return refuse(format!("holds two tensors for one place: {other} and {key}"));
        }
    }
    if let Some(reason) = not_plain(checkpoint, &found, &unknown) {
        return refuse(reason);
    }
    let mut configs = Configs::new(checkpoint);
    let deltas = found.into_iter().map(|(target, halves)| halves.delta(target, scale, &mut configs));
    deltas.collect::<Result<_, _>>().or_else(refuse)
}

/// Why a file is no plain LoRA for this kind of model, if it is none.
fn not_plain(
    checkpoint: &Checkpoint,
    found: &BTreeMap<Target, Halves<'_>>,
    unknown: &[(&str, &StoredTensor)],
) -> Option<String> {
    if unknown.is_empty() && !found.is_empty() {
        return None;
    }
    let first = unknown.first().map_or("nothing", |(key, _)| *key);
    // Control LoRAs have biases and norms too, which alone would not tell what they are.
    let input = found.iter().find(|(target, _)| target.layer.pattern == IMG_IN);
    if let Some([_, channels]) = input.and_then(|(_, halves)| halves.down).map(|(_, down)| down.shape())
        && *channels > CHANNELS
        && channels.is_multiple_of(CHANNELS)
    {
        return Some(control(*channels, CHANNELS));
    }
    let of_kind = unknown.iter().find_map(|(key, tensor)| Some((key, kinds::kind(key, tensor.shape())?)));
    if let Some((key, kinds::Kind { name, remedy })) = of_kind {
        return Some(format!(
            "is no plain LoRA for FLUX but {name} (it holds {key:?}), which is not read; {remedy}"
        ));
    }
    if found.is_empty() {
        return Some(format!(
            "is no LoRA for FLUX: none of its {} tensors adapts a layer of the transformer or of a text encoder (keys look like \
             {first:?}); wanted keys as of UNO, XLabs, kohya, diffusers or PEFT",
            checkpoint.tensors().len()
        ));
    }
    if let Some((key, _)) = unknown.iter().find(|(key, _)| lora_keys::is_text_encoder(key)) {
        return Some(format!(
            "holds {} tensors that adapt no layer that is known, the first for a text encoder is {key:?}; of CLIP-L the projections \
             and MLPs (text_model.encoder.layers...) are adapted, of T5 those of its encoder (encoder.block...)",
            unknown.len()
        ));
    }
    let lacking = found.values().find_map(Halves::lacking);
    let lacking = lacking.map_or_else(String::new, |key| format!(", and has no {key:?}"));
    Some(format!(
        "holds {} tensors that adapt no layer that is known, the first is {first:?}{lacking}; it may be for another model",
        unknown.len()
    ))
}

/// The tensors of one target, each with its key.
#[derive(Default)]
struct Halves<'a> {
    down: Option<(&'a String, &'a StoredTensor)>,
    up: Option<(&'a String, &'a StoredTensor)>,
    alpha: Option<(&'a String, &'a StoredTensor)>,
}

impl Halves<'_> {
    /// The key of the half that is missing while the other is there.
    fn lacking(&self) -> Option<String> {
        match (self.down, self.up) {
            (Some((key, _)), None) | (None, Some((key, _))) => Some(lora_keys::other_half(key)),
            _ => None,
        }
    }

    fn delta(self, target: Target, scale: f64, configs: &mut Configs<'_>) -> Result<LoraDelta, String> {
        let lacking = self.lacking();
        let (Some((down_key, down)), Some((up_key, up))) = (self.down, self.up) else {
            return Err(match lacking {
                Some(lacking) => {
                    let half = if self.down.is_none() { "down (A)" } else { "up (B)" };
                    format!(
                        "{}: its {half} half is missing: there is no {lacking:?}; load the file anew",
                        target.layer
                    )
                }
                None => format!("{}: there is an alpha, but no matrices; load the file anew", target.layer),
            });
        };
        let matrix = |key: &String, tensor: &StoredTensor| -> Result<(StoredTensor, [usize; 2]), String> {
            let flat = match *tensor.shape() {
                [rows, columns] | [rows, columns, 1, 1] => Some([rows, columns]),
                _ => None,
            };
            let flat = flat.filter(|shape| tensor.is_read() && !shape.contains(&0));
            let reshaped = flat.and_then(|shape| Some((tensor.reshaped(shape.to_vec())?, shape)));
            reshaped.ok_or_else(|| format!("{key} is {tensor}; wanted a matrix of a float format"))
        };
        let ((down, [rank, _]), (up, [outputs, up_rank])) = (matrix(down_key, down)?, matrix(up_key, up)?);
        if rank != up_rank {
            return Err(format!(
                "{down_key} is {:?} and has rank {rank}, {up_key} is {:?}; wanted [outputs, {rank}]",
                down.shape(),
                up.shape()
            ));
        }
        let up = match target.swap_halves {
            true => up
                .with_swapped_halves()
                .ok_or_else(|| format!("{up_key} has {outputs} rows; wanted an even number"))?,
            false => up,
        };
        // Alpha tensors go before what is written beside them: converters keep the one, and not always the other.
        let factor = match self.alpha {
            None => configs.factor(target.layer.component, lora_keys::module(down_key), rank)?,
            Some((_, alpha)) if alpha.is_header_only() => 1.0,
            Some((key, alpha)) => {
                let number = if alpha.len() == 1 { alpha.to_f32() } else { Vec::new() };
                match number[..] {
                    [alpha] if alpha.is_finite() => f64::from(alpha) / rank as f64,
                    _ => return Err(format!("{key} is {alpha}; wanted one finite number")),
                }
            }
        };
        Ok(LoraDelta {
            component: target.layer.component,
            layer: target.layer.to_string(),
            down,
            up,
            scale: scale * factor,
            rows: target.rows,
        })
    }
}

/// Checks that UNO's own LoRA is whole: that a file which adapts single blocks in its style adapts all that UNO does. Further
/// LoRAs may adapt what they like; XLabs' have the same names and are often for some blocks.
///
/// # Errors
///
/// A layer that is missing.
pub fn check_whole(checkpoint: &Checkpoint, config: &FluxConfig) -> Result<()> {
    let keys = || checkpoint.tensors().keys();
    if !keys().any(|key| key.starts_with("single_blocks.") && key.contains(".processor.")) {
        return Ok(());
    }
    let found: Vec<String> =
        keys().filter_map(|key| Some(lora_keys::parse(key)?.0.layer.to_string())).collect();
    let wanted = lora_keys::uno_layers(config.depth, config.depth_single_blocks);
    let missing =
        wanted.into_iter().map(|(_, target)| target.layer.to_string()).find(|layer| !found.contains(layer));
    match missing {
        None => Ok(()),
        Some(layer) => Err(Error::format(
            checkpoint.path(),
            format!(
                "is not whole as UNO's own LoRA: it has no {layer}; load it anew, or add it as a further LoRA if it is another one"
            ),
        )),
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn matrix(rows: usize, columns: usize) -> StoredTensor {
        StoredTensor::from_f32(vec![rows, columns], &vec![0.5; rows * columns]).unwrap()
    }

    fn file(tensors: &[(&str, StoredTensor)]) -> Checkpoint {
        Checkpoint::from_tensors("x", tensors.iter().map(|(name, t)| ((*name).to_owned(), t.clone())))
    }

    fn reason(tensors: &[(&str, StoredTensor)]) -> String {
        deltas(&file(tensors), 1.0).unwrap_err().to_string()
    }

    #[test]
    fn every_style_names_the_same_layer_and_alpha_divides_by_the_rank() {
        let (down, up) = (matrix(4, 32), matrix(96, 4));
        let alpha = StoredTensor::from_f32(vec![], &[2.0]).unwrap();
        for (a, b) in [
            (
                "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
                "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
            ),
            (
                "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
                "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight",
            ),
            (
                "double_blocks.0.processor.qkv_lora1.down.weight",
                "double_blocks.0.processor.qkv_lora1.up.weight",
            ),
        ] {
            let [delta] = &deltas(&file(&[(a, down.clone()), (b, up.clone())]), 3.0).unwrap()[..] else {
                panic!("{a}")
            };
            assert_eq!(
                (delta.layer.as_str(), delta.scale, delta.rows),
                ("double_blocks.0.img_attn.qkv", 3.0, None)
            );
        }
        let kohya = "lora_unet_double_blocks_0_img_attn_qkv";
        let keys = [".lora_down.weight", ".lora_up.weight", ".alpha"].map(|end| format!("{kohya}{end}"));
        let all = file(&[(&keys[0], down), (&keys[1], up), (&keys[2], alpha)]);
        assert_eq!(deltas(&all, 3.0).unwrap()[0].scale, 1.5);
    }

    #[test]
    fn queries_keys_and_values_of_diffusers_go_to_their_rows() {
        let names = ["to_q", "to_k", "to_v"].map(|n| format!("transformer.transformer_blocks.0.attn.{n}"));
        let keys: Vec<String> =
            names.iter().flat_map(|n| [format!("{n}.lora_A.weight"), format!("{n}.lora_B.weight")]).collect();
        let tensors: Vec<_> = keys
            .iter()
            .map(|k| (k.as_str(), if k.contains("_A") { matrix(2, 32) } else { matrix(32, 2) }))
            .collect();
        let found = deltas(&file(&tensors), 1.0).unwrap();
        let places = found.iter().map(|d| d.place([32, 96], "it").unwrap().start);
        assert_eq!(places.collect::<Vec<_>>(), [0, 32, 64]);
        assert!(found.iter().all(|d| d.layer == "double_blocks.0.img_attn.qkv"));
    }

    #[test]
    fn what_is_no_whole_lora_for_this_model_is_refused_with_the_reason() {
        let (a, b) = (
            "lora_unet_single_blocks_0_linear2.lora_down.weight",
            "lora_unet_single_blocks_0_linear2.lora_up.weight",
        );
        assert!(reason(&[]).contains("is no LoRA"));
        assert!(reason(&[("img_in.weight", matrix(2, 2))]).contains("is no LoRA"));
        assert!(reason(&[(a, matrix(2, 40))]).contains("up (B) half is missing"));
        assert!(reason(&[(a, matrix(2, 40)), (b, matrix(32, 3))]).contains("[outputs, 2]"));
        assert!(
            reason(&[(a, matrix(2, 40)), (b, matrix(32, 2)), ("what", matrix(1, 1))]).contains("\"what\"")
        );
        let dora = "lora_unet_single_blocks_0_linear2.dora_scale";
        assert!(reason(&[(a, matrix(2, 40)), (b, matrix(32, 2)), (dora, matrix(32, 1))]).contains("DoRA"));
        assert!(
            reason(&[(a, StoredTensor::from_f32(vec![0, 40], &[]).unwrap()), (b, matrix(32, 2))])
                .contains("wanted a matrix")
        );
        let nan = StoredTensor::from_f32(vec![1], &[f32::NAN]).unwrap();
        let alpha = "lora_unet_single_blocks_0_linear2.alpha";
        assert!(reason(&[(a, matrix(2, 40)), (b, matrix(32, 2)), (alpha, nan)]).contains("finite"));
    }
}
