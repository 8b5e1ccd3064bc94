//! Schedule, positions and noise against the official implementation.

mod common;

use burn::tensor::FloatDType;
use common::*;
use serde_json::Value;
use uno_core::noise::{NoiseSource, latent_noise};
use uno_core::sampling::schedule;
use uno_models::unope::{UnoPe, sequence_ids};

fn json(file: &std::path::Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[test]
fn schedules_agree() {
    for (file, set) in each("cases/schedule.json") {
        let cases = json(&file);
        let error = |case: &Value| {
            let got =
                schedule(size(&case["steps"]), size(&case["seq_len"]), case["shift"].as_bool().unwrap())
                    .unwrap();
            largest_difference(&got, &floats(&case["t"]))
        };
        check(
            &set,
            &format!("{} schedules", cases.len()),
            cases.iter().map(error).fold(0.0, f64::max),
            EXACT,
        );
    }
}

#[test]
fn positions_agree() {
    for (file, set) in each("cases/unope.json") {
        for (i, case) in json(&file).iter().enumerate() {
            let pe: UnoPe = case["pe"].as_str().unwrap().parse().unwrap();
            let grid = |hw: &Value| (size(&hw[0]) / 2, size(&hw[1]) / 2);
            let latent = grid(&case["latent_hw"]);
            let references: Vec<_> = case["ref_latent_hw"].as_array().unwrap().iter().map(grid).collect();
            let ids = sequence_ids(pe, 0, latent, &references);
            let (image, mut rest) = ids.split_at(latent.0 * latent.1);
            assert_eq!(image.first().unwrap()[..], floats(&case["img_first"])[..]);
            assert_eq!(image.last().unwrap()[..], floats(&case["img_last"])[..]);
            for (grid, wanted) in references.iter().zip(case["refs"].as_array().unwrap()) {
                let (own, others) = rest.split_at(grid.0 * grid.1);
                rest = others;
                assert_eq!(own.len(), size(&wanted["n"]));
                assert_eq!(own.first().unwrap()[..], floats(&wanted["first"])[..]);
                assert_eq!(own.last().unwrap()[..], floats(&wanted["last"])[..]);
                let sum = |axis: usize| own.iter().map(|id| f64::from(id[axis])).sum::<f64>() as f32;
                assert_eq!([sum(0), sum(1), sum(2)][..], floats(&wanted["sum"])[..]);
            }
            println!("{}: UnoPE case {i} (pe {pe}, {} refs): equal", set.display(), references.len());
        }
    }
}

#[test]
fn cpu_noise_agrees() {
    for (file, set) in each("cases/noise_torch_cpu.safetensors") {
        let cases = Cases::open(&file);
        for (name, tensor) in cases.checkpoint.tensors() {
            // seed{seed}_h{height}_w{width}_{dtype}
            let parts: Vec<&str> = name.split('_').collect();
            let number =
                |i: usize, prefix: &str| parts[i].strip_prefix(prefix).unwrap().parse::<u64>().unwrap();
            let (seed, height, width) = (number(0, "seed"), number(1, "h") as usize, number(2, "w") as usize);
            let dtype = if parts[3] == "bfloat16" { FloatDType::BF16 } else { FloatDType::F32 };
            let channels = tensor.shape()[1];
            let got = latent_noise(NoiseSource::TorchCpu, seed, channels, [height, width], dtype, &device())
                .unwrap();
            assert_eq!(got.dims(), tensor.shape());
            // Rounding to bf16 turns a last-bit difference of the f32 into one of 2^-8, in a few values of 65,536.
            let error = match dtype {
                FloatDType::BF16 => relative_error(&values(got), &tensor.to_f32()),
                _ => largest_difference(&values(got), &tensor.to_f32()),
            };
            check(
                &set,
                &format!("noise {name}"),
                error,
                if dtype == FloatDType::BF16 { 1e-4 } else { EXACT },
            );
        }
    }
}
