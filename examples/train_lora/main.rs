//! cargo run --release --example train_lora -- --config examples/train_lora/example.toml
//!
//! Trains UNO's LoRA as a configuration says (docs/training.md). Ctrl-C, SIGTERM and SIGHUP save and end; `--resume latest`
//! goes on from there, bit for bit.

mod progress;
#[path = "../common/stop.rs"]
mod stop;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use uno_models::train::prepare::check_data;
use uno_models::train::{Start, TrainConfig, open_model, pictures, train};

use progress::Bars;
use stop::Stop;

/// Trains UNO's LoRA as a configuration says; docs/training.md lists its keys.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, TOML or JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Goes on after this checkpoint; `latest` takes the last one in the output folder, or begins if there is none
    #[arg(long, value_name = "CHECKPOINT")]
    resume: Option<String>,
    /// Folder for checkpoints, metrics and pictures, in place of the configuration's
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Checks configuration and data, and ends
    #[arg(long)]
    check: bool,
    /// Writes one JSON object per step and checkpoint to standard output
    #[arg(long)]
    json: bool,
    /// Threads on the CPU; all of them by default
    #[arg(long, value_name = "COUNT")]
    threads: Option<std::num::NonZeroUsize>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if stop::is_stop(&error) => {
            stop::say("stopped before the first step; the same command begins again, with what was encoded");
            ExitCode::FAILURE
        }
        Err(error) => {
            stop::say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    let mut config = TrainConfig::read(&arguments.config)?;
    if let Some(output) = &arguments.output {
        config.output.clone_from(output);
    }
    let bars = Bars::new(arguments.json, Stop::watch()?);
    if arguments.check {
        pictures::requests(&config.pictures)?;
        for (stage, data) in config.stages.iter().zip(check_data(&config, &bars)?) {
            bars.say(&format!("stage {}: {} samples", stage.name, data.samples.len()));
        }
        return Ok(());
    }
    let start = match arguments.resume.as_deref() {
        None => Start::Fresh,
        Some("latest") => Start::Latest,
        Some(path) => Start::Checkpoint(path.into()),
    };
    let source = open_model(&config, &bars)?;
    if source.model_type == uno_models::checkpoint::EMBEDDED {
        bars.say("No model was named, so the small one inside the program is trained; see `[model]` in docs/training.md.");
    }
    let finished = train(&config, &source, &start, &bars)?;
    let folder = finished.checkpoint.display();
    if finished.is_complete {
        bars.say(&format!("done: {folder}"));
    } else {
        bars.say(&format!("stopped: {folder}; go on with --resume latest"));
    }
    Ok(())
}
