//! The part that teaches the base diptychs: two panels with the same subject. FLUX.1-dev knows them from its data; UNO builds on
//! that, and a synthesis of training data asks for them.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_models::tiny::base::{self as losses, Base, Scenes};
use uno_models::tiny::names::Names;
use uno_models::tiny::trainer::{Settings, Trainer};
use uno_models::train::learning_rate::{Decay, LearningRate};
use uno_models::train::optimizer::AdamWConfig;

use crate::base::{self, BASE, CLIP, CLIP_CONFIG, Encoders, FLUX, T5, samples, tokenizers};
use crate::steps::{PARTS, State, train};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long, default_value_t = 2800)]
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
}

/// Diptychs of each layout, unless it is said otherwise.
pub const DIPTYCHS: usize = 3000;

/// Folder of transformer and text encoders as this part leaves them, below the folder of results.
pub const FOLDER: &str = "diptychs";

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

    /// The set of part `number` of all steps, the same for the parts of one step: with diptychs, every second has single pictures,
    /// and between the layouts take turns.
    pub fn at(&self, number: u64) -> &Scenes {
        let step = number / PARTS as u64;
        match &self.diptychs {
            Some(diptychs) if step % 2 == 1 => &diptychs[(step / 2 % 2) as usize],
            _ => &self.single,
        }
    }
}

impl Arguments {
    pub fn run(&self, out: &Path, folder: &Path, seed: u64) -> Result<()> {
        let device = Device::flex().autodiff();
        let (from, to) = (out.join(BASE), out.join(FOLDER));
        let (tokenizers, sizes) = tokenizers(folder)?;
        let checkpoint = Checkpoint::open(out.join("model/ae.safetensors"))?;
        let codec = AutoEncoder::load(&checkpoint, &LoadOptions::new(&Device::flex()))?;
        let encoders =
            Encoders { codec: &codec, checkpoint: &checkpoint, tokenizers: &tokenizers, sizes: &sizes };
        let sets = Sets::new(self.pictures, self.diptychs, out, &encoders, seed)?;

        let config = std::fs::read_to_string(from.join(CLIP_CONFIG)).context("train the base first")?;
        let options = LoadOptions::new(&device).with_storage(Storage::Expanded);
        let open = |file: &str| Checkpoint::open(from.join(file));
        let (flux, t5, clip) = (open(FLUX)?, open(T5)?, open(CLIP)?);
        let load = |flux: &Checkpoint, t5: &Checkpoint, clip: &Checkpoint| {
            Base::load(flux, t5, clip, config.as_bytes(), &options)
        };
        let names = [
            ("flux.", FLUX, Names::find(&flux, |c| Ok(load(c, &t5, &clip)?.flux))?),
            ("t5.", T5, Names::find(&t5, |c| Ok(load(&flux, c, &clip)?.t5))?),
            ("clip.", CLIP, Names::find(&clip, |c| Ok(load(&flux, &t5, c)?.clip))?),
        ];
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.01, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
            rates: base::RATES,
            parts: PARTS,
        };
        let mut trainer = Trainer::new(load(&flux, &t5, &clip)?, settings)?;
        let rate = LearningRate { peak: 2e-3, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let state = State::from(out, "diptychs", &flux, 500);
        let loss = |model: &Base, batch, number| {
            losses::loss(model, sets.at(number), batch, seed + 1, number, &device)
        };
        train(&mut trainer, &rate, &state, self.batch, loss, |trainer| {
            base::write(&to, &names, trainer.average(), &config)?;
            let base = base::open(&to)?;
            let sheet = out.join(format!("diptychs-{:06}.png", trainer.steps()));
            samples(&sheet, &base, &base.flux, 1.0, &codec, &tokenizers)
        })
    }
}
