//! What a training step takes in memory, predicted from dimensions alone.
//!
//! The constants are measured on the CPU in f32 with blocks of FLUX.1-dev's width (`benches/train_step.rs`, docs/training.md); other
//! formats are taken in proportion.

use std::fmt;

use burn::tensor::FloatDType;
use uno_core::flux::FluxConfig;
use uno_core::weights::{Storage, StoredTensor};

use super::config::TrainConfig;
use super::data::Checked;
use super::named::NamedTensors;
use super::prepare::StageData;
use crate::components::{ModelSource, PipelineOptions};
use crate::request::MULTIPLE;

/// Numbers per token that a block keeps for its backward pass, in widths of the streams.
const WIDTHS: f64 = 38.0;
/// Matrices of attention scores, per head, that a block keeps.
const SCORES: f64 = 3.0;

/// What is asked of the prediction.
#[derive(Debug, Clone, Copy)]
pub struct TrainingShape {
    /// Bytes of the transformer's weights as they wait in memory.
    pub weights: u64,
    /// Whether matrices are expanded to the compute format at each use; they are then kept until the backward pass of their block.
    pub expands: bool,
    /// Bytes per number in the compute format.
    pub width: usize,
    /// Parameters of the LoRA.
    pub lora: usize,
    /// Whether a moving average is kept.
    pub ema: bool,
    /// Samples that are computed together.
    pub batch: usize,
    /// Tokens of one sample: text, target and references.
    pub tokens: usize,
    /// Whether activations are computed again, block by block.
    pub checkpointing: bool,
}

/// Bytes that training takes on each device (the first one, where there are several).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingMemory {
    /// The transformer's weights.
    pub weights: u64,
    /// LoRA, gradients, moments, average: f32.
    pub parameters: u64,
    /// Inputs of all blocks, and what is kept inside of blocks.
    pub activations: u64,
    /// Matrices expanded for the blocks whose activations are kept.
    pub expanded: u64,
}

impl TrainingMemory {
    /// The prediction for a transformer.
    pub fn predict(config: &FluxConfig, shape: &TrainingShape) -> Self {
        let width = shape.width as f64;
        let (batch, tokens, hidden) = (shape.batch as f64, shape.tokens as f64, config.hidden_size as f64);
        let inside =
            batch * width * (WIDTHS * hidden * tokens + SCORES * config.num_heads as f64 * tokens * tokens);
        let mlp = config.mlp_hidden as f64;
        // Attention and MLP of two streams; linear1 and linear2. Those of modulations are not kept.
        let matrices =
            [2.0 * (4.0 * hidden * hidden + 2.0 * hidden * mlp), 4.0 * hidden * hidden + 2.0 * hidden * mlp];
        let blocks = [config.depth as f64, config.depth_single_blocks as f64];
        let all = blocks[0] + blocks[1];
        let (kept, expanded) = if shape.checkpointing {
            let largest = if config.depth > 0 { matrices[0] } else { matrices[1] };
            (inside + batch * width * hidden * tokens * (all + 1.0), largest)
        } else {
            (inside * all, blocks[0] * matrices[0] + blocks[1] * matrices[1])
        };
        let copies = if shape.ema { 5 } else { 4 };
        Self {
            weights: shape.weights,
            parameters: copies * 4 * shape.lora as u64,
            activations: kept as u64,
            expanded: if shape.expands { (expanded * width) as u64 } else { 0 },
        }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.weights + self.parameters + self.activations + self.expanded
    }
}

impl fmt::Display for TrainingMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = if self.total() < 1 << 30 { (1 << 20, "MiB") } else { (1 << 30, "GiB") };
        let in_unit = |bytes: u64| bytes as f64 / f64::from(unit);
        write!(
            f,
            "expected memory {:.1} {name}: transformer {:.1}, LoRA with gradients and optimizer {:.1}, activations {:.1}, weights \
             expanded meanwhile {:.1} (predicted)",
            in_unit(self.total()),
            in_unit(self.weights),
            in_unit(self.parameters),
            in_unit(self.activations),
            in_unit(self.expanded)
        )
    }
}

/// What the largest batch is expected to take in memory.
pub fn expected_memory(
    config: &TrainConfig,
    source: &ModelSource,
    options: &PipelineOptions,
    parameters: &NamedTensors,
    data: &[StageData],
) -> TrainingMemory {
    let dimensions = FluxConfig::detect(&source.dit).unwrap_or_default();
    let area = |(height, width): (usize, usize)| height * width / (MULTIPLE * MULTIPLE);
    let tokens = |checked: &Checked| {
        source.text.t5_length
            + area(checked.target)
            + checked.references.iter().copied().map(area).sum::<usize>()
    };
    let largest = config
        .stages
        .iter()
        .zip(data)
        .filter_map(|(stage, data)| Some((stage.batch_size, data.samples.iter().map(tokens).max()?)));
    let (batch, tokens) = largest.max_by_key(|(batch, tokens)| batch * tokens).unwrap_or_default();
    let width = if options.dtype == FloatDType::F32 { 4 } else { 2 };
    let is_expanded = options.storage == Storage::Expanded;
    let numbers: usize = source.dit.tensors().values().map(StoredTensor::len).sum();
    let native = source.dit.tensors().values().all(|tensor| tensor.is_native(options.dtype));
    let shape = TrainingShape {
        weights: if is_expanded { numbers * width } else { source.dit.byte_len() } as u64,
        expands: !is_expanded && !native,
        width,
        lora: parameters.count(),
        ema: config.ema_decay.is_some(),
        batch,
        tokens,
        checkpointing: config.gradient_checkpointing,
    };
    TrainingMemory::predict(&dimensions, &shape)
}

/// Parameters of UNO's LoRA at a rank.
pub fn lora_parameters(config: &FluxConfig, rank: usize) -> usize {
    let (hidden, mlp) = (config.hidden_size, config.mlp_hidden);
    let (qkv, proj, proj_single) = (4 * hidden, 2 * hidden, 2 * hidden + mlp);
    rank * (config.depth * 2 * (qkv + proj) + config.depth_single_blocks * (qkv + proj_single))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tokens: usize, depth: [usize; 2], checkpointing: bool) -> TrainingMemory {
        let mut config = FluxConfig::default();
        (config.depth, config.depth_single_blocks) = (depth[0], depth[1]);
        let lora = lora_parameters(&config, 512);
        let shape = TrainingShape {
            weights: 0,
            expands: true,
            width: 4,
            lora,
            ema: false,
            batch: 1,
            tokens,
            checkpointing,
        };
        TrainingMemory::predict(&config, &shape)
    }

    #[test]
    fn uno_s_lora_has_as_many_parameters_as_published() {
        // 0.96 billion at rank 512.
        assert_eq!(lora_parameters(&FluxConfig::default(), 512), 956_301_312);
    }

    #[test]
    fn predictions_are_near_what_was_measured() {
        // benches/train_step.rs on the CPU in f32, rank 512: MiB beside weights, LoRA and moments; gradients are in it.
        for (tokens, depth, checkpointing, measured) in [
            (1024, [1, 0], true, 1377.0),
            (1536, [1, 0], true, 1904.0),
            (1536, [0, 1], true, 1567.0),
            (1024, [1, 1], true, 1431.0),
            (1536, [1, 1], true, 1970.0),
            (256, [3, 0], true, 1136.0),
            (256, [3, 0], false, 2863.0),
            (256, [0, 4], true, 791.0),
            (256, [0, 4], false, 2180.0),
        ] {
            let memory = at(tokens, depth, checkpointing);
            let gradients = memory.parameters / 4;
            let predicted = (memory.activations + memory.expanded + gradients) as f64 / f64::from(1 << 20);
            let ratio = predicted / measured;
            assert!(
                (0.9..1.3).contains(&ratio),
                "{tokens} tokens, {depth:?}: {predicted:.0}, measured {measured}"
            );
        }
    }
}
