//! The autoencoder's part.

use std::path::Path;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use uno_core::image::Pixels;
use uno_core::traits::LatentCodec;
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage, StorageDtype};
use uno_models::tiny::autoencoder::{SIDE, decoder_loss, loss, normalize, pictures, spread_of_channels};
use uno_models::tiny::fresh::{self, Sizes};
use uno_models::tiny::names::Names;
use uno_models::tiny::trainer::{Settings, Trainer};
use uno_models::train::learning_rate::{Decay, LearningRate};
use uno_models::train::named::NamedTensors;
use uno_models::train::optimizer::AdamWConfig;

use crate::steps::{PARTS, State, train};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long, default_value_t = 5_000)]
    steps: u64,
    /// Pieces of 64x64 pixels per step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Pictures that pieces are cut from
    #[arg(long, default_value_t = 1500)]
    pictures: usize,
    /// Learning rate after the warm-up
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
}

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let device = Device::flex().autodiff();
        let first = fresh::autoencoder(&Sizes::default(), seed);
        let options = LoadOptions::new(&device).with_storage(Storage::Expanded);
        let names = Names::find(&first, |c| Ok(AutoEncoder::load(c, &options)?))?;
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.0, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
            rates: &[],
            parts: PARTS,
        };
        let mut trainer = Trainer::new(AutoEncoder::load(&first, &options)?, settings)?;
        let data = pictures(self.pictures, seed);
        let rate = LearningRate { peak: self.rate, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let state = State::new(out, "autoencoder", 100);
        let loss = |model: &AutoEncoder, batch, number| loss(model, &data, batch, seed, number, &device);
        train(&mut trainer, &rate, &state, self.batch, loss, |_| Ok(()))?;
        finish(out, &names, trainer.average(), seed)
    }
}

/// Writes the model's file with normalized latents.
fn finish(out: &Path, names: &Names, parameters: &NamedTensors, seed: u64) -> Result<()> {
    let file = out.join(BEFORE);
    let options = LoadOptions::new(&Device::flex());
    let mut weights = names.to_tensors(parameters)?;
    names.write_tensors(&file, &weights, StorageDtype::F32)?;
    let moments = AutoEncoder::load(&Checkpoint::open(&file)?, &options)?.moments(joined(256, seed)?)?;
    let channels = moments.dims()[1] / 2;
    let [mean, deviation] = spread_of_channels(moments.narrow(1, 0, channels))?;
    println!("latents before: means {mean:.2?}, deviations {deviation:.2?}");
    normalize(&mut weights, &mean, &deviation);
    names.write_tensors(&file, &weights, StorageDtype::BF16)?;
    std::fs::copy(&file, out.join(FILE))?;
    show(out, "autoencoder", seed)
}

/// Where the autoencoder is, below the folder of results.
const FILE: &str = "model/ae.safetensors";
/// Where it is before its decoder is trained further.
const BEFORE: &str = "autoencoder.safetensors";

/// So many pictures that were not trained on.
fn joined(count: usize, seed: u64) -> Result<Tensor<4>> {
    let pictures = pictures(2 * count, seed);
    let whole = pictures.iter().filter(|p| p.width == SIDE).take(count);
    let pictures: Vec<_> = whole.map(|p| p.to_tensor(&Device::flex())).collect::<Result<_, _>>()?;
    Ok(Tensor::cat(pictures, 0))
}

/// Says how well the autoencoder does on new pictures, and writes a sheet of them with what becomes of them.
fn show(out: &Path, name: &str, seed: u64) -> Result<()> {
    let file = out.join(FILE);
    let model = AutoEncoder::load(&Checkpoint::open(&file)?, &LoadOptions::new(&Device::flex()))?;
    let x = joined(16, seed + 1)?;
    let y = model.decode(model.encode(x.clone(), None)?)?;
    let error = (y.clone() - x.clone()).square().mean().into_scalar::<f32>();
    println!("{}: {:.2} dB on new pictures", file.display(), 10.0 * (4.0 / error).log10());
    let pictures = [x, y].map(Pixels::from_tensor);
    let [x, y] = pictures;
    let (x, y) = (x?, y?);
    let rows = x.chunks(8).zip(y.chunks(8)).flat_map(|(x, y)| x.iter().chain(y)).cloned();
    crate::sheet::write(&out.join(format!("{name}.png")), &rows.collect::<Vec<_>>(), 8)
}

/// Trains the decoder further, on latents that are not quite right; the encoder stays as it is.
#[derive(clap::Args)]
pub struct DecoderArguments {
    /// Steps in all
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// Pieces of 64x64 pixels per step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Pictures that pieces are cut from
    #[arg(long, default_value_t = 1500)]
    pictures: usize,
}

impl DecoderArguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let device = Device::flex();
        let first = Checkpoint::open(out.join(BEFORE))?;
        let encoder = AutoEncoder::load(&first, &LoadOptions::new(&device))?;
        let options = LoadOptions::new(&device.clone().autodiff()).with_storage(Storage::Expanded);
        let names = Names::find(&first, |c| Ok(AutoEncoder::load(c, &options)?))?;
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.0, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.995,
            rates: &[],
            parts: PARTS,
        };
        let mut trainer = Trainer::new(AutoEncoder::load(&first, &options)?, settings)?;
        let data = pictures(self.pictures, seed);
        let rate = LearningRate { peak: 5e-4, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let state = State::from(out, "decoder", &first, 500);
        let loss = |model: &AutoEncoder, batch, number| {
            decoder_loss(model, &encoder, &data, batch, seed, number, &device)
        };
        train(&mut trainer, &rate, &state, self.batch, loss, |_| Ok(()))?;
        names.write(&out.join(FILE), trainer.average(), StorageDtype::BF16)?;
        show(out, "decoder", seed)
    }
}
