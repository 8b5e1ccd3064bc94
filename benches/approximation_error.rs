//! cargo bench --bench approximation_error
//!
//! How far each approximation is from the exact run, in the picture, and what it saves. Prints a table of docs/performance.md.
//! Without files it is the embedded model; for others see the page. The text's states are random numbers, the same for all.

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use common::{Grid, tensor};
use std::ops::ControlFlow;
use uno_core::approximation::Approximation;
use uno_core::flux::Flux;
use uno_core::latents::{PATCH, unpack};
use uno_core::sampling::{Sampler, denoise, schedule};
use uno_core::traits::{Conditioning, Event, LatentCodec};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_core::{device, lora, tensor_to_vec};
use uno_models::checkpoint::embedded;
use uno_models::unope::{UnoPe, sequence_ids};

/// Compares approximate runs with the exact one.
#[derive(Parser)]
struct Arguments {
    /// The transformer; for products in 8-bit integers it is stored as Q8_0
    #[arg(long, requires_all = ["ae"])]
    checkpoint: Option<PathBuf>,
    /// UNO's LoRA
    #[arg(long)]
    lora: Option<PathBuf>,
    /// The autoencoder
    #[arg(long)]
    ae: Option<PathBuf>,
    /// Text tokens
    #[arg(long, default_value_t = 512)]
    text: usize,
    /// Rows and columns of the noisy latent's tokens
    #[arg(long, default_value = "32x32")]
    latent: Grid,
    /// Rows and columns of the reference's tokens
    #[arg(long, default_value = "32x32")]
    reference: Grid,
    /// Denoising steps
    #[arg(long, default_value_t = 25)]
    steps: usize,
    /// One setting of each approximation only
    #[arg(long)]
    quick: bool,
    // `cargo bench` passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = device::open("cpu")?;
    let options = LoadOptions::new(&device);
    let open = |path: &PathBuf| Checkpoint::open(path);
    let (dit, own_lora, ae) = match &arguments.checkpoint {
        Some(dit) => {
            let ae = arguments.ae.as_ref().context("--ae is missing")?;
            (open(dit)?, arguments.lora.as_ref().map(open).transpose()?, open(ae)?)
        }
        None => {
            let source = embedded()?;
            (source.dit, source.lora, source.ae)
        }
    };
    let codec = AutoEncoder::load(&ae, &options)?;
    let load = |int8: bool| -> Result<Flux> {
        let mut model = Flux::load(&dit, &options.clone().with_int8(int8))?;
        if let Some(checkpoint) = &own_lora {
            lora::attach(&mut model, checkpoint, 1.0, &options)?;
        }
        Ok(model)
    };
    let model = load(false)?;
    let config = model.config();
    let (latent, reference) = (arguments.latent, arguments.reference);
    let grid = |grid: Grid| (grid.rows, grid.columns);
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, arguments.text, grid(latent), &[grid(reference)]),
        txt: tensor(1, [1, arguments.text, config.context_in_dim], &device),
        vec: tensor(2, [1, config.vec_in_dim], &device),
        references: vec![tensor(4, [1, reference.count(), config.in_channels], &device)],
    };
    let noise = tensor(3, [1, latent.count(), config.in_channels], &device);
    let times = schedule(arguments.steps, latent.count() / 64, true)?;

    let run = |model: &Flux, approximation: Approximation| -> Result<(Vec<u8>, usize, f64)> {
        let reused = AtomicUsize::new(0);
        let observer = |event: &Event<'_>| {
            if let Event::Step { step, total, seconds, reused: now, .. } = event {
                reused.fetch_add(*now, Ordering::Relaxed);
                eprintln!("  step {step}/{total}  {seconds:.2} s");
            }
            ControlFlow::Continue(())
        };
        let start = Instant::now();
        let sampler = Sampler { times: &times, guidance: 4.0, approximation };
        let latents = denoise(model, noise.clone(), &conditioning, sampler, &observer)?;
        let seconds = start.elapsed().as_secs_f64();
        let picture = codec.decode(unpack(latents, [latent.rows * PATCH, latent.columns * PATCH])?)?;
        let levels = |x: f32| ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        let picture = tensor_to_vec(picture)?.into_iter().map(levels).collect();
        Ok((picture, reused.into_inner(), seconds))
    };
    let int8 = load(true).map_err(|error| eprintln!("{error}")).ok();
    let (wanted, _, exact_seconds) = run(&model, Approximation::default())?;
    println!("| approximation | steps spared | time / exact time | mean difference of 255 | PSNR, dB |");
    println!("|---|---|---|---|---|");
    for (name, first_block_cache, reference_cache, in_int8) in [
        ("`--first_block_cache=0.05`", Some(0.05), None, false),
        ("`--first_block_cache=0.1`", Some(0.1), None, false),
        ("`--first_block_cache=0.15`", Some(0.15), None, false),
        ("`--reference_cache=2`", None, Some(2), false),
        ("`--reference_cache=4`", None, Some(4), false),
        ("`--reference_cache=8`", None, Some(8), false),
        ("`--int8`", None, None, true),
        ("`--first_block_cache=0.1 --reference_cache=4 --int8`", Some(0.1), Some(4), true),
    ] {
        let is_usual = first_block_cache.is_none_or(|x| x == 0.1) && reference_cache.is_none_or(|x| x == 4);
        if arguments.quick && !is_usual {
            continue;
        }
        let model = if in_int8 { int8.as_ref() } else { Some(&model) };
        let Some(model) = model else { continue };
        let (picture, reused, seconds) = run(model, Approximation { first_block_cache, reference_cache })?;
        ensure!(picture.len() == wanted.len(), "pictures of two sizes");
        let levels = picture.iter().zip(&wanted).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let count = picture.len() as f64;
        let mean = levels.clone().sum::<f64>() / count;
        let mse = levels.map(|d| d * d).sum::<f64>() / count;
        let psnr =
            if mse > 0.0 { format!("{:.1}", 10.0 * (255.0 * 255.0 / mse).log10()) } else { "same".into() };
        let ratio = seconds / exact_seconds;
        println!("| {name} | {reused} of {} | {ratio:.2} | {mean:.2} | {psnr} |", arguments.steps);
    }
    Ok(())
}
