//! The autoencoder's part.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;
use uno_core::vae::AutoEncoder;
use uno_core::weights::{LoadOptions, Storage, StorageDtype};
use uno_models::tiny::autoencoder::{loss, pictures};
use uno_models::tiny::fresh;
use uno_models::tiny::names::Names;
use uno_models::tiny::trainer::{Settings, Trainer};
use uno_models::train::learning_rate::{Decay, LearningRate};
use uno_models::train::optimizer::AdamWConfig;

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// Pieces of 64x64 pixels per step
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Pictures that pieces are cut from
    #[arg(long, default_value_t = 4000)]
    pictures: usize,
}

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let device = Device::flex().autodiff();
        let first = fresh::autoencoder(&crate::sizes(), seed);
        let options = LoadOptions::new(&device).with_storage(Storage::Expanded);
        let names = Names::find(&first, |c| Ok(AutoEncoder::load(c, &options)?))?;
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.0, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
        };
        let mut trainer = Trainer::new(AutoEncoder::load(&first, &options)?, settings);
        println!("{} parameters", trainer.parameters().count());
        let state = out.join("autoencoder.state.safetensors");
        if state.exists() {
            trainer.restore(&state, &Device::flex())?;
            println!("goes on after step {}", trainer.steps());
        }
        let data = pictures(self.pictures, seed);
        let rate = LearningRate { peak: 2e-3, warmup: 50, decay: Decay::Cosine, steps: self.steps };
        let (start, mut sum) = (Instant::now(), 0.0);
        let begun = trainer.steps();
        while trainer.steps() < self.steps {
            let step = trainer.steps();
            let done =
                trainer.step(rate.at(step), |model| loss(model, &data, self.batch, seed, step, &device))?;
            sum += done.loss;
            if (step + 1) % 20 == 0 {
                let seconds = start.elapsed().as_secs_f64() / (step + 1 - begun) as f64;
                println!("{} loss {:.4} norm {:.3} {seconds:.2} s/step", step + 1, sum / 20.0, done.norm);
                sum = 0.0;
            }
            if (step + 1) % 100 == 0 || step + 1 == self.steps {
                trainer.save(&state)?;
                names.write(&out.join("ae.safetensors"), trainer.average(), StorageDtype::F32)?;
            }
        }
        Ok(())
    }
}
