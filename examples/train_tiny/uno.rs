//! The part of UNO: pictures and lists on disk, then both stages, as anyone trains UNO's LoRA (docs/training.md).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;
use uno_core::image::Pixels;
use uno_models::Defaults;
use uno_models::tiny::autoencoder::SIDE;
use uno_models::tiny::data::{fingerprint, pair};
use uno_models::train::{Start, TrainConfig, TrainEvent, TrainObserver, open_model, train};
use uno_models::unope::UnoPe;

use crate::steps::PARTS;

#[derive(clap::Args)]
pub struct Arguments {
    /// Pictures of each number of references
    #[arg(long, default_value_t = PAIRS)]
    pairs: usize,
    /// Steps of the first and of the second stage
    #[arg(long, num_args = 2, default_values_t = [3000, 9000])]
    steps: Vec<u64>,
    /// Learning rate after the warm-up
    #[arg(long, default_value_t = RATE)]
    rate: f64,
    /// How references are placed: d, h, w or o
    #[arg(long, default_value = "d")]
    pe: UnoPe,
    /// Folder below --out for this run; several with other settings share the pictures
    #[arg(long, default_value = "uno")]
    name: String,
}

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let [first, second] = *self.steps.as_slice() else { anyhow::bail!("--steps takes two numbers") };
        let pictures = Pictures { seed, count: self.pairs };
        let stages = Stages { steps: [first, second], rate: self.rate, pe: self.pe, seed };
        let lora = stages.train(out, &self.name, &pictures.lists(out)?)?;
        std::fs::copy(lora, out.join("model/dit_lora.safetensors"))?;
        Ok(())
    }
}

/// Pictures of each number of references, unless it is said otherwise.
pub const PAIRS: usize = 3000;
/// Learning rate of the LoRA, unless it is said otherwise.
pub const RATE: f64 = 4e-3;

/// Which pictures are trained on.
pub struct Pictures {
    /// Which random numbers they are drawn with.
    pub seed: u64,
    /// How many of each number of references.
    pub count: usize,
}

impl Pictures {
    /// Lists of samples for both stages, below `out`: with one reference, then with one, two and three, so that one is not
    /// forgotten. Drawn unless they are there.
    pub fn lists(&self, out: &Path) -> Result<[Vec<PathBuf>; 2]> {
        let folder = format!("pairs-{}-{}-{}", self.count, self.seed, fingerprint());
        let pairs = std::path::absolute(out)?.join(folder);
        for count in 1..=3 {
            write_pairs(&pairs, self, count)?;
        }
        let list = |count: usize| pairs.join(format!("{count}.json"));
        Ok([vec![list(1)], vec![list(1), list(2), list(3)]])
    }
}

/// How UNO is trained.
pub struct Stages {
    /// Steps with one reference, then with two and three; a stage of no steps is left out.
    pub steps: [u64; 2],
    /// Learning rate after the warm-up.
    pub rate: f64,
    /// How references are placed.
    pub pe: UnoPe,
    /// Random numbers of the training itself.
    pub seed: u64,
}

impl Stages {
    /// Trains in the folder `name` below `out` on lists with one reference and with several, or goes on there; returns the file
    /// of the average LoRA.
    pub fn train(&self, out: &Path, name: &str, lists: &[Vec<PathBuf>; 2]) -> Result<PathBuf> {
        let folder = std::path::absolute(out)?;
        // As generation will take them.
        let ref_size = Defaults::UNO_TINY.ref_sizes;
        let stage = |name: &str, lists: &[PathBuf], steps: u64| {
            let data: Vec<_> = lists.iter().map(|path| serde_json::json!({ "path": path })).collect();
            serde_json::json!({
                "name": name, "data": data, "steps": steps, "learning_rate": self.rate, "warmup_steps": 50, "decay": "cosine",
                "batch_size": 16 / PARTS, "accumulation": 1, "resolution": SIDE, "ref_size": ref_size, "pe": self.pe.to_string(),
            })
        };
        let [first, second] = self.steps;
        let stages = [
            (first > 0).then(|| stage("single", &lists[0], first)),
            (second > 0).then(|| stage("multi", &lists[1], second)),
        ];
        let config = serde_json::json!({
            "output": folder.join(name), "seed": self.seed, "devices": vec!["cpu"; PARTS], "dtype": "f32", "expand_weights": true,
            "model": { "dir": folder.join("model"), "model_type": "flux-dev" },
            "lora": { "rank": 32 }, "ema_decay": 0.995, "gradient_checkpointing": false,
            "cache": { "folder": folder.join("cache") }, "checkpoint_every": 200, "keep_checkpoints": 2,
            "stages": stages.into_iter().flatten().collect::<Vec<_>>(),
        });
        std::fs::create_dir_all(folder.join(name))?;
        let path = folder.join(name).join("config.json");
        std::fs::write(&path, format!("{config:#}\n"))?;
        let config = TrainConfig::read(&path)?;
        let finished = train(&config, &open_model(&config, &())?, &Start::Latest, &Lines)?;
        let file = "dit_lora_ema.safetensors";
        let lora = Some(finished.checkpoint.join(file)).filter(|path| path.exists());
        lora.with_context(|| format!("{} holds no {file}", finished.checkpoint.display()))
    }
}

/// Writes targets, references and their list, unless they are there.
fn write_pairs(folder: &Path, pictures: &Pictures, count: usize) -> Result<()> {
    let list = folder.join(format!("{count}.json"));
    if list.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder.join(count.to_string()))?;
    let write = |i: usize| -> Result<serde_json::Value> {
        let pair = pair(pictures.seed, i, count, false);
        let target = format!("{count}/{i:05}.png");
        save(&folder.join(&target), &pair.composition.render(SIDE))?;
        let references = pair.references.iter().enumerate().map(|(k, view)| {
            let file = format!("{count}/{i:05}_{k}.png");
            save(&folder.join(&file), &view.render(SIDE))?;
            Ok(file)
        });
        let references = references.collect::<Result<Vec<_>>>()?;
        Ok(serde_json::json!({ "prompt": pair.prompt, "image_paths": references, "image_tgt_path": target }))
    };
    let entries: Vec<serde_json::Value> =
        (0..pictures.count).into_par_iter().map(write).collect::<Result<_>>()?;
    Ok(std::fs::write(list, serde_json::to_string_pretty(&entries)?)?)
}

fn save(path: &Path, picture: &Pixels) -> Result<()> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    Ok(image::save_buffer(path, &picture.rgb, width, height, image::ColorType::Rgb8)?)
}

/// Prints a line now and then.
struct Lines;

impl TrainObserver for Lines {
    fn on_event(&self, event: &TrainEvent<'_>) -> ControlFlow<()> {
        match event {
            TrainEvent::Begins { what } => println!("{what}"),
            TrainEvent::Step(report) if report.step % 20 == 0 => {
                println!(
                    "{} loss {:.4} norm {:.3} {:.2} s/step",
                    report.step, report.loss, report.gradient_norm, report.seconds
                );
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
