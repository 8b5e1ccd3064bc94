//! cargo run --release --example synthesize -- --config synthesis.toml
//!
//! Makes training data from the base model, as a configuration says (docs/synthesis.md). May be stopped at any time; the same
//! command goes on. Ctrl-C, SIGTERM and SIGHUP end after the items at hand.

#[path = "../common/stop.rs"]
mod stop;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::HumanDuration;
use uno_models::eval::Shard;
use uno_models::synthesis::{Results, Stage, Synthesis, SynthesisConfig, SynthesisEvent};

use stop::{Stop, say};

/// Makes training data from the base model, as a configuration says; docs/synthesis.md lists its keys.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, TOML or JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stages to do: diptych, split, similarity, judgement, detection, regeneration, second_similarity, second_judgement; by
    /// default all that the configuration asks for
    #[arg(long, num_args = 1.., value_name = "STAGE")]
    stages: Vec<Stage>,
    /// The share i/n of the items, i from 0
    #[arg(long, default_value = "0/1", value_name = "i/n")]
    shard: Shard,
    /// Diptychs to make, in place of the configuration's number
    #[arg(long)]
    count: Option<usize>,
    /// Writes the result as JSON to standard output
    #[arg(long)]
    json: bool,
    /// Threads on the CPU; all of them by default
    #[arg(long, value_name = "COUNT")]
    threads: Option<std::num::NonZeroUsize>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if stop::is_stop(&error) => {
            say("stopped; what is finished stays, and the same command goes on");
            ExitCode::FAILURE
        }
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing is left that failed.
fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    let mut config = SynthesisConfig::read(&arguments.config)?;
    config.count = arguments.count.unwrap_or(config.count);
    let synthesis = Synthesis::open(config)?;
    let stop = Stop::watch().context("signals cannot be watched for")?;
    let watch = |event: SynthesisEvent<'_>| {
        tell(event);
        if stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stages = if arguments.stages.is_empty() { Stage::ALL.to_vec() } else { arguments.stages.clone() };
    let failed = synthesis.run(&stages, arguments.shard, &watch)?;
    let results = synthesis.write_results()?;
    if arguments.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        print(&results);
    }
    for (item, reason) in &failed {
        say(format_args!("{item} still waits: {reason}"));
    }
    if !failed.is_empty() {
        say(format_args!("error: {} items could not be worked on; run the same command again", failed.len()));
    }
    Ok(failed.is_empty())
}

fn tell(event: SynthesisEvent<'_>) {
    match event {
        SynthesisEvent::Begins { stage, items } => say(format_args!("{}: {items} items", stage.name())),
        SynthesisEvent::Advances { stage, done, total, seconds_left, .. } => {
            let left = HumanDuration(Duration::from_secs_f64(seconds_left));
            say(format_args!("{} {done}/{total}, {left} left", stage.name()));
        }
        SynthesisEvent::Failed { item, reason } => say(format_args!("{item}: {reason}")),
        _ => {}
    }
}

fn print(results: &Results) {
    for count in &results.funnel.stages {
        let rejected: usize = count.rejected.values().sum();
        println!(
            "{:18} kept {:6}  rejected {rejected:6}  waiting {:6}",
            count.stage.name(),
            count.kept,
            count.waiting
        );
        for (reason, count) in &count.rejected {
            println!("{:18} {count:6} {reason}", "");
        }
    }
    println!("{}", results.one_reference.display());
    for path in results.two_references.iter().chain(&results.uno_1m) {
        println!("{}", path.display());
    }
    println!("{}", results.report.display());
}
