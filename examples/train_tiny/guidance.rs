//! The part that distils guidance into the transformer.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;
use uno_core::flux::Flux;
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage, StorageDtype};
use uno_models::tiny::guidance::loss;
use uno_models::tiny::names::Names;
use uno_models::tiny::trainer::{Settings, Trainer};
use uno_models::train::learning_rate::{Decay, LearningRate};
use uno_models::train::optimizer::AdamWConfig;

use crate::base::{self, BASE, samples, scenes, tokenizers};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long, default_value_t = 1200)]
    steps: u64,
    /// Pictures per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Pictures to train on; those of the base
    #[arg(long, default_value_t = base::PICTURES)]
    pictures: usize,
}

impl Arguments {
    pub fn run(&self, out: &Path, folder: &Path, seed: u64) -> Result<()> {
        let device = Device::flex();
        let (tokenizers, sizes) = tokenizers(folder)?;
        let checkpoint = Checkpoint::open(out.join("model/ae.safetensors"))?;
        let codec = AutoEncoder::load(&checkpoint, &LoadOptions::new(&device))?;
        let scenes = scenes(self.pictures, out, &codec, &checkpoint, &tokenizers, &sizes, seed)?;
        let teacher = base::open(out)?;

        let first = Checkpoint::open(out.join(BASE))?;
        let options = LoadOptions::new(&device.clone().autodiff()).with_storage(Storage::Expanded);
        let names = Names::find(&first, |c| Ok(Flux::load(c, &options)?))?;
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.01, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
        };
        let mut trainer = Trainer::new(Flux::load(&first, &options)?, settings);
        let state = out.join("guidance.state.safetensors");
        if state.exists() {
            trainer.restore(&state, &device)?;
            println!("goes on after step {}", trainer.steps());
        }
        let rate = LearningRate { peak: 4e-4, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let (start, begun, mut sum) = (Instant::now(), trainer.steps(), 0.0);
        while trainer.steps() < self.steps {
            let step = trainer.steps();
            let done = trainer.step(rate.at(step), |model| {
                loss(model, &teacher, &scenes, self.batch, seed, step, &device)
            })?;
            sum += done.loss;
            if (step + 1) % 20 == 0 {
                let seconds = start.elapsed().as_secs_f64() / (step + 1 - begun) as f64;
                println!("{} loss {:.4} norm {:.3} {seconds:.2} s/step", step + 1, sum / 20.0, done.norm);
                sum = 0.0;
            }
            if (step + 1) % 500 == 0 || step + 1 == self.steps {
                trainer.save(&state)?;
                let file = out.join("model/flux1-dev.safetensors");
                names.write(&file, trainer.average(), StorageDtype::BF16)?;
                let flux = Flux::load(&Checkpoint::open(&file)?, &LoadOptions::new(&device))?;
                for guidance in [1.0, 2.0, 3.0, 4.0] {
                    let sheet = out.join(format!("guidance-{guidance}-{:06}.png", step + 1));
                    samples(&sheet, &teacher, &flux, guidance, &codec, &tokenizers)?;
                }
            }
        }
        Ok(())
    }
}
