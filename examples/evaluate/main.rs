//! cargo run --release --example evaluate -- --prompts list.json --pictures output/inference --dino models/dino --clip models/clip
//!
//! Scores the pictures of a prompt list as DreamBench does: DINO, CLIP-I, CLIP-T, and a score per subject on cut-outs. Pictures
//! that are missing are made if a model is named. Writes result.json and report.html; may be stopped and run again, and shared
//! between machines (docs/evaluation.md).

mod missing;
#[path = "../common/stop.rs"]
mod stop;

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::HumanDuration;
use uno_core::device;
use uno_models::eval::{
    Evaluation, EvaluationEvent, Mean, Report, Scorer, ScorerFiles, Shard, Views, read_prompts,
};

use missing::Missing;
use stop::Stop;

/// Scores the pictures of a prompt list: DINO, CLIP-I, CLIP-T, and each subject.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Prompt list (JSON, as DreamBench's), the one that the pictures were made from
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Folder with {prompt}_{picture}.png, as `generate --eval_json_path` writes them
    #[arg(long, value_name = "DIR")]
    pictures: PathBuf,
    /// Folder for scores, result.json and report.html [default: evaluation, in the folder of pictures]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Pictures per prompt
    #[arg(long, default_value = "4")]
    num_images_per_prompt: NonZeroUsize,
    /// DINO's weights or folder (ViT-S/16; timm's or transformers' layout)
    #[arg(long, value_name = "PATH")]
    dino: PathBuf,
    /// CLIP's weights or folder (ViT-B/32; transformers' or OpenAI's layout), with its vocabulary
    #[arg(long, value_name = "PATH")]
    clip: PathBuf,
    /// CLIP's vocabulary, where it is not beside the weights
    #[arg(long, value_name = "PATH")]
    clip_tokenizer: Option<PathBuf>,
    /// What a picture is compared with: the given references, or all pictures in their folders
    #[arg(long, default_value = "given", value_name = "given|folder")]
    views: Views,
    /// The share i/n of the work, i from 0; the share that ends last writes the result
    #[arg(long, default_value = "0/1", value_name = "i/n")]
    shard: Shard,
    /// cpu, cuda, cuda:1, vulkan, wgpu, metal, rocm or auto, as far as they are built in
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads on the CPU; all of them by default
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    missing: Missing,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if stop::is_stop(&error) => {
            stop::say("stopped; scores and pictures that are finished stay, and the same command goes on");
            ExitCode::FAILURE
        }
        Err(error) => {
            stop::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let stop = Stop::watch().context("signals cannot be watched for")?;
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    let opened = device::open_named(&arguments.device)?;
    let entries = read_prompts(&arguments.prompts, &mut |remark| eprintln!("{remark}"))?;
    // A reference that is missing shows now and not after days.
    for path in entries.iter().flat_map(|entry| &entry.image_paths) {
        std::fs::metadata(path).with_context(|| format!("reference picture {}", path.display()))?;
    }
    let evaluation = Evaluation {
        entries,
        pictures: arguments.pictures.clone(),
        per_prompt: arguments.num_images_per_prompt.get(),
        shard: arguments.shard,
        out: arguments.out.clone().unwrap_or_else(|| arguments.pictures.join("evaluation")),
    };
    let results = ["result.json", "report.html"].map(|name| evaluation.out.join(name));
    results.iter().try_for_each(|path| Report::check_replaceable(path))?;
    let files = ScorerFiles {
        dino: arguments.dino.clone(),
        clip: arguments.clip.clone(),
        clip_tokenizer: arguments.clip_tokenizer.clone(),
    };
    let scorer = Scorer::open(&files, arguments.views, &opened.device)?;
    let generator = arguments.missing.open(&opened)?;
    let make = generator.as_ref().map(|generator| {
        |i: usize, j: usize, path: &std::path::Path| {
            generator.make(&evaluation.entries[i], evaluation.per_prompt, j, path)
        }
    });
    let generate = make.as_ref().map(|make| make as uno_models::eval::Generate<'_>);
    let scored = evaluation.run(&scorer, generate, &|event| progress(event, &stop))?;
    let total = evaluation.total();
    if scored < total {
        println!("{scored} of {total} pictures are scored; the result is written when all shares are done");
        return Ok(());
    }
    let report = evaluation.report()?;
    ensure!(
        report.protocol == *scorer.protocol(),
        "scores of an earlier protocol are left; run all shares again"
    );
    let [json, page] = &results;
    report.write(json)?;
    report.write_html(page)?;
    say(&report, &evaluation)
}

fn progress(event: EvaluationEvent, stop: &Stop) -> ControlFlow<()> {
    if let EvaluationEvent::Scored { done, total, seconds_left } = event {
        let left = seconds_left
            .map(|left| format!(", {} left", HumanDuration(std::time::Duration::from_secs_f64(left))));
        stop::say(format_args!("{done} of {total} pictures{}", left.unwrap_or_default()));
    }
    if stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn say(report: &Report, evaluation: &Evaluation) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let means = &report.all;
    for (name, mean) in
        [("DINO", means.dino), ("CLIP-I", means.clip_i), ("CLIP-T", means.clip_t), ("subject", means.subject)]
    {
        match mean {
            Some(Mean { mean, low, high, count }) => {
                writeln!(out, "{name:8} {mean:.4}  [{low:.4}, {high:.4}]  {count} pictures")?;
            }
            None => writeln!(out, "{name:8} no references")?,
        }
    }
    writeln!(out, "{}", evaluation.out.join("report.html").display())?;
    for note in &report.notes {
        stop::say(format_args!("note: {note}"));
    }
    Ok(())
}
