//! The transformer against the official implementation: base, LoRA beside the weights, LoRA merged.

mod common;

use burn::tensor::FloatDType;
use common::*;
use serde::Deserialize;
use uno_core::flux::{Flux, Rope, timestep_embedding};
use uno_core::latents::pack;
use uno_core::lora;
use uno_core::traits::{Conditioning, VelocityInput, VelocityModel};
use uno_core::weights::Checkpoint;
use uno_models::unope::{UnoPe, sequence_ids};

#[derive(Deserialize)]
struct Case {
    case: usize,
    pe: String,
    refs: usize,
}

fn run(model: &Flux, cases: &Cases, case: &Case) -> Vec<f32> {
    let name = |part: &str| format!("{}.{part}", case.case);
    let latent = cases.tensor::<4>(&name("latent"));
    let references: Vec<_> = (0..case.refs).map(|i| cases.tensor::<4>(&name(&format!("ref{i}")))).collect();
    let grid = |dims: [usize; 4]| (dims[2] / 2, dims[3] / 2);
    let grids: Vec<_> = references.iter().map(|r| grid(r.dims())).collect();
    let txt = cases.tensor::<3>(&name("txt"));
    let pe: UnoPe = case.pe.parse().unwrap();
    let conditioning = Conditioning {
        ids: sequence_ids(pe, txt.dims()[1], grid(latent.dims()), &grids),
        txt,
        vec: cases.tensor(&name("vec")),
        references: references.into_iter().map(|r| pack(r).unwrap()).collect(),
    };
    let batch = latent.dims()[0];
    let t = cases.values(&name("t"));
    let guidance =
        if cases.has(&name("guidance")) { cases.values(&name("guidance")) } else { vec![0.0; batch] };
    let input = VelocityInput {
        latent: pack(latent).unwrap(),
        t: &t,
        guidance: &guidance,
        conditioning: &conditioning,
    };
    values(model.velocity(input).unwrap())
}

#[test]
fn velocities_agree_with_and_without_lora_merged_or_not() {
    for (file, set) in each("cases/dit.safetensors") {
        let cases = Cases::open(&file);
        let list: Vec<Case> = serde_json::from_str(&cases.meta::<String>("cases")).unwrap();
        for options in storages() {
            let storage = options.storage;
            let mut model = Flux::load(&Checkpoint::open(dit_path(&set)).unwrap(), &options).unwrap();
            let compare = |model: &Flux, out: &str, how: &str| {
                for case in &list {
                    let wanted = format!("{}.{out}", case.case);
                    if cases.has(&wanted) {
                        let error = relative_error(&run(model, &cases, case), &cases.values(&wanted));
                        let what = format!(
                            "DiT case {} ({how}, {} refs, pe {}, {storage:?})",
                            case.case, case.refs, case.pe
                        );
                        check(&set, &what, error, COMPONENT);
                    }
                }
            };
            compare(&model, "out_base", "base");
            let lora_file = set.join("model/dit_lora.safetensors");
            if lora_file.exists() {
                let lora_file = Checkpoint::open(lora_file).unwrap();
                lora::attach(&mut model, &lora_file, 1.0, &options).unwrap();
                compare(&model, "out_lora", "LoRA beside");
                lora::merge(&mut model, FloatDType::F32).unwrap();
                compare(&model, "out_lora", "LoRA merged");
                lora::attach(&mut model, &lora_file, -1.0, &options).unwrap();
                compare(&model, "out_base", "LoRA merged and subtracted");
            }
        }
    }
}

#[test]
fn a_lora_of_scale_one_equals_two_of_scale_one_half() {
    for (file, set) in each("cases/dit.safetensors") {
        let lora_file = set.join("model/dit_lora.safetensors");
        if !lora_file.exists() {
            continue;
        }
        let cases = Cases::open(&file);
        let list: Vec<Case> = serde_json::from_str(&cases.meta::<String>("cases")).unwrap();
        let options = &storages()[0];
        let load = |scales: &[f64]| {
            let mut model = Flux::load(&Checkpoint::open(dit_path(&set)).unwrap(), options).unwrap();
            for &scale in scales {
                lora::attach(&mut model, &Checkpoint::open(&lora_file).unwrap(), scale, options).unwrap();
            }
            model
        };
        let error =
            relative_error(&run(&load(&[0.5, 0.5]), &cases, &list[0]), &run(&load(&[1.0]), &cases, &list[0]));
        check(&set, "LoRA stacked in halves", error, COMPONENT);
    }
}

#[test]
fn timestep_embeddings_agree() {
    for (file, set) in each("cases/timestep.safetensors") {
        let cases = Cases::open(&file);
        let dim = cases.shape("emb")[1];
        let got = timestep_embedding(&cases.values("t"), dim, &device(), FloatDType::F32);
        check(&set, "timestep embedding", relative_error(&values(got), &cases.values("emb")), EXACT);
    }
}

#[test]
fn rotary_embeddings_agree() {
    for (file, set) in each("cases/rope.safetensors") {
        let cases = Cases::open(&file);
        let ids: Vec<[f32; 3]> = cases.values("ids").as_chunks::<3>().0.to_vec();
        for name in cases.checkpoint.tensors().keys().filter(|name| name.starts_with("freqs_")) {
            let head_dim: usize = name["freqs_".len()..].parse().unwrap();
            let (cos, sin) = Rope::angles(&ids, head_dim);
            let matrices: Vec<f32> = cos.iter().zip(&sin).flat_map(|(&c, &s)| [c, -s, s, c]).collect();
            let error = largest_difference(&matrices, &cases.values(name));
            check(&set, &format!("rotary embedding, head width {head_dim}"), error, EXACT);
        }
    }
}
