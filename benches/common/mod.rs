//! What all benchmarks share: timing, input numbers, sizes on the command line.

// Each benchmark is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::json;
use uno_core::weights::LoadOptions;

/// How a case is run. By default once to warm up, then `rounds` times.
#[derive(clap::Args)]
pub struct Timing {
    /// Timed runs after the one that warms up
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Run once and end: with the time of the whole process, what starting costs
    #[arg(long)]
    pub once: bool,
    /// After the run that warms up, run as often as each line on standard input says: so compare.py alternates with others
    #[arg(long)]
    pub serve: bool,
    /// Where to write the result (f32, little-endian), for others to compare theirs with
    #[arg(long)]
    pub output: Option<PathBuf>,
    // `cargo bench` passes it to every benchmark.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Timing {
    /// Times `work` and prints lines of JSON. `work` returns the numbers of its result, so that the device has finished.
    pub fn run(&self, case: &str, mut work: impl FnMut() -> Result<Vec<f32>>) -> Result<()> {
        let start = Instant::now();
        let result = work()?;
        let first_ms = start.elapsed().as_secs_f64() * 1e3;
        if let Some(path) = &self.output {
            let bytes: Vec<u8> = result.iter().flat_map(|x| x.to_le_bytes()).collect();
            std::fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        }
        drop(result);
        if self.once {
            return say(json!({ "case": case }));
        }
        let mut timed = || -> Result<f64> {
            let start = Instant::now();
            let result = work()?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            drop(result);
            Ok(milliseconds)
        };
        if self.serve {
            say(json!({ "ready": case, "first_ms": first_ms }))?;
            for line in std::io::stdin().lock().lines() {
                let runs: usize = line?.trim().parse().unwrap_or(1);
                let times = (0..runs.max(1)).map(|_| timed()).collect::<Result<Vec<_>>>()?;
                say(json!({ "ms": median(&times) }))?;
            }
            return Ok(());
        }
        let times = (0..self.rounds.max(1)).map(|_| timed()).collect::<Result<Vec<_>>>()?;
        say(json!({ "case": case, "median_ms": median(&times), "times_ms": times }))
    }
}

/// Where a case is computed, and in which number format.
#[derive(clap::Args)]
pub struct Place {
    /// Device: cpu, cuda, vulkan, wgpu ...
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Format that is computed in: f32, bf16 or f16
    #[arg(long, default_value = "f32", value_parser = format)]
    pub dtype: FloatDType,
    /// Bytes of matrices that stay on the device; the rest is streamed to it
    #[arg(long, default_value_t = u64::MAX)]
    pub resident: u64,
}

impl Place {
    /// How models are loaded there: on the CPU as stored, on a GPU expanded.
    pub fn options(&self) -> Result<LoadOptions> {
        let opened = uno_core::device::open_named(&self.device)?;
        let options = LoadOptions::new(&opened.device).with_dtype(self.dtype);
        let options = options.with_storage(opened.backend.storage());
        Ok(options.with_resident_bytes(self.resident))
    }
}

fn format(name: &str) -> Result<FloatDType, String> {
    match name {
        "f32" => Ok(FloatDType::F32),
        "bf16" => Ok(FloatDType::BF16),
        "f16" => Ok(FloatDType::F16),
        _ => Err("wanted f32, bf16 or f16".to_owned()),
    }
}

fn say(line: serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Numbers of mean 0 and variance 1 that depend on `seed` and their place only; peers/common.py has the same ones.
pub fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let number = |i: u32| {
        let mut h = i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 16)).wrapping_mul(0x21f0_aaad);
        h = (h ^ (h >> 15)).wrapping_mul(0x735a_2d97);
        h ^= h >> 15;
        ((h >> 8) as f32 / 16_777_216.0 - 0.5) * 3.464_101_6
    };
    (0..count as u32).map(number).collect()
}

/// [`numbers`] as a tensor.
pub fn tensor<const D: usize>(seed: u32, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(seed, shape.iter().product()), shape), device)
}

/// Rows and columns, written `32x48`.
#[derive(Clone, Copy)]
pub struct Grid {
    pub rows: usize,
    pub columns: usize,
}

impl Grid {
    pub fn count(self) -> usize {
        self.rows * self.columns
    }
}

impl FromStr for Grid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |side: &str| side.parse().ok().filter(|side| *side > 0);
        text.split_once('x')
            .and_then(|(rows, columns)| Some(Self { rows: parse(rows)?, columns: parse(columns)? }))
            .ok_or_else(|| "wanted rows and columns, for example 32x48".to_owned())
    }
}
