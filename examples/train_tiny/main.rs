//! cargo run --release --example train_tiny -- autoencoder --out target/tiny
//!
//! Trains uno-tiny from scratch, part by part; each part goes on where it was stopped.

mod autoencoder;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use uno_models::tiny::fresh::Sizes;

/// Trains uno-tiny from scratch.
#[derive(Parser)]
struct Arguments {
    /// Folder for states and results
    #[arg(long, default_value = "target/tiny", global = true)]
    out: PathBuf,
    /// Which random numbers
    #[arg(long, default_value_t = 3407, global = true)]
    seed: u64,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Trains the autoencoder
    Autoencoder(autoencoder::Arguments),
}

fn sizes() -> Sizes {
    Sizes {
        ae_channels: vec![32, 32, 64, 64],
        hidden: 192,
        head: 32,
        depth: [1, 4],
        t5: [64, 128, 2],
        clip: [64, 128, 2],
        vocabulary: [0, 0],
        clip_tokens: 32,
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.out)?;
    match &arguments.part {
        Part::Autoencoder(part) => part.run(&arguments.out, arguments.seed),
    }
}
