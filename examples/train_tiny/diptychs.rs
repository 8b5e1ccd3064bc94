//! The part that teaches the base diptychs, and guidance on them, in a folder of its own: two panels with the same subject, which FLUX.1-dev knows from
//! its data, and which a synthesis of training data asks for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_models::tiny::base::{self as losses, Base, Scenes};
use uno_models::tiny::names::Names;
use uno_models::tiny::trainer::{Settings, Trainer};
use uno_models::train::learning_rate::{Decay, LearningRate};
use uno_models::train::optimizer::AdamWConfig;

use crate::base::{self, BASE, Encoders, samples, tokenizers};
use crate::guidance;
use crate::steps::{State, train};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long = "diptych-steps", default_value_t = 2000)]
    steps: u64,
    /// Pictures per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Single pictures to train on; those of the base
    #[arg(long, default_value_t = base::PICTURES)]
    pictures: usize,
    /// Diptychs of each layout
    #[arg(long, default_value_t = DIPTYCHS)]
    diptychs: usize,
    /// Steps of guidance, which is distilled after that
    #[arg(long, default_value_t = 800)]
    guidance_steps: u64,
}

/// Diptychs of each layout, unless it is said otherwise.
pub const DIPTYCHS: usize = 3000;

/// Where the model that knows diptychs is, below the folder of results.
pub fn folder(out: &Path) -> PathBuf {
    out.join("synthesis")
}

/// Single pictures, and diptychs of both layouts.
pub struct Sets {
    single: Scenes,
    diptychs: Option<[Scenes; 2]>,
}

impl Sets {
    pub fn new(
        pictures: usize,
        diptychs: usize,
        out: &Path,
        encoders: &Encoders<'_>,
        seed: u64,
    ) -> Result<Self> {
        let of = |is_stacked| base::diptychs(diptychs, is_stacked, out, encoders, seed);
        Ok(Self {
            single: base::scenes(pictures, out, encoders, seed)?,
            diptychs: if diptychs == 0 { None } else { Some([of(false)?, of(true)?]) },
        })
    }

    /// The set of a step: with diptychs, every other step has single pictures, and the layouts take turns.
    pub fn at(&self, step: u64) -> &Scenes {
        match &self.diptychs {
            Some(diptychs) if step % 2 == 1 => &diptychs[usize::from(step % 4 == 3)],
            _ => &self.single,
        }
    }
}

impl Arguments {
    pub fn run(&self, out: &Path, tokenizers_folder: &Path, seed: u64) -> Result<()> {
        let device = Device::flex().autodiff();
        let to = folder(out);
        copy_model(out, &to)?;
        let (tokenizers, sizes) = tokenizers(tokenizers_folder)?;
        let checkpoint = Checkpoint::open(out.join("model/ae.safetensors"))?;
        let codec = AutoEncoder::load(&checkpoint, &LoadOptions::new(&Device::flex()))?;
        let encoders =
            Encoders { codec: &codec, checkpoint: &checkpoint, tokenizers: &tokenizers, sizes: &sizes };
        let sets = Sets::new(self.pictures, self.diptychs, out, &encoders, seed)?;

        let config = std::fs::read_to_string(out.join("model/clip/config.json"))?;
        let options = LoadOptions::new(&device).with_storage(Storage::Expanded);
        let files = [BASE, "model/t5/model.safetensors", "model/clip/model.safetensors"];
        let [flux, t5, clip] = files.map(|file| Checkpoint::open(out.join(file)));
        let [flux, t5, clip] = [flux?, t5?, clip?];
        let load = |flux: &Checkpoint, t5: &Checkpoint, clip: &Checkpoint| {
            Base::load(flux, t5, clip, config.as_bytes(), &options)
        };
        let names = [
            ("flux.", files[0], Names::find(&flux, |c| Ok(load(c, &t5, &clip)?.flux))?),
            ("t5.", files[1], Names::find(&t5, |c| Ok(load(&flux, c, &clip)?.t5))?),
            ("clip.", files[2], Names::find(&clip, |c| Ok(load(&flux, &t5, c)?.clip))?),
        ];
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.01, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
            rates: base::RATES,
        };
        let mut trainer = Trainer::new(load(&flux, &t5, &clip)?, settings);
        let rate = LearningRate { peak: 2e-3, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let state = State::from(&to, "diptychs", &flux, 500);
        let loss =
            |model: &Base, step| losses::loss(model, sets.at(step), self.batch, seed + 1, step, &device);
        train(&mut trainer, &rate, &state, loss, |trainer| {
            base::write(&to, &names, trainer.average(), &config)?;
            let base = base::open(&to)?;
            let sheet = to.join(format!("base-{:06}.png", trainer.steps()));
            samples(&sheet, &base, &base.flux, 1.0, &codec, &tokenizers)
        })?;
        let guidance = guidance::Arguments {
            steps: self.guidance_steps,
            batch: self.batch,
            pictures: self.pictures,
            diptychs: self.diptychs,
            data: Some(out.to_path_buf()),
        };
        guidance.run(&to, tokenizers_folder, seed)
    }
}

/// Everything of a model but its weights that are trained anew.
fn copy_model(from: &Path, to: &Path) -> Result<()> {
    for file in [
        "ae.safetensors",
        "t5/spiece.model",
        "t5/config.json",
        "clip/vocab.json",
        "clip/merges.txt",
        "clip/config.json",
    ] {
        let (from, to) = (from.join("model").join(file), to.join("model").join(file));
        std::fs::create_dir_all(to.parent().context("a file in a folder")?)?;
        std::fs::copy(&from, &to).with_context(|| format!("{}: train the base first", from.display()))?;
    }
    Ok(())
}
