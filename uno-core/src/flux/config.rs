//! Dimensions of a FLUX transformer, read off its tensors' shapes.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::weights::foreign::{self, Wanted};
use crate::weights::{Checkpoint, layout};

/// Dimensions of a FLUX transformer. Defaults are those of FLUX.1-dev.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FluxConfig {
    /// Features of a packed latent token (16 latent channels, 2x2 patches).
    pub in_channels: usize,
    /// Features of the pooled CLIP state.
    pub vec_in_dim: usize,
    /// Features of a T5 state.
    pub context_in_dim: usize,
    /// Width of the streams.
    pub hidden_size: usize,
    /// Width of the MLPs.
    pub mlp_hidden: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Blocks with separate text and image streams.
    pub depth: usize,
    /// Blocks with one joint stream.
    pub depth_single_blocks: usize,
    /// Features of the sinusoidal timestep embedding.
    pub time_dim: usize,
    /// Whether guidance is an input (dev) or not (schnell).
    pub guidance_embed: bool,
}

impl Default for FluxConfig {
    fn default() -> Self {
        Self {
            in_channels: 64,
            vec_in_dim: 768,
            context_in_dim: 4096,
            hidden_size: 3072,
            mlp_hidden: 12288,
            num_heads: 24,
            depth: 19,
            depth_single_blocks: 38,
            time_dim: 256,
            guidance_embed: true,
        }
    }
}

impl FluxConfig {
    /// Outputs of all modulations together: shifts, scales and gates of one step and sample. Their matrices, which are used once
    /// for many steps, have `hidden_size` numbers for each.
    pub fn modulation_outputs(&self) -> usize {
        (12 * self.depth + 3 * self.depth_single_blocks + 2) * self.hidden_size
    }

    /// Reads all dimensions off the shapes in `checkpoint`.
    ///
    /// # Errors
    ///
    /// A tensor that tells a dimension is missing or has another rank, or the dimensions do not fit together; another model (FLUX.1-Fill,
    /// Canny, Depth, Redux, Chroma, FLUX.2 and others), or weights quantized in a way that is not read.
    pub fn detect(checkpoint: &Checkpoint) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::flux);
        foreign::check(checkpoint, Wanted::Transformer)?;
        let matrix = |name: &str| -> Result<[usize; 2]> {
            let shape = checkpoint
                .shape(name)
                .ok_or_else(|| foreign::lacks(checkpoint, Wanted::Transformer, name))?;
            shape.try_into().map_err(|_| {
                Error::format(
                    checkpoint.path(),
                    format!("tensor {name}: got shape {shape:?}, wanted a matrix"),
                )
            })
        };
        let [hidden_size, in_channels] = matrix("img_in.weight")?;
        if let Some(&[outputs, _]) = checkpoint.shape("final_layer.linear.weight") {
            check_inputs(in_channels, outputs).map_err(|reason| Error::format(checkpoint.path(), reason))?;
        }
        let [_, context_in_dim] = matrix("txt_in.weight")?;
        let [_, vec_in_dim] = matrix("vector_in.in_layer.weight")?;
        let [_, time_dim] = matrix("time_in.in_layer.weight")?;
        let depth = checkpoint.count("double_blocks.{}.");
        let depth_single_blocks = checkpoint.count("single_blocks.{}.");
        let (mlp, norm) = if depth > 0 {
            (matrix("double_blocks.0.img_mlp.0.weight")?[0], "double_blocks.0.img_attn.norm.query_norm.scale")
        } else {
            let linear1 = matrix("single_blocks.0.linear1.weight")?[0];
            (linear1.saturating_sub(3 * hidden_size), "single_blocks.0.norm.query_norm.scale")
        };
        let head_dim = match checkpoint.shape(norm) {
            Some(&[d]) => d,
            _ => {
                return Err(Error::format(
                    checkpoint.path(),
                    format!("tensor {norm} is missing or no vector"),
                ));
            }
        };
        let config = Self {
            in_channels,
            vec_in_dim,
            context_in_dim,
            hidden_size,
            mlp_hidden: mlp,
            num_heads: hidden_size.checked_div(head_dim).unwrap_or(0),
            depth,
            depth_single_blocks,
            time_dim,
            guidance_embed: checkpoint.tensors().contains_key("guidance_in.in_layer.weight"),
        };
        // The rotary embedding splits the head into axes of D/8, 7D/16, 7D/16, each of them even.
        let sound = head_dim > 0
            && head_dim % 32 == 0
            // A file without any data could claim all other dimensions beside a width of zero.
            && [hidden_size, mlp, context_in_dim, vec_in_dim].iter().all(|width| *width > 0)
            && config.num_heads * head_dim == hidden_size
            && in_channels > 0
            && in_channels % 4 == 0
            && time_dim > 0
            && time_dim % 2 == 0;
        if sound {
            Ok(config)
        } else {
            Err(Error::format(
                checkpoint.path(),
                format!(
                    "dimensions do not fit together: width {hidden_size}, head width {head_dim} (wanted a multiple of 32 \
                     that divides the width), {in_channels} channels (wanted a multiple of 4), time features {time_dim}, \
                     MLP width {mlp}, text features {context_in_dim} and {vec_in_dim}"
                ),
            ))
        }
    }

    /// Features per attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

/// Refuses transformers of the FLUX.1 family that take pictures beside the latent, channel by channel: more channels than they give.
fn check_inputs(inputs: usize, outputs: usize) -> Result<(), String> {
    if inputs == outputs || outputs == 0 {
        return Ok(());
    }
    // Fill takes the latent, that of the masked picture, and 8x8 pixels of mask for each latent; the others one further latent.
    let model = match (inputs % outputs, inputs / outputs) {
        (0, 6) => "FLUX.1-Fill",
        (0, 2) => "FLUX.1-Canny or FLUX.1-Depth",
        _ => "no FLUX.1 that is read",
    };
    Err(format!(
        "takes {inputs} channels: {model}; wanted {outputs}, as many as it gives (FLUX.1-dev or FLUX.1-schnell)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::StorageDtype;

    #[test]
    fn relatives_that_take_more_channels_are_named() {
        assert!(check_inputs(64, 64).is_ok());
        for (inputs, words) in [
            (384, "takes 384 channels: FLUX.1-Fill; wanted 64"),
            (128, "takes 128 channels: FLUX.1-Canny or FLUX.1-Depth; wanted 64"),
            (196, "takes 196 channels: no FLUX.1 that is read; wanted 64"),
        ] {
            assert!(check_inputs(inputs, 64).unwrap_err().contains(words), "{inputs}");
        }
    }

    #[test]
    fn dimensions_that_need_no_data_are_refused() {
        let detected = |hidden: usize, txt: usize, vec: usize, mlp: usize| {
            let shapes = [
                ("img_in.weight", vec![hidden, 4]),
                ("txt_in.weight", vec![hidden, txt]),
                ("vector_in.in_layer.weight", vec![hidden, vec]),
                ("time_in.in_layer.weight", vec![hidden, 2]),
                ("double_blocks.0.img_mlp.0.weight", vec![mlp, hidden]),
                ("double_blocks.0.img_attn.norm.query_norm.scale", vec![32]),
            ];
            let shapes = shapes.map(|(name, shape)| (name.to_owned(), StorageDtype::F32, shape));
            FluxConfig::detect(&Checkpoint::from_shapes("x", shapes))
        };
        assert!(detected(64, 2, 2, 8).is_ok());
        for (hidden, txt, vec, mlp) in [(0, usize::MAX, 2, 8), (64, 0, 2, 8), (64, 2, 0, 8), (64, 2, 2, 0)] {
            let error = detected(hidden, txt, vec, mlp).unwrap_err().to_string();
            assert!(error.contains(&format!("width {hidden},")), "{error}");
        }
    }
}
