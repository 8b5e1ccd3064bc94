//! cargo bench --features cuda --bench gpu -- dit-step --device cuda --dtype bf16 --checkpoint dit.safetensors ...
//!
//! The benchmarks of a generation's parts in one program, which is small enough to be sent to a machine with a GPU; `gpu.py`
//! runs it there against the same in PyTorch.

// Each of the three brings `common` along, since each is a program of its own too.
#![allow(clippy::duplicate_mod)]

#[path = "dit_step.rs"]
mod dit_step;
#[path = "text.rs"]
mod text;
#[path = "vae.rs"]
mod vae;

use anyhow::Result;
use clap::Parser;

/// Times a part of a generation.
#[derive(Parser)]
enum Work {
    DitStep(dit_step::Arguments),
    Text(text::Arguments),
    Vae(vae::Arguments),
}

fn main() -> Result<()> {
    match Work::parse() {
        Work::DitStep(arguments) => dit_step::run(&arguments),
        Work::Text(arguments) => text::run(&arguments),
        Work::Vae(arguments) => vae::run(&arguments),
    }
}
