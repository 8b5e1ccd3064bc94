//! Checkpoints: folders `{output}/{stage}/checkpoint-{step}` that are there whole or not at all.
//!
//! | file | holds |
//! |---|---|
//! | `dit_lora.safetensors` | the LoRA, as the official code and this project's programs load it |
//! | `dit_lora_ema.safetensors` | its moving average, if one is kept |
//! | `optimizer.safetensors` | the optimizer's moments, and exact f32 values where the files above are rounded |
//! | `state.json` | everything else that goes on: see [`State`] |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use uno_core::weights::{Checkpoint, StorageDtype};

use super::data::OrderState;
use super::ema::Ema;
use super::named::NamedTensors;
use super::optimizer::AdamW;
use crate::error::{Error, Result};
use crate::output::write_atomically;

/// The LoRA's file; the official name.
pub const LORA: &str = "dit_lora.safetensors";
/// The moving average's file; the official name.
pub const LORA_EMA: &str = "dit_lora_ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// How the names of folders begin that are being written.
const UNFINISHED: &str = ".checkpoint-";
/// Names of exact values in the optimizer's file.
const EXACT: &str = "param.";
const EXACT_EMA: &str = "ema.";

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of this file.
    pub version: u32,
    /// The stage's name.
    pub stage: String,
    /// Steps done in the stage.
    pub step: u64,
    /// Samples drawn in the whole run. All randomness is a function of the seed and this number.
    pub samples: u64,
    /// The seed.
    pub seed: u64,
    /// How far the data has been gone through.
    pub order: OrderState,
    /// [`TrainConfig::hash`](super::config::TrainConfig::hash) of the configuration.
    pub config: String,
    /// Hash of the samples that the stage trains on: prompts, file names and sizes.
    pub data: String,
    /// Hash of what is in their pictures; checkpoints of earlier versions do not have it.
    #[serde(default)]
    pub contents: Option<String>,
    /// Fingerprint of the transformer.
    pub model: String,
}

/// Version of [`State`] that is written.
pub const VERSION: u32 = 1;

/// What trains, with its optimizer.
pub struct Training {
    /// The LoRA.
    pub parameters: NamedTensors,
    /// The optimizer.
    pub optimizer: AdamW,
    /// The moving average, if one is kept.
    pub ema: Option<Ema>,
}

/// The folder of a checkpoint.
pub fn folder(output: &Path, stage: &str, step: u64) -> PathBuf {
    output.join(stage).join(format!("checkpoint-{step}"))
}

/// Writes a checkpoint.
///
/// # Errors
///
/// Something cannot be written; there is then no folder of that name, or the one that was there before.
pub fn write(folder: &Path, training: &Training, state: &State, dtype: StorageDtype) -> Result<()> {
    let parent = folder.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Error::write(parent))?;
    let temporary =
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent).map_err(Error::write(folder))?;
    let inside = temporary.path();
    let metadata = BTreeMap::from([
        ("software".to_owned(), concat!("uno-rs ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("stage".to_owned(), state.stage.clone()),
        ("step".to_owned(), state.step.to_string()),
    ]);
    training.parameters.write(&inside.join(LORA), dtype, &metadata)?;
    let mut optimizer = training.optimizer.state();
    if let Some(ema) = &training.ema {
        ema.parameters().write(&inside.join(LORA_EMA), dtype, &metadata)?;
    }
    if dtype != StorageDtype::F32 {
        optimizer.add(training.parameters.prefixed(EXACT));
        optimizer
            .add(training.ema.as_ref().map(|ema| ema.parameters().prefixed(EXACT_EMA)).unwrap_or_default());
    }
    optimizer.write(&inside.join(OPTIMIZER), StorageDtype::F32, &metadata)?;
    let json = serde_json::to_string_pretty(state).unwrap_or_default();
    write_atomically(&inside.join(STATE), |out| writeln!(out, "{json}"))?;
    // Temporary folders are private; this one is to have the permissions of any other.
    #[cfg(unix)]
    if let Ok(meta) = std::fs::metadata(parent) {
        let _ = std::fs::set_permissions(inside, meta.permissions());
    }
    if folder.exists() {
        // Made by an earlier run that was stopped after it and now does the same steps again.
        std::fs::remove_dir_all(folder).map_err(Error::write(folder))?;
    }
    std::fs::rename(temporary.keep(), folder).map_err(Error::write(folder))
}

/// Reads the state of a checkpoint.
///
/// # Errors
///
/// A folder that is no checkpoint, or one of another version.
pub fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join(STATE);
    let text = std::fs::read(&path).map_err(Error::read(&path))?;
    let state: State = serde_json::from_slice(&text).map_err(|e| {
        Error::format(&path, format!("is no state of a training run: {e}; wanted a checkpoint's state.json"))
    })?;
    if state.version != VERSION {
        return Err(Error::format(&path, format!("has version {}, wanted {VERSION}", state.version)));
    }
    Ok(state)
}

/// Reads what trains. `like` has the names and shapes that are wanted, and an optimizer with the right constants.
///
/// # Errors
///
/// Files that are missing or damaged, or that belong to another model or rank.
pub fn read(folder: &Path, state: &State, like: &mut Training, device: &Device) -> Result<()> {
    let open = |name: &str| Checkpoint::open(folder.join(name));
    let path = folder.join(OPTIMIZER);
    let optimizer = NamedTensors::read(&open(OPTIMIZER)?, device);
    let exact = |prefix: &str, file: &str| -> Result<NamedTensors> {
        let exact = optimizer.below(prefix);
        let values = if exact.is_empty() { NamedTensors::read(&open(file)?, device) } else { exact };
        values.check_like(&like.parameters, &folder.join(file))?;
        Ok(values)
    };
    let parameters = exact(EXACT, LORA)?;
    let average = like.ema.is_some().then(|| exact(EXACT_EMA, LORA_EMA)).transpose()?;
    like.optimizer.restore(&optimizer, state.step, &path)?;
    like.parameters = parameters;
    like.ema = like.ema.take().zip(average).map(|(ema, average)| ema.with_average(average));
    Ok(())
}

/// All checkpoints of a stage, by step, from the first to the last.
pub fn list(output: &Path, stage: &str) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(output.join(stage)).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            entry.path().join(STATE).is_file().then(|| (step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Folders in the output folder that hold checkpoints of a stage that is not among `stages`.
pub fn other_stages(output: &Path, stages: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut others: Vec<String> =
        names.filter(|name| !stages.contains(&name.as_str()) && !list(output, name).is_empty()).collect();
    others.sort();
    others
}

/// The last checkpoint of the last stage that has one.
pub fn latest<'a>(output: &Path, stages: impl DoubleEndedIterator<Item = &'a str>) -> Option<PathBuf> {
    stages.rev().find_map(|stage| Some(list(output, stage).pop()?.1))
}

/// Removes what was left by a run that was killed while it wrote a checkpoint.
///
/// # Errors
///
/// A folder cannot be removed.
pub fn remove_unfinished(output: &Path, stage: &str) -> Result<()> {
    for entry in std::fs::read_dir(output.join(stage)).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
            std::fs::remove_dir_all(entry.path()).map_err(Error::write(entry.path()))?;
        }
    }
    Ok(())
}

/// Removes all but the last `keep` checkpoints of a stage.
///
/// # Errors
///
/// A folder cannot be removed.
pub fn prune(output: &Path, stage: &str, keep: usize) -> Result<()> {
    let all = list(output, stage);
    for (_, folder) in &all[..all.len().saturating_sub(keep)] {
        std::fs::remove_dir_all(folder).map_err(Error::write(folder))?;
    }
    Ok(())
}
