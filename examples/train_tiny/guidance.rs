//! The part that distils guidance into the transformer.

use std::path::Path;

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

use crate::base::{self, CLIP, CLIP_CONFIG, Encoders, FLUX, T5, samples, tokenizers};
use crate::diptychs::{self, Sets};
use crate::steps::{PARTS, State, train};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long, default_value_t = 800)]
    steps: u64,
    /// Pictures per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Pictures to train on; those of the base
    #[arg(long, default_value_t = base::PICTURES)]
    pictures: usize,
    /// Diptychs of each layout; those of the part before
    #[arg(long, default_value_t = diptychs::DIPTYCHS)]
    diptychs: usize,
}

impl Arguments {
    pub fn run(&self, out: &Path, folder: &Path, seed: u64) -> Result<()> {
        let device = Device::flex();
        let (tokenizers, sizes) = tokenizers(folder)?;
        let checkpoint = Checkpoint::open(out.join("model/ae.safetensors"))?;
        let codec = AutoEncoder::load(&checkpoint, &LoadOptions::new(&device))?;
        let encoders =
            Encoders { codec: &codec, checkpoint: &checkpoint, tokenizers: &tokenizers, sizes: &sizes };
        let sets = Sets::new(self.pictures, self.diptychs, out, &encoders, seed)?;
        let from = out.join(diptychs::FOLDER);
        let teacher = base::open(&from)?;

        let first = Checkpoint::open(from.join(FLUX))?;
        let options = LoadOptions::new(&device.clone().autodiff()).with_storage(Storage::Expanded);
        let names = Names::find(&first, |c| Ok(Flux::load(c, &options)?))?;
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.01, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
            rates: &[],
            parts: PARTS,
        };
        let mut trainer = Trainer::new(Flux::load(&first, &options)?, settings)?;
        let rate = LearningRate { peak: 4e-4, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let state = State::from(out, "guidance", &first, 500);
        let loss = |model: &Flux, batch, number| {
            loss(model, &teacher, sets.at(number), batch, seed, number, &device)
        };
        train(&mut trainer, &rate, &state, self.batch, loss, |trainer| {
            let to = out.join("model");
            for file in [T5, CLIP, CLIP_CONFIG] {
                std::fs::copy(from.join(file), to.join(file))?;
            }
            let file = to.join(FLUX);
            names.write(&file, trainer.average(), StorageDtype::BF16)?;
            let flux = Flux::load(&Checkpoint::open(&file)?, &LoadOptions::new(&device))?;
            for guidance in [1.0, 2.0, 3.0, 4.0] {
                let sheet = out.join(format!("guidance-{guidance}-{:06}.png", trainer.steps()));
                samples(&sheet, &teacher, &flux, guidance, &codec, &tokenizers)?;
            }
            Ok(())
        })
    }
}
