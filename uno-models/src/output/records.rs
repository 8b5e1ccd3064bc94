//! Records of files in settings: which file it was, and what it held.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uno_core::device::Opened;
use uno_core::weights::Checkpoint;

use crate::components::{ModelSource, PipelineOptions};
use crate::error::{Error, Result};

/// A reference picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// The file and its hash.
    #[serde(flatten)]
    pub file: FileRecord,
    /// Width as the model saw it.
    pub width: u32,
    /// Height as the model saw it.
    pub height: u32,
}

/// A file and what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

impl FileRecord {
    /// Hashes a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut hash = Sha256::new();
        let mut file = File::open(path).map_err(Error::read(path))?;
        std::io::copy(&mut file, &mut hash).map_err(Error::read(path))?;
        let sha256 = hex(&hash.finalize());
        let path = std::path::absolute(path).map_err(Error::read(path))?;
        Ok(Self { path, sha256 })
    }

    /// The record of bytes in memory.
    pub(crate) fn of_bytes(name: impl Into<PathBuf>, bytes: &[u8]) -> Self {
        Self { path: name.into(), sha256: hex(&Sha256::digest(bytes)) }
    }

    /// Fails if the file no longer holds what it held.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or that has changed.
    pub fn verify(&self) -> Result<()> {
        let now = Self::of(&self.path)?;
        if now.sha256 == self.sha256 {
            return Ok(());
        }
        Err(Error::format(
            &self.path,
            format!(
                "has changed since the picture was made: its SHA-256 is {}, was {}",
                now.sha256, self.sha256
            ),
        ))
    }
}

/// A file of the model: a checkpoint, a vocabulary, or CLIP's `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Which part.
    pub part: String,
    /// Its file.
    pub path: PathBuf,
    /// [`uno_core::weights::Checkpoint::fingerprint`]; of small files the SHA-256.
    pub fingerprint: String,
}

/// What computes: the model's files, and how they are used.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Kind of model.
    pub model_type: String,
    /// The model's files.
    pub files: Vec<ModelRecord>,
    /// Device, as [`uno_core::device::Opened`] is shown.
    pub device: String,
    /// Side of the autoencoder's tiles in latents; `None` without tiles.
    pub vae_tile: Option<usize>,
    /// Number format of the transformer: `F32`, `F16` or `BF16`.
    pub dtype: String,
    /// Factor on UNO's LoRA; `None` without one.
    pub lora_scale: Option<f64>,
    /// Whether the LoRA is merged.
    pub lora_merged: bool,
    /// Factors on further LoRAs, in order.
    pub add_lora_scales: Vec<f64>,
    /// Whether the transformer multiplies in 8-bit integers.
    pub int8: bool,
}

impl ModelInfo {
    /// Describes a pipeline that is loaded from `source` with `options`, a plan applied to them if there is one, on `device`.
    pub fn new(source: &ModelSource, options: &PipelineOptions, device: &Opened) -> Self {
        let record = |(part, checkpoint): (String, &Checkpoint)| {
            let path = checkpoint.path();
            // The embedded model lies in no folder.
            let absolute = if path.exists() { std::path::absolute(path).ok() } else { None };
            ModelRecord {
                part,
                path: absolute.unwrap_or_else(|| path.to_path_buf()),
                fingerprint: checkpoint.fingerprint().to_owned(),
            }
        };
        let small = source.text.files.iter().map(|(part, file)| ModelRecord {
            part: (*part).to_owned(),
            path: file.path.clone(),
            fingerprint: file.sha256.clone(),
        });
        Self {
            model_type: source.model_type.clone(),
            files: source.checkpoints().into_iter().map(record).chain(small).collect(),
            device: device.to_string(),
            vae_tile: options.vae_tiling.tile(),
            dtype: format!("{:?}", options.dtype),
            lora_scale: source.lora.as_ref().map(|_| options.lora_scale),
            lora_merged: options.merge_lora.is_merged(),
            add_lora_scales: source.more_loras.iter().map(|(_, scale)| *scale).collect(),
            int8: options.int8,
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
