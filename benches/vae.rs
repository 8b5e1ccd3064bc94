//! cargo bench --bench vae -- --work decode --checkpoint ae.safetensors --size 512x512
//!
//! A picture through one half of the autoencoder. The counterparts are `peers/vae.py`.

mod common;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use common::{Grid, Place, Timing, tensor};
use uno_core::tensor_to_vec;
use uno_core::traits::LatentCodec;
use uno_core::vae::AutoEncoder;
use uno_core::weights::Checkpoint;

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    Decode,
    Encode,
}

/// Times the autoencoder.
#[derive(Parser)]
pub struct Arguments {
    /// Which half
    #[arg(long)]
    work: Work,
    /// Its weights
    #[arg(long)]
    checkpoint: PathBuf,
    /// Rows and columns of the picture in pixels
    #[arg(long, default_value = "512x512")]
    size: Grid,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    timing: Timing,
}

#[allow(dead_code)] // `gpu.rs` calls `run`
fn main() -> Result<()> {
    run(&Arguments::parse())
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let options = arguments.place.options()?;
    let device = &options.device;
    let autoencoder = AutoEncoder::load(&Checkpoint::open(&arguments.checkpoint)?, &options)?;
    let Grid { rows, columns } = arguments.size;
    match arguments.work {
        Work::Decode => {
            let f = autoencoder.downsampling();
            let latent = tensor(1, [1, autoencoder.channels(), rows / f, columns / f], device);
            arguments.timing.run("vae decode", || Ok(tensor_to_vec(autoencoder.decode(latent.clone())?)?))
        }
        Work::Encode => {
            let picture = tensor(1, [1, 3, rows, columns], device);
            arguments
                .timing
                .run("vae encode", || Ok(tensor_to_vec(autoencoder.encode(picture.clone(), None)?)?))
        }
    }
}
