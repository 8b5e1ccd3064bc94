//! cargo run --release --example train_tiny -- all
//!
//! Trains uno-tiny from scratch, part by part; each part goes on where it was stopped.

mod ablate;
mod autoencoder;
mod base;
mod diptychs;
mod evaluate;
mod guidance;
mod references;
mod sheet;
mod steps;
mod synthesis;
mod uno;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use uno_models::tiny::data::scene;

/// Trains uno-tiny from scratch.
#[derive(Parser)]
struct Arguments {
    /// Folder for states and results
    #[arg(long, default_value = "target/tiny", global = true)]
    out: PathBuf,
    /// Folder with the tokenizers: t5/spiece.model, clip/vocab.json, clip/merges.txt
    #[arg(long, default_value = "uno-models/assets/uno-tiny", global = true)]
    tokenizers: PathBuf,
    /// Which random numbers
    #[arg(long, default_value_t = 3407, global = true)]
    seed: u64,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Does everything, one part after the other; what is done is not done again
    All,
    /// Trains the autoencoder
    Autoencoder(autoencoder::Arguments),
    /// Trains the decoder further, for latents that are not quite right
    Decoder(autoencoder::DecoderArguments),
    /// Trains the transformer and the text encoders
    Base(base::Arguments),
    /// Teaches the base diptychs: two pictures of one subject in one
    Diptychs(diptychs::Arguments),
    /// Distils guidance into the transformer
    Guidance(guidance::Arguments),
    /// Trains UNO's LoRA in two stages
    Uno(uno::Arguments),
    /// Makes data with the model itself, and trains UNO on nothing but that
    Synthesis(synthesis::Arguments),
    /// Judges the model on looks that were held out
    Evaluate(evaluate::Arguments),
    /// Trains and judges UNO with parts left out, several seeds each, and writes a table (hours)
    Ablate(ablate::Arguments),
    /// Writes reference pictures to try the model with
    References(references::Arguments),
    /// Prints captions of the world, for the tokenizers
    Captions {
        /// How many
        #[arg(long, default_value_t = 6000)]
        count: usize,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(arguments.out.join("model"))?;
    arguments.run()
}

impl Arguments {
    fn run(&self) -> Result<()> {
        match &self.part {
            Part::All => {
                ["autoencoder", "decoder", "base", "diptychs", "guidance", "uno", "evaluate"]
                    .into_iter()
                    .try_for_each(|part| {
                        println!("{part}");
                        // With the defaults that the part itself would have.
                        let part = Self::try_parse_from(["train_tiny", part])?.part;
                        Self { out: self.out.clone(), tokenizers: self.tokenizers.clone(), part, ..*self }
                            .run()
                    })
            }
            Part::Autoencoder(part) => part.run(&self.out, self.seed),
            Part::Decoder(part) => part.run(&self.out, self.seed),
            Part::Base(part) => part.run(&self.out, &self.tokenizers, self.seed),
            Part::Diptychs(part) => part.run(&self.out, &self.tokenizers, self.seed),
            Part::Guidance(part) => part.run(&self.out, &self.tokenizers, self.seed),
            Part::Uno(part) => part.run(&self.out, self.seed),
            Part::Synthesis(part) => part.run(&self.out, self.seed),
            Part::Evaluate(part) => part.run(&self.out, self.seed),
            Part::Ablate(part) => part.run(&self.out, self.seed),
            Part::References(part) => part.run(self.seed),
            Part::Captions { count } => {
                (0..*count).for_each(|i| println!("{}", scene(self.seed, i).1));
                Ok(())
            }
        }
    }
}
