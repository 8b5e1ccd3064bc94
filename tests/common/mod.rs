//! Finding golden values, reading cases and measuring errors.
#![allow(dead_code)] // each test program uses a part of it

pub mod program;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_models::checkpoint::{CheckpointOptions, discover};
use uno_models::components::ModelSource;

/// Folder with golden values of the official implementation: `UNO_GOLDEN`, else `../shared/golden`.
pub fn golden() -> Option<PathBuf> {
    let named = std::env::var_os("UNO_GOLDEN").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"));
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("UNO_REQUIRE_GOLDEN").is_none(),
        "UNO_REQUIRE_GOLDEN is set, but {} is no folder",
        folder.display()
    );
    eprintln!("skipped: no golden values at {} (set UNO_GOLDEN)", folder.display());
    None
}

/// The small model with random weights.
pub fn random_model() -> ModelSource {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets/tiny");
    ModelSource::open(&discover(&CheckpointOptions::in_folder(folder), &()).unwrap()).unwrap()
}

/// All sets of values: those of the official implementation, and those that the repository carries.
/// A set is a folder that holds `model/` and `cases/`.
pub fn sets() -> Vec<PathBuf> {
    let mut roots = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    roots.extend(golden());
    let mut sets = Vec::new();
    for root in roots {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&root)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .chain([root.clone()])
            .filter(|path| path.join("cases").is_dir() && path.join("model").is_dir())
            .collect();
        found.sort();
        sets.extend(found);
    }
    sets
}

/// `file` in each set that has it.
pub fn each(file: &str) -> Vec<(PathBuf, PathBuf)> {
    sets().into_iter().map(|set| (set.join(file), set)).filter(|(file, _)| file.exists()).collect()
}

/// Tensors and metadata of a case file.
pub struct Cases {
    pub checkpoint: Checkpoint,
    pub metadata: std::collections::HashMap<String, String>,
}

impl Cases {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Self { checkpoint: Checkpoint::open(path).unwrap(), metadata }
    }

    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.tensors().contains_key(name)
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        self.checkpoint.tensors().get(name).unwrap_or_else(|| panic!("no tensor {name}")).to_f32()
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        self.checkpoint.shape(name).unwrap()
    }

    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.checkpoint.tensors()[name].to_tensor(&device(), burn::tensor::FloatDType::F32)
    }

    pub fn meta<T: std::str::FromStr>(&self, name: &str) -> T {
        let text = self.metadata.get(name).unwrap_or_else(|| panic!("no metadata {name}"));
        text.parse().unwrap_or_else(|_| panic!("metadata {name}: {text}"))
    }
}

pub fn device() -> Device {
    Device::flex()
}

/// Both ways to keep weights; results must agree in both.
pub fn storages() -> [LoadOptions; 2] {
    [Storage::AsStored, Storage::Expanded].map(|s| LoadOptions::new(&device()).with_storage(s))
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    uno_core::tensor_to_vec(tensor).unwrap()
}

/// L2 norm of the difference over the L2 norm of the wanted values.
pub fn relative_error(got: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(got.len(), wanted.len(), "number of values");
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(wanted).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = wanted.iter().map(|b| square(f64::from(*b))).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// Largest difference between two values at the same place.
pub fn largest_difference(got: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(got.len(), wanted.len(), "number of values");
    got.iter().zip(wanted).map(|(a, b)| f64::from(*a - *b).abs()).fold(0.0, f64::max)
}

/// Prints what was compared and fails if `error` is above `tolerance` (or no number).
pub fn check(set: &Path, what: &str, error: f64, tolerance: f64) {
    let set = set.file_name().unwrap_or_default().to_string_lossy();
    println!("{set}: {what}: error {error:.2e} (at most {tolerance:.0e})");
    assert!(error <= tolerance, "{set}: {what}: error {error:e} is above {tolerance:e}");
}

/// Largest relative L2 error of one component in f32.
pub const COMPONENT: f64 = 1e-4;
/// Largest difference of schedules, positions, embeddings and noise.
pub const EXACT: f64 = 1e-6;

/// The transformer of a set, whichever variant it is.
pub fn dit_path(set: &Path) -> PathBuf {
    let model = set.join("model");
    ["flux1-dev.safetensors", "flux1-schnell.safetensors"]
        .map(|name| model.join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no transformer in {}", model.display()))
}

/// The rows of an integer tensor. (Integer tensors are no weights, so the weights layer does not read them.)
pub fn id_rows(file: &Path, name: &str) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let numbers: Vec<u32> = match view.dtype() {
        safetensors::Dtype::I64 => {
            view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
        }
        safetensors::Dtype::I32 => {
            view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as u32).collect()
        }
        other => panic!("{name} is {other:?}"),
    };
    numbers.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect()
}
