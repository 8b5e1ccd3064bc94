//! cargo bench --bench text -- --encoder t5 --checkpoint t5.safetensors --tokens 512
//!
//! A prompt through one of the text encoders, without tokenizing. The counterparts are `peers/text.py`.

mod common;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use common::{Place, Timing};
use uno_core::tensor_to_vec;
use uno_core::text::{ClipTextEncoder, T5Encoder};
use uno_core::weights::Checkpoint;

#[derive(Clone, Copy, ValueEnum)]
enum Encoder {
    T5,
    Clip,
}

/// Times a text encoder.
#[derive(Parser)]
pub struct Arguments {
    /// Which
    #[arg(long)]
    encoder: Encoder,
    /// Its weights
    #[arg(long)]
    checkpoint: PathBuf,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    tokens: usize,
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
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    // Spread over the vocabulary; the highest id, which ends a prompt of CLIP, comes last.
    let ids = |vocabulary: usize| -> Vec<u32> {
        let last = arguments.tokens.saturating_sub(1);
        let id = |i: usize| if i == last { vocabulary - 1 } else { i * 7919 % (vocabulary - 1) };
        (0..arguments.tokens).map(|i| id(i) as u32).collect()
    };
    match arguments.encoder {
        Encoder::T5 => {
            let encoder = T5Encoder::load(&checkpoint, &options)?;
            let ids = ids(encoder.config().vocab_size);
            arguments.timing.run("t5", || Ok(tensor_to_vec(encoder.forward(&ids)?)?))
        }
        Encoder::Clip => {
            let encoder = ClipTextEncoder::load(&checkpoint, None, &options)?;
            let ids = ids(encoder.config().vocab_size);
            arguments.timing.run("clip", || Ok(tensor_to_vec(encoder.forward(&ids)?)?))
        }
    }
}
