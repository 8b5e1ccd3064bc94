//! The transformer with its LoRA, the text encoders and the autoencoder, with weights kept on the GPU and streamed to it.

use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor, TensorData};
use uno_core::flux::Flux;
use uno_core::latents::pack;
use uno_core::lora;
use uno_core::ops::attention;
use uno_core::text::{ClipTextEncoder, T5Encoder};
use uno_core::traits::{Conditioning, LatentCodec, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_models::unope::{UnoPe, sequence_ids};

use crate::common::*;
use crate::gpu;

fn model(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets/tiny").join(file)
}

fn open(file: &str) -> Checkpoint {
    Checkpoint::open(model(file)).unwrap()
}

fn wave<const D: usize>(shape: [usize; D], step: f32, options: &LoadOptions) -> Tensor<D> {
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32 * step).sin()).collect();
    Tensor::from_data(TensorData::new(numbers, shape), &options.device)
}

/// The velocity of one small input with UNO's LoRA beside the weights.
fn velocity(options: &LoadOptions) -> Vec<f32> {
    let mut flux = Flux::load(&open("flux1-dev.safetensors"), options).unwrap();
    lora::attach(&mut flux, &open("dit_lora.safetensors"), 1.0, options).unwrap();
    let config = flux.config().clone();
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, 8, (4, 4), &[(2, 2)]),
        txt: wave([1, 8, config.context_in_dim], 0.1, options),
        vec: wave([1, config.vec_in_dim], 0.7, options),
        references: vec![wave([1, 4, config.in_channels], 0.2, options)],
    };
    let latent = pack(wave([1, 16, 8, 8], 0.3, options)).unwrap();
    let input = VelocityInput { latent, t: &[0.8], guidance: &[4.0], conditioning: &conditioning };
    values(flux.velocity(input).unwrap())
}

/// Compares, and says how far the two are apart.
fn agree(what: &str, got: &[f32], wanted: &[f32], tolerance: f64) {
    let error = relative_error(got, wanted);
    println!("{what}: relative error {error:.1e} against the CPU (at most {tolerance:.0e})");
    assert!(error <= tolerance, "{what}: {error:e}");
}

#[test]
fn velocities_agree_with_the_cpu_whether_weights_stay_or_are_streamed() {
    let Some(gpu) = gpu() else { return };
    let wanted = velocity(&LoadOptions::new(&device()));
    let expanded = LoadOptions::new(&gpu).with_storage(Storage::Expanded);
    let stay = velocity(&expanded);
    agree("velocity", &stay, &wanted, COMPONENT);
    for resident in [0, 200_000] {
        let streamed = velocity(&expanded.clone().with_resident_bytes(resident));
        assert!(streamed == stay, "{resident} bytes on the GPU");
    }
    assert!(velocity(&LoadOptions::new(&gpu)) == stay, "weights as stored");
}

#[test]
fn the_text_encoders_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let ids: Vec<u32> = (0..12).map(|i| (i * 37 + 5) % 97).collect();
    let t5 = |options: &LoadOptions| {
        let t5 = T5Encoder::load(&open("t5/model.safetensors"), options).unwrap();
        values(t5.forward(&ids).unwrap())
    };
    let clip = |options: &LoadOptions| {
        let config = model("clip/config.json");
        let clip = ClipTextEncoder::load(&open("clip/model.safetensors"), Some(&config), options).unwrap();
        values(clip.forward(&ids).unwrap())
    };
    let (cpu, gpu) = (LoadOptions::new(&device()), LoadOptions::new(&gpu).with_storage(Storage::Expanded));
    let stay = t5(&gpu);
    agree("T5", &stay, &t5(&cpu), COMPONENT);
    assert!(t5(&gpu.clone().with_resident_bytes(0)) == stay, "T5, streamed");
    agree("CLIP", &clip(&gpu), &clip(&cpu), COMPONENT);
}

#[test]
fn the_autoencoder_agrees_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let decode = |options: &LoadOptions| {
        let codec = AutoEncoder::load(&open("ae.safetensors"), options).unwrap();
        let picture = codec.decode(wave([1, 16, 4, 4], 0.37, options)).unwrap();
        (values(codec.encode(picture.clone(), None).unwrap()), values(picture))
    };
    let (wanted, got) = (decode(&LoadOptions::new(&device())), decode(&LoadOptions::new(&gpu)));
    agree("latent", &got.0, &wanted.0, COMPONENT);
    agree("picture", &got.1, &wanted.1, COMPONENT);
}

#[test]
fn what_is_no_number_comes_out_of_attention() {
    let Some(gpu) = gpu() else { return };
    let shape = [1, 5, 16];
    let options = LoadOptions::new(&gpu);
    let [q, k, v] = [0.3, 0.7, 1.1].map(|step| wave(shape, step, &options));
    let attend = |q: &Tensor<3>, k: &Tensor<3>, v: &Tensor<3>, dtype| {
        let [q, k, v] = [q, k, v].map(|x| x.clone().cast(dtype));
        values(attention(q, k, v, 2).cast(FloatDType::F32))
    };
    let formats = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    for dtype in formats.into_iter().filter(|dtype| gpu.supports_dtype(*dtype)) {
        assert!(attend(&q, &k, &v, dtype).iter().all(|x| x.is_finite()));
        // One number of one token's first head: its own row in queries, every row in keys and values.
        let damaged = |x: &Tensor<3>| x.clone().slice_fill([0..1, 2..3, 3..4], f32::NAN);
        let of_first_head = |out: Vec<f32>, tokens: std::ops::Range<usize>| {
            assert!(out.iter().skip(8).step_by(16).all(|x| x.is_finite()), "{dtype:?}: the other head");
            tokens.map(|token| out[16 * token..16 * token + 8].iter().any(|x| x.is_nan())).all(|nan| nan)
        };
        assert!(of_first_head(attend(&damaged(&q), &k, &v, dtype), 2..3), "{dtype:?}: queries");
        assert!(of_first_head(attend(&q, &damaged(&k), &v, dtype), 0..5), "{dtype:?}: keys");
        assert!(of_first_head(attend(&q, &k, &damaged(&v), dtype), 0..5), "{dtype:?}: values");
    }
}

#[test]
fn a_number_format_that_the_gpu_lacks_is_refused_with_what_it_has() {
    let Some(gpu) = gpu() else { return };
    let formats = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    for dtype in formats.into_iter().filter(|dtype| !gpu.supports_dtype(*dtype)) {
        let options = LoadOptions::new(&gpu).with_dtype(dtype);
        let error = Flux::load(&open("flux1-dev.safetensors"), &options).unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(&format!("{dtype:?}").to_lowercase()) && error.contains("f32"), "{error}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_and_no_panic() {
    let Some(_) = gpu() else { return };
    let error = uno_core::device::open(&format!("{}:7", kind())).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("driver") || error.contains("cannot be opened"), "{error}");
}

/// The backend that `auto` opens.
fn kind() -> &'static str {
    uno_core::device::BACKENDS.iter().find(|kind| **kind != "cpu").unwrap()
}
