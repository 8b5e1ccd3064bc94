//! cargo bench --bench generation
//!
//! The stages of a generation on the embedded model, to notice what gets slower. Comparisons with PyTorch are to come.

use std::time::Instant;

use uno_core::traits::{LatentCodec, Silent, TextEncoder};
use uno_core::{Result, device};
use uno_models::Request;
use uno_models::checkpoint::embedded;
use uno_models::components::{PipelineOptions, load, load_autoencoder, load_text_encoder};

/// Median milliseconds of some runs, after one to warm up.
fn median(name: &str, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{name:32} {:8.1} ms", times[times.len() / 2]);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = device::open("cpu")?;
    let options = PipelineOptions::new(&device);
    let source = embedded()?;
    let text = load_text_encoder(&source, &options)?;
    let autoencoder = load_autoencoder(&source, &options)?;
    let pipeline = load(&source, &options, &Silent)?;
    let latent = autoencoder.encode(burn::tensor::Tensor::zeros([1, 3, 256, 256], &device), None)?;
    let request = Request::new("a teapot").with_size(256, 256).with_steps(1);

    median("text, one prompt", || text.encode(&["a teapot".into()]).map(drop))?;
    median("autoencoder, decode 256x256", || autoencoder.decode(latent.clone()).map(drop))?;
    median("generation, 256x256, one step", || {
        pipeline.generate(&request, &Silent).map(drop).map_err(|e| uno_core::Error::component("pipeline", e))
    })?;
    Ok(())
}
