//! cargo run --release --example make_checkpoint -- --like flux1-dev.json --out /tmp/flux1-dev.safetensors --storage bf16
//!
//! Writes a checkpoint of random numbers with the names and shapes of another one, or of a manifest (JSON: name -> shape and
//! dtype): for benchmarks and tests at full size, which nobody has to download. The numbers are scaled so that activations stay
//! of order one. The same seed gives the same file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::ProgressBar;
use rayon::prelude::*;
use uno_core::weights::{Checkpoint, StorageDtype, TensorHeader, write};

/// Writes a checkpoint of random numbers.
#[derive(Parser)]
struct Arguments {
    /// A manifest (JSON: name -> {shape, dtype}) or a checkpoint, whose names and shapes are taken
    #[arg(long)]
    like: PathBuf,
    /// The file to write: *.safetensors or *.gguf
    #[arg(long)]
    out: PathBuf,
    /// Format of matrices (f32, bf16, f16, fp8, q8_0, q4_k ...); by default as in the manifest
    #[arg(long)]
    storage: Option<StorageDtype>,
    /// Which random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Factor on all matrices
    #[arg(long, default_value_t = 1.0)]
    scale: f32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut tensors = headers(&arguments.like)?;
    ensure!(!tensors.is_empty(), "{} names no tensor", arguments.like.display());
    let is_gguf = arguments.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    for tensor in &mut tensors {
        let is_matrix = tensor.shape.len() == 2;
        if let Some(storage) = arguments.storage.filter(|_| is_matrix) {
            let fits = tensor.shape[1].is_multiple_of(storage.block_len());
            tensor.dtype = if fits { storage } else { StorageDtype::BF16 };
        } else if arguments.storage.is_some() && is_gguf {
            tensor.dtype = StorageDtype::F32;
        }
    }
    let numbers = |t: &TensorHeader| t.shape.iter().product::<usize>() as u64;
    let bar = ProgressBar::new(tensors.iter().map(numbers).sum());
    let metadata = match is_gguf {
        true => BTreeMap::from([("general.architecture".to_owned(), "flux".to_owned())]),
        false => BTreeMap::new(),
    };
    write(&arguments.out, &tensors, &metadata, |i| {
        bar.inc(numbers(&tensors[i]));
        Ok(data(&tensors[i], arguments.seed.wrapping_add((i as u64) << 40), arguments.scale))
    })?;
    bar.finish_and_clear();
    println!("{}", arguments.out.display());
    Ok(())
}

/// Names, formats and shapes to take.
fn headers(like: &PathBuf) -> Result<Vec<TensorHeader>> {
    if like.extension().is_some_and(|e| e == "json") && !like.to_string_lossy().ends_with(".index.json") {
        #[derive(serde::Deserialize)]
        struct Entry {
            shape: Vec<usize>,
            dtype: String,
        }
        let text = std::fs::read(like).with_context(|| format!("{} cannot be read", like.display()))?;
        let entries: BTreeMap<String, Entry> =
            serde_json::from_slice(&text).with_context(|| format!("{} is no manifest", like.display()))?;
        return entries
            .into_iter()
            .map(|(name, e)| Ok(TensorHeader { name, dtype: e.dtype.parse()?, shape: e.shape }))
            .collect();
    }
    let checkpoint = Checkpoint::open(like)?;
    let header = |(name, t): (&String, &uno_core::weights::StoredTensor)| TensorHeader {
        name: name.clone(),
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
    };
    Ok(checkpoint.tensors().iter().map(header).collect())
}

/// Numbers that are made and packed at a time.
const CHUNK: usize = 1 << 20;

/// Random numbers of about a normal distribution: matrices keep the size of what they multiply, scales of norms are near 1.
fn data(tensor: &TensorHeader, seed: u64, scale: f32) -> Vec<u8> {
    let count: usize = tensor.shape.iter().product();
    let inputs: usize = tensor.shape.iter().skip(1).product();
    let (mean, std) = match tensor.shape.len() {
        0 | 1 if tensor.name.contains("norm") && !tensor.name.ends_with("bias") => (1.0, 0.05),
        0 | 1 => (0.0, 0.02),
        _ if tensor.name.contains("embed") || tensor.name.contains("shared") => (0.0, scale * 0.5),
        _ => (0.0, scale / (inputs.max(1) as f32).sqrt()),
    };
    let chunks = (0..count.div_ceil(CHUNK)).into_par_iter().map(|chunk| {
        let length = CHUNK.min(count - chunk * CHUNK);
        let mut state = seed ^ (chunk as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let numbers: Vec<f32> = (0..length).map(|_| mean + std * nearly_normal(&mut state)).collect();
        tensor.dtype.pack(&numbers).unwrap_or_default()
    });
    chunks.collect::<Vec<_>>().concat()
}

/// The sum of four uniform numbers, of mean 0 and variance 1 (splitmix64).
fn nearly_normal(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let sum = (0..4).map(|i| ((z >> (16 * i)) & 0xffff) as f32).sum::<f32>();
    (sum / 65536.0 - 2.0) * 1.732_050_8
}
