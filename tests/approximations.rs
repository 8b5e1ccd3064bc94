//! What may be approximated: off by default, exact where it is set so, alike on both ways through the blocks, and said.

mod common;

use burn::tensor::{Distribution, FloatDType, Tensor};
use common::program::Desk;
use common::*;
use uno_core::approximation::Approximation;
use uno_core::flux::Flux;
use uno_core::lora;
use uno_core::sampling::{Sampler, denoise, schedule};
use uno_core::traits::{Conditioning, Silent, VelocityInput, VelocityModel};
use uno_core::weights::{Checkpoint, LoadOptions, Storage, StorageDtype, TensorHeader, write};
use uno_models::unope::{UnoPe, sequence_ids};

fn embedded(name: &str) -> Checkpoint {
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets/tiny");
    Checkpoint::open(assets.join(name)).unwrap()
}

fn flux(options: &LoadOptions) -> Flux {
    let mut model = Flux::load(&embedded("flux1-dev.safetensors"), options).unwrap();
    lora::attach(&mut model, &embedded("dit_lora.safetensors"), 1.0, options).unwrap();
    model
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

/// Two samples with a reference of 6 tokens, for a latent of 4 x 4.
fn conditioning(model: &Flux) -> (Tensor<3>, Conditioning) {
    let config = model.config();
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, 7, (4, 4), &[(2, 3)]),
        txt: random([2, 7, config.context_in_dim]),
        vec: random([2, config.vec_in_dim]),
        references: vec![random([2, 6, config.in_channels])],
    };
    (random([2, 16, config.in_channels]), conditioning)
}

fn one(conditioning: &Conditioning, sample: usize) -> Conditioning {
    Conditioning {
        ids: conditioning.ids.clone(),
        txt: conditioning.txt.clone().narrow(0, sample, 1),
        vec: conditioning.vec.clone().narrow(0, sample, 1),
        references: conditioning.references.iter().map(|r| r.clone().narrow(0, sample, 1)).collect(),
    }
}

fn run(
    model: &Flux,
    latent: &Tensor<3>,
    conditioning: &Conditioning,
    steps: usize,
    approximation: Approximation,
) -> Vec<f32> {
    let times = schedule(steps, 16, true).unwrap();
    let sampler = Sampler { times: &times, guidance: 4.0, approximation };
    values(denoise(model, latent.clone(), conditioning, sampler, &Silent).unwrap())
}

fn first_block(threshold: f32) -> Approximation {
    Approximation { first_block_cache: Some(threshold), ..Approximation::default() }
}

fn references(steps: usize) -> Approximation {
    Approximation { reference_cache: Some(steps), ..Approximation::default() }
}

/// Both ways through the blocks: in place on weights as stored, and by burn's operations.
fn models() -> [Flux; 2] {
    storages().map(|options| flux(&options))
}

#[test]
fn steps_that_are_known_beforehand_give_the_velocities_of_each_alone() {
    for model in models() {
        let (latent, conditioning) = conditioning(&model);
        // More than the modulations of one pass.
        let times = schedule(35, 16, true).unwrap();
        let exact = run(&model, &latent, &conditioning, 35, Approximation::default());
        let mut x = latent;
        for pair in times.windows(2) {
            let input = VelocityInput {
                latent: x.clone(),
                t: &[pair[0]; 2],
                guidance: &[4.0; 2],
                conditioning: &conditioning,
            };
            x = x + model.velocity(input).unwrap() * (f64::from(pair[1]) - f64::from(pair[0])) as f32;
        }
        let error = relative_error(&exact, &values(x));
        assert!(error < 1e-4, "{error:e}");
    }
}

#[test]
fn caches_that_never_serve_change_no_bit() {
    for model in models() {
        let (latent, conditioning) = conditioning(&model);
        let exact = run(&model, &latent, &conditioning, 4, Approximation::default());
        for approximation in [references(1), first_block(1e-30)] {
            assert!(run(&model, &latent, &conditioning, 4, approximation) == exact, "{approximation:?}");
        }
    }
}

#[test]
fn both_ways_through_the_blocks_approximate_alike_and_near_the_exact() {
    let [in_place, joint] = models();
    let (latent, conditioning) = conditioning(&in_place);
    let exact = run(&in_place, &latent, &conditioning, 16, Approximation::default());
    let both = Approximation { reference_cache: Some(3), ..first_block(0.5) };
    for approximation in [references(3), first_block(0.5), both] {
        let [a, b] = [&in_place, &joint].map(|model| run(model, &latent, &conditioning, 16, approximation));
        let (apart, error) = (relative_error(&a, &b), relative_error(&a, &exact));
        println!("{approximation:?}: {error:.1e} from the exact latent, {apart:.1e} apart");
        assert!(apart < 1e-4 && error > 1e-6 && error < 0.2, "{approximation:?}: {apart:e} {error:e}");
    }
}

#[test]
fn a_sample_is_approximated_alike_alone_and_in_a_batch() {
    let model = flux(&LoadOptions::new(&device()));
    let (latent, conditioning) = conditioning(&model);
    let both = Approximation { reference_cache: Some(2), ..first_block(0.1) };
    for approximation in [references(2), first_block(0.1), both] {
        let together = run(&model, &latent, &conditioning, 6, approximation);
        for sample in 0..2 {
            let latent = latent.clone().narrow(0, sample, 1);
            let alone = run(&model, &latent, &one(&conditioning, sample), 6, approximation);
            let half = together.len() / 2;
            assert!(together[sample * half..][..half] == alone, "{approximation:?}, sample {sample}");
        }
    }
}

/// The embedded transformer with all its matrices in `dtype`.
fn stored(dtype: StorageDtype) -> (tempfile::TempDir, Checkpoint) {
    let from = embedded("flux1-dev.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dit.gguf");
    let of = |shape: &[usize]| match shape {
        [_, width] if width % dtype.block_len() == 0 => dtype,
        _ => StorageDtype::F32,
    };
    let headers: Vec<TensorHeader> = from
        .tensors()
        .iter()
        .map(|(name, t)| TensorHeader { name: name.clone(), dtype: of(t.shape()), shape: t.shape().to_vec() })
        .collect();
    let tensors: Vec<_> = from.tensors().values().collect();
    write(&path, &headers, &Default::default(), |i| Ok(headers[i].dtype.pack(&tensors[i].to_f32()).unwrap()))
        .unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    (folder, checkpoint)
}

#[test]
fn products_in_8_bit_integers_are_near_those_of_the_same_weights() {
    let (_folder, q8_0) = stored("q8_0".parse().unwrap());
    let options = LoadOptions::new(&device());
    let load = |int8: bool| {
        let options = options.clone().with_int8(int8);
        let mut model = Flux::load(&q8_0, &options).unwrap();
        lora::attach(&mut model, &embedded("dit_lora.safetensors"), 1.0, &options).unwrap();
        model
    };
    let (exact, int8) = (load(false), load(true));
    let (latent, conditioning) = conditioning(&exact);
    let [wanted, got] = [&exact, &int8].map(|m| run(m, &latent, &conditioning, 4, Approximation::default()));
    let error = relative_error(&got, &wanted);
    println!("int8: {error:.1e}");
    assert!(error > 1e-5 && error < 0.02, "{error:e}");
    let alone = latent.clone().narrow(0, 1, 1);
    let alone = run(&int8, &alone, &one(&conditioning, 1), 4, Approximation::default());
    assert!(got[got.len() / 2..] == alone);
}

#[test]
fn products_in_8_bit_integers_are_refused_where_they_cannot_be() {
    let refused = |checkpoint: &Checkpoint, options: LoadOptions, words: &[&str]| {
        let error = Flux::load(checkpoint, &options.with_int8(true)).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let options = LoadOptions::new(&device());
    refused(&embedded("flux1-dev.safetensors"), options.clone(), &["int8", "Q8_0", "convert --storage q8_0"]);
    let (_folder, q4_0) = stored("q4_0".parse().unwrap());
    refused(&q4_0, options.clone(), &["Q4_0"]);
    let (_folder, q8_0) = stored("q8_0".parse().unwrap());
    refused(&q8_0, options.clone().with_storage(Storage::Expanded), &["F32"]);
    refused(&q8_0, options.clone().with_dtype(FloatDType::BF16), &["BF16", "f32 on the CPU"]);
    let options = options.with_int8(true);
    let mut model = Flux::load(&q8_0, &options).unwrap();
    lora::attach(&mut model, &embedded("dit_lora.safetensors"), 1.0, &options).unwrap();
    assert!(lora::merge(&mut model, FloatDType::F32).unwrap_err().to_string().contains("int8"));
}

#[test]
fn the_program_says_what_it_spared_and_makes_the_picture_again() {
    let desk = Desk::with_model();
    desk.draw("a.png", 64, 64);
    let common = "--image_paths a.png --width 64 --height 64 --num_steps 6 --seed 3";
    let prompt = ["--prompt", "a toy"];
    let with = |more: &str| {
        let text = format!("{common} {more}");
        let arguments: Vec<&str> = prompt.iter().copied().chain(text.split_whitespace()).collect();
        desk.run_with(&arguments)
    };
    with("--save_path exact.png").succeeded();
    assert!(desk.json("exact.json").get("first_block_cache").is_none());
    let run = with("--first_block_cache=0.5 --reference_cache=2 --save_path near.png").succeeded();
    run.says("first-block cache:").says("of 6 steps");
    assert_eq!(desk.json("near.json")["reference_cache"], 2);
    assert_eq!(desk.json("near.json")["first_block_cache"], 0.5);
    assert!(desk.read("near.png") != desk.read("exact.png"));
    desk.run("--from near.png --save_path again.png").succeeded();
    assert!(desk.picture("again.png") == desk.picture("near.png"));

    with("--first_block_cache=-1 --save_path no.png").refused(&desk, &["first_block_cache", "above 0"]);
    with("--reference_cache=0 --save_path no.png").refused(&desk, &["reference", "from 1 on"]);
    with("--int8 --save_path no.png").refused(&desk, &["int8", "Q8_0"]);
}
