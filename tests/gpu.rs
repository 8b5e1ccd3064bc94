//! cargo test --release --features wgpu --test gpu
//!
//! The transformer, the text encoders and the autoencoder on a GPU against the CPU, with weights kept there and streamed to it.
//! Debian's software Vulkan (mesa-vulkan-drivers) should do; without any GPU the tests say that they are skipped. CI only compiles
//! this file.
#![cfg(feature = "wgpu")]

mod common;

use std::path::Path;

use burn::tensor::Device;
use common::*;
use uno_core::flux::Flux;
use uno_core::latents::pack;
use uno_core::lora;
use uno_core::traits::{Conditioning, LatentCodec, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_models::unope::{UnoPe, sequence_ids};

fn gpu() -> Option<Device> {
    match uno_core::device::open("wgpu") {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn model() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets/tiny")
}

/// The velocity of one small input with UNO's LoRA beside the weights.
fn velocity(options: &LoadOptions) -> Vec<f32> {
    let open = |name: &str| Checkpoint::open(model().join(name)).unwrap();
    let mut flux = Flux::load(&open("flux1-dev.safetensors"), options).unwrap();
    lora::attach(&mut flux, &open("dit_lora.safetensors"), 1.0, options).unwrap();
    let config = flux.config().clone();
    let device = &options.device;
    let wave = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
    let tensor = |shape: [usize; 3], step| {
        let data = burn::tensor::TensorData::new(wave(shape.iter().product(), step), shape);
        burn::tensor::Tensor::<3>::from_data(data, device)
    };
    let vec = tensor([1, 1, config.vec_in_dim], 0.7).squeeze_dim(1);
    let latent = burn::tensor::Tensor::<4>::from_data(
        burn::tensor::TensorData::new(wave(16 * 64, 0.3), [1, 16, 8, 8]),
        device,
    );
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, 8, (4, 4), &[(2, 2)]),
        txt: tensor([1, 8, config.context_in_dim], 0.1),
        vec,
        references: vec![tensor([1, 4, config.in_channels], 0.2)],
    };
    let latent = pack(latent).unwrap();
    let input = VelocityInput { latent, t: &[0.8], guidance: &[4.0], conditioning: &conditioning };
    values(flux.velocity(input).unwrap())
}

#[test]
fn velocities_agree_with_the_cpu_whether_weights_stay_or_are_streamed() {
    let Some(gpu) = gpu() else { return };
    let wanted = velocity(&LoadOptions::new(&device()));
    let expanded = LoadOptions::new(&gpu).with_storage(Storage::Expanded);
    let stay = velocity(&expanded);
    let error = relative_error(&stay, &wanted);
    println!("velocity on the GPU: relative error {error:.1e}");
    assert!(error < COMPONENT, "{error:e}");
    for resident in [0, 200_000] {
        let streamed = velocity(&expanded.clone().with_resident_bytes(resident));
        assert!(streamed == stay, "{resident} bytes on the GPU");
    }
}

#[test]
fn the_autoencoder_agrees_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let decode = |options: &LoadOptions| {
        let checkpoint = Checkpoint::open(model().join("ae.safetensors")).unwrap();
        let codec = AutoEncoder::load(&checkpoint, options).unwrap();
        let wave: Vec<f32> = (0..16 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
        let latent = burn::tensor::TensorData::new(wave, [1, 16, 4, 4]);
        let latent = burn::tensor::Tensor::<4>::from_data(latent, &options.device);
        let picture = codec.decode(latent).unwrap();
        (values(codec.encode(picture.clone(), None).unwrap()), values(picture))
    };
    let (wanted, got) = (decode(&LoadOptions::new(&device())), decode(&LoadOptions::new(&gpu)));
    for (what, got, wanted) in [("latent", &got.0, &wanted.0), ("picture", &got.1, &wanted.1)] {
        let error = relative_error(got, wanted);
        println!("{what} on the GPU: relative error {error:.1e}");
        assert!(error < COMPONENT, "{what}: {error:e}");
    }
}
