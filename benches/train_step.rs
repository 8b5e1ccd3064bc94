//! cargo bench --bench train_step -- --like flux1-dev.json --double 1 --single 1 --rank 512 --reference 32x32
//!
//! Loss and gradients of UNO's LoRA for one sample: seconds and the most memory. The model has the shapes of a manifest (JSON: name
//! -> shape and dtype) or checkpoint, cut to some blocks, and weights of zero, which take no memory; so what is measured is what
//! training takes beside the weights.

mod common;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::FloatDType;
use clap::Parser;
use common::{Grid, tensor};
use serde::Deserialize;
use uno_core::device;
use uno_core::flux::Flux;
use uno_core::latents::{grid_ids, text_ids};
use uno_core::traits::Conditioning;
use uno_core::weights::{Checkpoint, LoadOptions, StorageDtype};
use uno_models::memory;
use uno_models::train::batch::Batch;
use uno_models::train::lora::{LoraModel, init};
use uno_models::train::loss::mix;
use uno_models::train::optimizer::{AdamW, AdamWConfig, clip_global_norm};
use uno_models::train::step::backward;

/// Times a training step.
#[derive(Parser)]
struct Arguments {
    /// A manifest or a checkpoint, whose shapes are taken
    #[arg(long)]
    like: PathBuf,
    /// Blocks with two streams
    #[arg(long, default_value_t = usize::MAX)]
    double: usize,
    /// Blocks with one stream
    #[arg(long, default_value_t = usize::MAX)]
    single: usize,
    /// Rank of the LoRA
    #[arg(long, default_value_t = 512)]
    rank: usize,
    /// Text tokens
    #[arg(long, default_value_t = 512)]
    text: usize,
    /// Rows and columns of the target's tokens
    #[arg(long, default_value = "32x32")]
    latent: Grid,
    /// Rows and columns of a reference's tokens; may be given several times
    #[arg(long)]
    reference: Vec<Grid>,
    /// Where it is computed
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Compute in bf16
    #[arg(long)]
    bf16: bool,
    /// Keep all activations
    #[arg(long)]
    no_checkpointing: bool,
    /// Steps; the last one is reported
    #[arg(long, default_value_t = 1)]
    steps: usize,
    // `cargo bench` passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Deserialize)]
struct Shape {
    shape: Vec<usize>,
}

/// Names and shapes, without the blocks beyond the wanted numbers.
fn shapes(arguments: &Arguments) -> Result<Checkpoint> {
    let all: Vec<(String, Vec<usize>)> = if arguments.like.extension().is_some_and(|e| e == "json") {
        let manifest: std::collections::BTreeMap<String, Shape> =
            serde_json::from_slice(&std::fs::read(&arguments.like)?)?;
        manifest.into_iter().map(|(name, shape)| (name, shape.shape)).collect()
    } else {
        let checkpoint = Checkpoint::open(&arguments.like)?;
        checkpoint.tensors().iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect()
    };
    let is_wanted = |name: &str| {
        let mut parts = name.split('.');
        let (kind, number) = (parts.next(), parts.next().and_then(|n| n.parse::<usize>().ok()));
        match (kind, number) {
            (Some("double_blocks"), Some(n)) => n < arguments.double,
            (Some("single_blocks"), Some(n)) => n < arguments.single,
            _ => true,
        }
    };
    let wanted = all.into_iter().filter(|(name, _)| is_wanted(name));
    Ok(Checkpoint::from_shapes("shapes", wanted.map(|(name, shape)| (name, StorageDtype::BF16, shape))))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = device::open(&arguments.device)?;
    let dtype = if arguments.bf16 { FloatDType::BF16 } else { FloatDType::F32 };
    let flux = Flux::load(&shapes(&arguments)?, &LoadOptions::new(&device).with_dtype(dtype))?;
    let config = flux.config().clone();
    let mut parameters = init(&config, arguments.rank, 0, &device)?;
    let mut model = LoraModel::new(flux, &parameters)?;
    let mut optimizer = AdamW::new(AdamWConfig::default(), &parameters);
    let packed = |seed, grid: Grid| tensor::<3>(seed, [1, grid.count(), config.in_channels], &device);
    let mut ids = text_ids(arguments.text);
    let (mut row, mut column) = (0, 0);
    for grid in std::iter::once(&arguments.latent).chain(&arguments.reference) {
        ids.extend(grid_ids(grid.rows, grid.columns, (row, column)));
        (row, column) = (row + grid.rows, column + grid.columns);
    }
    let batch = Batch {
        mixed: mix(packed(1, arguments.latent), packed(2, arguments.latent), &[0.5]),
        t: vec![0.5],
        conditioning: Conditioning {
            txt: tensor(3, [1, arguments.text, config.context_in_dim], &device),
            vec: tensor(4, [1, config.vec_in_dim], &device),
            references: arguments.reference.iter().map(|grid| packed(5, *grid)).collect(),
            ids,
        },
    };
    let held = memory::resident();
    let (mut gradient_seconds, mut step_seconds, mut peak) = (0.0, 0.0, None);
    for _ in 0..arguments.steps.max(1) {
        memory::reset_peak();
        let start = Instant::now();
        let (loss, gradients) = backward(&model, &batch, 1.0, !arguments.no_checkpointing)?;
        gradient_seconds = start.elapsed().as_secs_f64();
        if !loss.is_finite() {
            bail!("the loss is {loss}");
        }
        peak = memory::peak();
        let (gradients, _) = clip_global_norm(gradients, 1.0)?;
        optimizer.step(&mut parameters, &gradients, 1e-5);
        model.set(&parameters);
        step_seconds = start.elapsed().as_secs_f64();
    }
    let beside = peak.zip(held).map(|(peak, held)| peak.saturating_sub(held) >> 20);
    let line = serde_json::json!({
        "double": config.depth, "single": config.depth_single_blocks, "hidden": config.hidden_size,
        "rank": arguments.rank, "tokens": batch.conditioning.ids.len(), "checkpointing": !arguments.no_checkpointing,
        "lora_parameters": parameters.count(), "gradient_seconds": gradient_seconds,
        "step_seconds": step_seconds, "peak_mib_beside_weights_lora_and_moments": beside,
    });
    println!("{line}");
    Ok(())
}
