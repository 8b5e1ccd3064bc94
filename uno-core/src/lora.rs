//! LoRA files in UNO's layout, attached to a transformer or merged into it.
//!
//! UNO adapts attention only: `qkv` and `proj` of both streams in double blocks, and in single blocks the qkv part of
//! `linear1` and all of `linear2` (official `flux/modules/layers.py`: `DoubleStreamBlockLoraProcessor`,
//! `SingleStreamBlockLoraProcessor`). There is no alpha: `y += scale * up(down(x))`.

use burn::tensor::FloatDType;

use crate::error::{Error, Result};
use crate::flux::{Flux, FluxConfig};
use crate::nn::{Linear, LoraBranch, Matrix};
use crate::weights::{Checkpoint, LoadOptions, Weights, load};

/// Adds the LoRA in `checkpoint` to `model` as branches beside its weights, with factor `scale`.
///
/// Branches add up: attaching a second LoRA keeps the first. Nothing changes if an error is returned.
///
/// # Errors
///
/// A file without any LoRA tensor, with tensors that belong to no layer, or made for a model of other dimensions.
pub fn attach(model: &mut Flux, checkpoint: &Checkpoint, scale: f64, options: &LoadOptions) -> Result<()> {
    if !scale.is_finite() {
        return Err(Error::invalid("LoRA scale", scale, "a finite number"));
    }
    if !checkpoint.tensors().keys().any(|key| key.contains(".processor.") && key.contains("_lora")) {
        return Err(Error::format(
            checkpoint.path(),
            "holds no tensor named like double_blocks.0.processor.qkv_lora1.down.weight; it is no UNO LoRA, or in a layout \
             that is not read yet",
        ));
    }
    let config = model.config().clone();
    let about = format!(
        "a UNO LoRA for this transformer (width {}, {} double and {} single blocks)",
        config.hidden_size, config.depth, config.depth_single_blocks
    );
    let branches = load(checkpoint, &about, options, |_| false, |w| Ok(branches(w, &config, scale)))?;
    for (linear, branch) in adapted_layers(model).into_iter().zip(branches) {
        linear.lora.push(branch);
    }
    Ok(())
}

/// Merges all attached branches into the weights, which are then held in `dtype`: the same result up to rounding, and
/// faster steps for the memory of the adapted matrices in that format.
pub fn merge(model: &mut Flux, dtype: FloatDType) {
    let device = model.device().clone();
    for linear in adapted_layers(model) {
        linear.merge_lora(&device, dtype);
    }
}

/// Adapted layers in the order of [`branches`].
fn adapted_layers(model: &mut Flux) -> Vec<&mut Linear> {
    let double = model
        .double_blocks
        .iter_mut()
        .flat_map(|b| [&mut b.img.attn.qkv, &mut b.txt.attn.qkv, &mut b.img.attn.proj, &mut b.txt.attn.proj]);
    let single = model.single_blocks.iter_mut().flat_map(|b| [&mut b.linear1, &mut b.linear2]);
    double.chain(single).collect()
}

/// One branch per adapted layer, in the order of [`adapted_layers`].
fn branches(w: Weights<'_>, config: &FluxConfig, scale: f64) -> Vec<LoraBranch> {
    let (hidden, mlp) = (config.hidden_size, config.mlp_hidden);
    let branch = |name: String, input: usize, output: usize| {
        w.at(name, |w| {
            // The rank is the file's choice; whether both halves agree on it is checked by their shapes.
            // A rank of 0 becomes a shape that does not fit.
            let rank = w.first_dim("down.weight").unwrap_or(1).max(1);
            let down = Matrix::load(w, "down.weight", [input, rank]);
            let up = Matrix::load(w, "up.weight", [rank, output]);
            LoraBranch { down, up, scale, first_output: 0 }
        })
    };
    let double = (0..config.depth).flat_map(|i| {
        [("qkv_lora1", 3), ("qkv_lora2", 3), ("proj_lora1", 1), ("proj_lora2", 1)].map(|(name, parts)| {
            branch(format!("double_blocks.{i}.processor.{name}"), hidden, parts * hidden)
        })
    });
    let single = (0..config.depth_single_blocks).flat_map(|i| {
        [("qkv_lora", hidden, 3 * hidden), ("proj_lora", hidden + mlp, hidden)]
            .map(|(name, input, output)| branch(format!("single_blocks.{i}.processor.{name}"), input, output))
    });
    double.chain(single).collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::weights::{Storage, StorageDtype};
    use burn::tensor::Device;

    #[test]
    fn a_rank_of_zero_is_refused() {
        let shapes = |rank: usize| {
            [("down", vec![rank, 32]), ("up", vec![96, rank])].map(|(half, shape)| {
                (format!("single_blocks.0.processor.qkv_lora.{half}.weight"), StorageDtype::F32, shape)
            })
        };
        let config = FluxConfig {
            hidden_size: 32,
            mlp_hidden: 8,
            depth: 0,
            depth_single_blocks: 1,
            ..FluxConfig::default()
        };
        let options = LoadOptions::new(&Device::flex()).with_storage(Storage::AsStored);
        let wrong_shapes = |rank: usize| {
            let checkpoint = Checkpoint::from_shapes("x", shapes(rank));
            match load(&checkpoint, "a LoRA", &options, |_| false, |w| Ok(branches(w, &config, 1.0))) {
                Err(Error::Load(report)) => report.shapes.len(),
                _ => panic!("the other branch is missing"),
            }
        };
        assert_eq!([wrong_shapes(2), wrong_shapes(0)], [0, 2]);
    }
}
