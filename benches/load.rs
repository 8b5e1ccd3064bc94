//! cargo bench --bench load -- --checkpoint dit.safetensors --lora lora.safetensors
//!
//! From a path to a transformer that is ready to compute. The counterparts are `peers/load.py`. Weights stay in the mapped file
//! and are read at their first use, which `dit_step --once` includes; `--expanded` reads them all at once.

mod common;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use common::Timing;
use uno_core::flux::Flux;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_core::{device, lora};

/// Times loading.
#[derive(Parser)]
struct Arguments {
    /// The transformer
    #[arg(long)]
    checkpoint: PathBuf,
    /// UNO's LoRA
    #[arg(long)]
    lora: Option<PathBuf>,
    /// Expand all matrices to f32, rather than keep them as stored
    #[arg(long)]
    expanded: bool,
    #[command(flatten)]
    timing: Timing,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let storage = if arguments.expanded { Storage::Expanded } else { Storage::AsStored };
    let options = LoadOptions::new(&device::open("cpu")?).with_storage(storage);
    arguments.timing.run("load", || {
        let mut model = Flux::load(&Checkpoint::open(&arguments.checkpoint)?, &options)?;
        if let Some(path) = &arguments.lora {
            lora::attach(&mut model, &Checkpoint::open(path)?, 1.0, &options)?;
        }
        Ok(vec![model.config().hidden_size as f32])
    })
}
