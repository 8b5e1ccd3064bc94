//! Opening a LoRA: a file, or the folder that PEFT or diffusers saved one in.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::deltas;
use crate::error::{Error, Result};
use crate::weights::Checkpoint;

/// The file of an adapter's rank and alpha, and the weights that it belongs to: PEFT's names.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_MODEL: &str = "adapter_model.safetensors";
/// What diffusers names the weights.
const DIFFUSERS_WEIGHTS: &str = "pytorch_lora_weights.safetensors";
/// Largest `adapter_config.json` that is read; usual ones have a few kB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Opens a LoRA and checks that it is one that can be read, for whatever model it may be.
///
/// `path` is a safetensors file, or a folder: with `adapter_model.safetensors` (PEFT), with `pytorch_lora_weights.safetensors`
/// (diffusers), or with a single file. Of PEFT's adapter the `adapter_config.json` beside it, which tells its alpha, is read with
/// it, and becomes a part of its fingerprint.
///
/// # Errors
///
/// As [`Checkpoint::open`] and [`deltas`]; a folder with two of the files; a configuration that cannot be read.
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
    let path = match path.as_ref() {
        folder if folder.is_dir() => weights_in(folder)?,
        file => file.to_path_buf(),
    };
    let mut checkpoint = Checkpoint::open(&path)?;
    // Only PEFT's own name says that the configuration beside it is of this file.
    let config = path.with_file_name(ADAPTER_CONFIG);
    if path.file_name().is_some_and(|name| name == ADAPTER_MODEL) && config.exists() {
        checkpoint = checkpoint.with_metadata(ADAPTER_CONFIG, read(&config)?);
    }
    deltas(&checkpoint, 1.0)?;
    Ok(checkpoint)
}

/// The file in `folder` that holds the adapter's weights, or the folder if it has none of the known names.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    let found = [ADAPTER_MODEL, DIFFUSERS_WEIGHTS].map(|name| folder.join(name)).into_iter();
    match &found.filter(|path| path.is_file()).collect::<Vec<_>>()[..] {
        [] => Ok(folder.to_path_buf()),
        [one] => Ok(one.clone()),
        _ => Err(Error::format(
            folder,
            format!("holds both {ADAPTER_MODEL} and {DIFFUSERS_WEIGHTS}; name the one that is meant"),
        )),
    }
}

fn read(config: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(config).map_err(Error::io(config))?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(config))?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        let reason = format!(
            "is too long for the configuration of an adapter; wanted at most {MAX_CONFIG_BYTES} bytes"
        );
        return Err(Error::format(config, reason));
    }
    String::from_utf8(bytes).map_err(|_| Error::format(config, "is no text in UTF-8; wanted JSON"))
}
