//! cargo bench --bench dit_step -- --checkpoint dit.safetensors --lora lora.safetensors --latent 32x32 --reference 32x32
//!
//! Denoising steps of the transformer with UNO's LoRA, beside the weights or merged. The counterparts are
//! `peers/dit_step.py`; `compare.py` runs both sides.

mod common;

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::FloatDType;
use clap::Parser;
use common::{Grid, Timing, tensor};
use uno_core::flux::Flux;
use uno_core::latents::grid_ids;
use uno_core::sampling::{Sampler, denoise, schedule};
use uno_core::traits::{Conditioning, Silent};
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_core::{device, lora, tensor_to_vec};

/// Times denoising steps.
#[derive(Parser)]
struct Arguments {
    /// The transformer
    #[arg(long)]
    checkpoint: PathBuf,
    /// UNO's LoRA
    #[arg(long)]
    lora: Option<PathBuf>,
    /// Merge the LoRA into the weights
    #[arg(long)]
    merge: bool,
    /// Text tokens
    #[arg(long, default_value_t = 512)]
    text: usize,
    /// Rows and columns of the noisy latent's tokens
    #[arg(long, default_value = "32x32")]
    latent: Grid,
    /// Rows and columns of a reference's tokens; may be given several times
    #[arg(long)]
    reference: Vec<Grid>,
    /// Denoising steps per run
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Products in 8-bit integers, for a transformer stored as Q8_0
    #[arg(long)]
    int8: bool,
    /// Compute the references' tokens at every so many steps
    #[arg(long)]
    reference_cache: Option<usize>,
    #[command(flatten)]
    timing: Timing,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = device::open("cpu")?;
    let options = LoadOptions::new(&device);
    let int8 = options.clone().with_int8(arguments.int8);
    let mut model = Flux::load(&Checkpoint::open(&arguments.checkpoint)?, &int8)?;
    if let Some(path) = &arguments.lora {
        lora::attach(&mut model, &Checkpoint::open(path)?, 1.0, &options)?;
    }
    if arguments.merge {
        lora::merge(&mut model, FloatDType::F32)?;
    }

    let config = model.config().clone();
    let mut ids = vec![[0.0; 3]; arguments.text];
    let mut corner = (0, 0);
    for grid in std::iter::once(&arguments.latent).chain(&arguments.reference) {
        ids.extend(grid_ids(grid.rows, grid.columns, corner));
        corner = (corner.0 + grid.rows, corner.1 + grid.columns);
    }
    let references = arguments.reference.iter().zip(10..);
    let conditioning = Conditioning {
        txt: tensor(1, [1, arguments.text, config.context_in_dim], &device),
        vec: tensor(2, [1, config.vec_in_dim], &device),
        references: references
            .map(|(g, seed)| tensor(seed, [1, g.count(), config.in_channels], &device))
            .collect(),
        ids,
    };
    let latent = tensor(3, [1, arguments.latent.count(), config.in_channels], &device);
    let times = schedule(arguments.steps, 1, false)?;
    let mut sampler = Sampler::new(&times, 4.0);
    sampler.approximation.reference_cache = arguments.reference_cache;
    arguments.timing.run("dit step", || {
        let latent = denoise(&model, latent.clone(), &conditioning, sampler, &Silent)?;
        Ok(tensor_to_vec(latent)?)
    })
}
