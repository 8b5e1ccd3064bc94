//! cargo run --release --example text_to_image -- --model DIR "a lighthouse at dusk" picture.png
//!
//! Plain FLUX from the parts of `uno-core` alone: no references, no LoRA. DIR is a model folder as docs/checkpoints.md describes.

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::FloatDType;
use clap::Parser;
use uno_core::device;
use uno_core::flux::Flux;
use uno_core::image::Pixels;
use uno_core::latents::{grid_ids, pack, text_ids, unpack};
use uno_core::noise::{NoiseSource, latent_noise};
use uno_core::sampling::{Sampler, SequenceLength, denoise, schedule};
use uno_core::text::{ClipTextEncoder, ClipTokenizer, FluxTextEncoder, T5_LENGTH, T5Encoder, T5Tokenizer};
use uno_core::traits::{Conditioning, LatentCodec, Silent, TextEncoder};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions};

#[derive(Parser)]
struct Arguments {
    /// Folder with flux1-dev.safetensors (or flux1-schnell.safetensors), ae.safetensors, t5/ and clip/
    #[arg(long)]
    model: PathBuf,
    /// What the picture shows
    prompt: String,
    /// The picture's file
    path: PathBuf,
    #[arg(long, default_value_t = 512)]
    width: usize,
    #[arg(long, default_value_t = 512)]
    height: usize,
    #[arg(long, default_value_t = 25)]
    num_steps: usize,
    #[arg(long, default_value_t = 3407)]
    seed: u64,
    #[arg(long, default_value = "cpu")]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let device = device::open(&arguments.device)?;
    let options = LoadOptions::new(&device);
    let (width, height) = (arguments.width / 16 * 16, arguments.height / 16 * 16);
    let model = |name: &str| arguments.model.join(name);

    // 1. The prompt.
    let t5 = T5Encoder::load(&Checkpoint::open(model("t5"))?, &options)?;
    let config = Some(model("clip/config.json")).filter(|path| path.exists());
    let clip = ClipTextEncoder::load(&Checkpoint::open(model("clip"))?, config.as_deref(), &options)?;
    let (t5_tokenizer, clip_tokenizer) =
        (T5Tokenizer::from_dir(model("t5"))?, ClipTokenizer::from_dir(model("clip"))?);
    let text = FluxTextEncoder::new(t5, t5_tokenizer, clip, clip_tokenizer, T5_LENGTH)?
        .encode(&[arguments.prompt])?;

    // 2. Noise as tokens with positions.
    let noise =
        latent_noise(NoiseSource::TorchCuda, arguments.seed, 16, [height, width], FloatDType::BF16, &device)?;
    let [_, _, h, w] = noise.dims();
    let mut ids = text_ids(text.txt.dims()[1]);
    ids.extend(grid_ids(h / 2, w / 2, (0, 0)));
    let conditioning = Conditioning { txt: text.txt, vec: text.vec, references: Vec::new(), ids };

    // 3. From noise to latent.
    let dev = model("flux1-dev.safetensors");
    let dit = if dev.exists() { dev } else { model("flux1-schnell.safetensors") };
    let flux = Flux::load(&Checkpoint::open(dit)?, &options)?;
    let shift = flux.config().guidance_embed;
    let times = schedule(arguments.num_steps, SequenceLength::Flux.of(width, height), shift)?;
    let latent = denoise(&flux, pack(noise)?, &conditioning, Sampler::new(&times, 3.5), &Silent)?;

    // 4. From latent to picture.
    let ae = AutoEncoder::load(&Checkpoint::open(model("ae.safetensors"))?, &options)?;
    let pixels = Pixels::from_tensor(ae.decode(unpack(latent, [h, w])?)?)?.remove(0);
    image::RgbImage::from_raw(width as u32, height as u32, pixels.rgb)
        .context("the picture has another size than asked for")?
        .save(&arguments.path)?;
    println!("{}", arguments.path.display());
    Ok(())
}
