//! What gradient checkpointing saves. One test, so that nothing else in this process takes memory meanwhile.

mod common;

use burn::tensor::{Device, Distribution, Tensor};
use common::random_model;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::latents::{grid_ids, text_ids};
use uno_core::traits::Conditioning;
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_models::memory::{peak, reset_peak, resident};
use uno_models::train::batch::Batch;
use uno_models::train::lora::{LoraModel, init};
use uno_models::train::loss::mix;
use uno_models::train::step::backward;

/// Blocks with one stream; the small random model's first one so many times.
const BLOCKS: usize = 10;

fn deep_model() -> Checkpoint {
    let dit = random_model().dit;
    let is_first = |name: &str| name.strip_prefix("single_blocks.0.").map(str::to_owned);
    let others = dit.tensors().iter().filter(|(name, _)| !name.starts_with("single_blocks."));
    let mut tensors: Vec<_> = others.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    for block in 0..BLOCKS {
        let of_first =
            dit.tensors().iter().filter_map(|(name, tensor)| Some((is_first(name)?, tensor.clone())));
        tensors.extend(of_first.map(|(name, tensor)| (format!("single_blocks.{block}.{name}"), tensor)));
    }
    Checkpoint::from_tensors("deep", tensors)
}

#[test]
fn with_gradient_checkpointing_the_activations_of_one_block_are_held_and_not_of_all() {
    let device = Device::flex();
    let flux = Flux::load(&deep_model(), &LoadOptions::new(&device)).unwrap();
    let config: FluxConfig = flux.config().clone();
    let parameters = init(&config, 4, 0, &device).unwrap();
    let model = LoraModel::new(flux, &parameters).unwrap();
    let normal = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let (text, side) = (64, 24);
    let latent = || normal([1, side * side, config.in_channels]);
    let batch = Batch {
        mixed: mix(latent(), latent(), &[0.5]),
        t: vec![0.5],
        conditioning: Conditioning {
            txt: normal([1, text, config.context_in_dim]),
            vec: normal([1, 1, config.vec_in_dim]).squeeze_dim(1),
            references: Vec::new(),
            ids: [text_ids(text), grid_ids(side, side, (0, 0))].concat(),
        },
    };
    let run = |by_block: bool| {
        let before = resident()?;
        reset_peak();
        let (loss, gradients) = backward(&model, &batch, 1.0, by_block).unwrap();
        assert!(loss.is_finite() && gradients.len() == parameters.len());
        Some(peak()?.saturating_sub(before))
    };
    let (Some(with), Some(without)) = (run(true), run(false)) else {
        eprintln!("skipped: this system does not tell how much memory a process holds");
        return;
    };
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{} blocks: {} MiB with checkpointing, {} MiB without",
        config.depth + BLOCKS,
        mib(with),
        mib(without)
    );
    assert!(2 * with < without, "{} and {} MiB", mib(with), mib(without));
}
