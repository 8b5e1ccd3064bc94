//! LoRA files attached to a transformer or merged into it: UNO's own, and further ones in the key styles found in the wild.
//!
//! UNO adapts attention only: `qkv` and `proj` of both streams in double blocks, and in single blocks the qkv part of
//! `linear1` and all of `linear2` (official `flux/modules/layers.py`: `DoubleStreamBlockLoraProcessor`,
//! `SingleStreamBlockLoraProcessor`). There is no alpha: `y += scale * up(down(x))`. Other files may adapt any linear layer,
//! parts of one (queries, keys and values apart), and count `alpha / rank` times. [`lora_keys`] tells what a
//! key means.

use std::collections::BTreeMap;

use burn::tensor::FloatDType;

use crate::error::{Error, Result};
use crate::flux::{Flux, FluxConfig};
use crate::lora_keys::{self, Half, Rows, Target};
use crate::nn::{LoraBranch, Matrix};
use crate::weights::{Checkpoint, LoadOptions, StoredTensor};

/// What attaching a LoRA did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attached {
    /// Key style of the file, in words for people.
    pub style: &'static str,
    /// How many layers (or parts of one) it adapts.
    pub layers: usize,
    /// Tensors for text encoders, which are not applied.
    pub text_encoder_tensors: usize,
}

/// One adapted layer, or part of one: `weight[first_output..] += scale * up @ down`.
#[derive(Debug, Clone)]
pub struct LoraDelta {
    /// The layer's name in the checkpoint, without `.weight`.
    pub layer: String,
    /// `[rank, in]`.
    pub down: StoredTensor,
    /// `[outputs, rank]`.
    pub up: StoredTensor,
    /// Factor on the product, alpha included.
    pub scale: f64,
    /// First output that is adapted.
    pub first_output: usize,
    /// Whether all outputs of the layer are adapted.
    pub is_whole: bool,
}

/// Adds the LoRA in `checkpoint` to `model` as branches beside its weights, with factor `scale`.
///
/// Branches add up: attaching a second LoRA keeps the first. Nothing changes if an error is returned.
///
/// # Errors
///
/// A file that adapts nothing, with tensors that belong to no layer, incomplete, or made for a model of other dimensions.
pub fn attach(
    model: &mut Flux,
    checkpoint: &Checkpoint,
    scale: f64,
    options: &LoadOptions,
) -> Result<Attached> {
    let deltas = deltas(checkpoint, model.config(), scale)?;
    let keys = || checkpoint.tensors().keys().map(String::as_str);
    let attached = Attached {
        style: lora_keys::style(keys()),
        layers: deltas.len(),
        text_encoder_tensors: keys().filter(|key| lora_keys::is_text_encoder(key)).count(),
    };
    // All layers are there before any is changed.
    for delta in &deltas {
        check(model, delta, checkpoint)?;
    }
    for LoraDelta { layer, down, up, scale, first_output, .. } in deltas {
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

/// What a LoRA file adds to a transformer of these dimensions, in the order of its layers.
///
/// # Errors
///
/// As [`attach`], but that a layer fits the model is only checked there.
pub fn deltas(checkpoint: &Checkpoint, config: &FluxConfig, scale: f64) -> Result<Vec<LoraDelta>> {
    if !scale.is_finite() {
        return Err(Error::invalid("LoRA scale", scale, "a finite number"));
    }
    let refuse = |reason: String| Err(Error::format(checkpoint.path(), reason));
    let mut found: BTreeMap<Target, Halves<'_>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (key, tensor) in checkpoint.tensors() {
        let place = match lora_keys::parse(key) {
            Some((_, Half::Dora)) => {
                return refuse(format!("holds {key}: a DoRA, which is more than a sum; wanted a plain LoRA"));
            }
            Some((target, half)) => {
                let halves = found.entry(target).or_default();
                match half {
                    Half::Down => &mut halves.down,
                    Half::Up => &mut halves.up,
                    _ => &mut halves.alpha,
                }
            }
            None if lora_keys::is_text_encoder(key) => continue,
            None => {
                unknown.push(key.as_str());
                continue;
            }
        };
        if let Some((other, _)) = place.replace((key, tensor)) {
            return refuse(format!("holds two tensors for one place: {other} and {key}"));
        }
    }
    if found.is_empty() {
        return refuse(format!(
            "is no LoRA for FLUX: none of its {} tensors adapts a layer of the transformer (keys look like {:?}); wanted keys as of \
             UNO, XLabs, kohya, diffusers or PEFT",
            checkpoint.tensors().len(),
            checkpoint.tensors().keys().next().map_or("nothing", String::as_str)
        ));
    }
    if let Some(first) = unknown.first() {
        let lacking = found.values().find_map(Halves::lacking);
        let lacking = lacking.map_or_else(String::new, |key| format!(", and has no {key:?}"));
        return refuse(format!(
            "holds {} tensors that adapt no layer that is known, the first is {first:?}{lacking}; it may be for another model",
            unknown.len()
        ));
    }
    if let Some(missing) = missing_of_uno(&found, config) {
        return refuse(format!("is not whole: it has no {missing}; load it anew"));
    }
    found.into_iter().map(|(target, halves)| halves.delta(target, checkpoint, config, scale)).collect()
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

    fn delta(
        self,
        target: Target,
        checkpoint: &Checkpoint,
        config: &FluxConfig,
        scale: f64,
    ) -> Result<LoraDelta> {
        let refuse = |reason: String| Error::format(checkpoint.path(), reason);
        let lacking = self.lacking().unwrap_or_default();
        let (Some((down_key, down)), Some((up_key, up))) = (self.down, self.up) else {
            let half = if self.down.is_none() { "down (A)" } else { "up (B)" };
            return Err(refuse(format!(
                "{}: its {half} half is missing: there is no {lacking:?}; load the file anew",
                target.layer
            )));
        };
        let matrix = |key: &String, tensor: &StoredTensor| -> Result<(StoredTensor, [usize; 2])> {
            let flat = match *tensor.shape() {
                [rows, columns] | [rows, columns, 1, 1] => Some([rows, columns]),
                _ => None,
            };
            let flat = flat.filter(|shape| tensor.is_read() && !shape.contains(&0));
            let reshaped = flat.and_then(|shape| Some((tensor.reshaped(shape.to_vec())?, shape)));
            reshaped.ok_or_else(|| refuse(format!("{key} is {tensor}; wanted a matrix of a float format")))
        };
        let ((down, [rank, _]), (up, [outputs, up_rank])) = (matrix(down_key, down)?, matrix(up_key, up)?);
        if rank != up_rank {
            return Err(refuse(format!(
                "{down_key} is {:?} and has rank {rank}, {up_key} is {:?}; wanted [outputs, {rank}]",
                down.shape(),
                up.shape()
            )));
        }
        let hidden = config.hidden_size;
        let (first_output, wanted) = match target.rows {
            None => (0, None),
            Some(Rows::Hidden(i)) => (i * hidden, Some(hidden)),
            Some(Rows::FirstThree) => (0, Some(3 * hidden)),
            Some(Rows::AfterThree) => (3 * hidden, Some(config.mlp_hidden)),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != outputs) {
            return Err(refuse(format!(
                "{up_key} is {:?}, wanted [{wanted}, {rank}]: it is for a model of another width than {hidden}",
                up.shape()
            )));
        }
        let up = match target.swap_halves {
            true => up
                .with_swapped_halves()
                .ok_or_else(|| refuse(format!("{up_key} has {outputs} rows; wanted an even number")))?,
            false => up,
        };
        let alpha = match self.alpha {
            None => rank as f64,
            Some((_, alpha)) if alpha.is_header_only() => rank as f64,
            Some((key, alpha)) if alpha.len() != 1 => {
                return Err(refuse(format!("{key} is {alpha}; wanted one finite number")));
            }
            Some((key, alpha)) => match alpha.to_f32()[..] {
                [alpha] if alpha.is_finite() => f64::from(alpha),
                _ => return Err(refuse(format!("{key} is {alpha}; wanted one finite number"))),
            },
        };
        let (layer, is_whole) = (target.layer.to_string(), target.rows.is_none());
        Ok(LoraDelta { layer, down, up, scale: scale * alpha / rank as f64, first_output, is_whole })
    }
}

/// A layer that UNO's LoRA adapts and that is not among `found`, if this is one: if it adapts single blocks in that style.
/// (XLabs trains double blocks only, under the same names, and others adapt what they like.)
fn missing_of_uno(found: &BTreeMap<Target, Halves<'_>>, config: &FluxConfig) -> Option<String> {
    let is_uno = found.values().any(|halves| {
        halves.down.is_some_and(|(key, _)| key.starts_with("single_blocks.") && key.contains(".processor."))
    });
    if !is_uno {
        return None;
    }
    let names: Vec<String> = found.keys().map(|target| target.layer.to_string()).collect();
    let double = (0..config.depth).flat_map(|i| {
        ["img_attn.qkv", "txt_attn.qkv", "img_attn.proj", "txt_attn.proj"]
            .map(|layer| format!("double_blocks.{i}.{layer}"))
    });
    let single = (0..config.depth_single_blocks)
        .flat_map(|i| ["linear1", "linear2"].map(|layer| format!("single_blocks.{i}.{layer}")));
    double.chain(single).find(|wanted| !names.contains(wanted))
}

/// That the layer is there and has the widths that the delta needs.
fn check(model: &mut Flux, delta: &LoraDelta, checkpoint: &Checkpoint) -> Result<()> {
    let config = model.config();
    let about = format!(
        "this transformer (width {}, {} double and {} single blocks)",
        config.hidden_size, config.depth, config.depth_single_blocks
    );
    let refuse = |reason: String| Err(Error::format(checkpoint.path(), reason));
    let Some([input, outputs]) = model.linear_mut(&delta.layer).map(|linear| linear.shape()) else {
        return refuse(format!("adapts {}, which {about} does not have", delta.layer));
    };
    let (got_input, got_outputs) = (delta.down.shape()[1], delta.up.shape()[0]);
    let fits = got_input == input
        && match delta.is_whole {
            true => got_outputs == outputs,
            false => delta.first_output + got_outputs <= outputs,
        };
    if fits {
        return Ok(());
    }
    refuse(format!(
        "{}: adapts {got_input} inputs and {got_outputs} outputs, {about} has {input} and {outputs} there",
        delta.layer
    ))
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

    fn small() -> FluxConfig {
        FluxConfig {
            hidden_size: 32,
            mlp_hidden: 8,
            depth: 1,
            depth_single_blocks: 1,
            ..FluxConfig::default()
        }
    }

    fn reason(tensors: &[(&str, StoredTensor)]) -> String {
        deltas(&file(tensors), &small(), 1.0).unwrap_err().to_string()
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
            let [delta] = &deltas(&file(&[(a, down.clone()), (b, up.clone())]), &small(), 3.0).unwrap()[..]
            else {
                panic!("{a}")
            };
            assert_eq!(
                (delta.layer.as_str(), delta.scale, delta.first_output),
                ("double_blocks.0.img_attn.qkv", 3.0, 0)
            );
        }
        let kohya = "lora_unet_double_blocks_0_img_attn_qkv";
        let keys = [".lora_down.weight", ".lora_up.weight", ".alpha"].map(|end| format!("{kohya}{end}"));
        let all = file(&[(&keys[0], down), (&keys[1], up), (&keys[2], alpha)]);
        assert_eq!(deltas(&all, &small(), 3.0).unwrap()[0].scale, 1.5);
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
        let found = deltas(&file(&tensors), &small(), 1.0).unwrap();
        assert_eq!(found.iter().map(|d| d.first_output).collect::<Vec<_>>(), [0, 32, 64]);
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
