//! Prompts and pictures as the transformer takes them: encoded when they are needed, or ahead of training into files, so that
//! text encoders and autoencoder need not stay in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, FloatDType, Tensor};
use image::RgbImage;
use sha2::{Digest, Sha256};
use uno_core::image::Pixels;
use uno_core::traits::{LatentCodec, TextEncoder};
use uno_core::weights::{Checkpoint, StorageDtype};

use super::buckets::{Fit, Size, fit};
use super::data::Checked;
use super::named::{NamedTensors, Values};
use crate::error::{Error, Result};
use crate::output::FileRecord;
use crate::picture::{DecodeOptions, Picture};
use crate::preprocess::preprocess_ref;

/// The models that encode.
pub struct Encoders {
    /// For prompts.
    pub text: Box<dyn TextEncoder>,
    /// For pictures.
    pub codec: Box<dyn LatentCodec>,
}

/// What an encoding depends on beside the prompt or the picture: the models' fingerprints.
#[derive(Debug, Clone, Default)]
pub struct Fingerprints {
    /// Of the text encoders' weights and vocabularies.
    pub text: String,
    /// Of the autoencoder's weights.
    pub codec: String,
}

/// One encoded prompt.
#[derive(Debug, Clone)]
pub struct EncodedPrompt {
    /// `[1, tokens, features]`.
    pub txt: Tensor<3>,
    /// `[1, features]`.
    pub vec: Tensor<2>,
}

/// Gives encodings: from files, or from the encoders.
pub struct Encodings {
    encoders: Option<Encoders>,
    folder: Option<PathBuf>,
    fingerprints: Fingerprints,
    device: Device,
    /// The format of prompts in files.
    prompts: StorageDtype,
    /// Prompts that were too long for an encoder.
    truncated: AtomicUsize,
    /// SHA-256 of picture files that were asked for.
    contents: Mutex<BTreeMap<PathBuf, String>>,
}

impl Encodings {
    /// Encodings on `device`. With a folder they are kept in files; prompts are kept in the format that is computed in.
    pub fn new(
        encoders: Encoders,
        folder: Option<PathBuf>,
        fingerprints: Fingerprints,
        device: &Device,
        dtype: FloatDType,
    ) -> Self {
        let prompts = match dtype {
            FloatDType::BF16 => StorageDtype::BF16,
            FloatDType::F16 => StorageDtype::F16,
            _ => StorageDtype::F32,
        };
        Self {
            encoders: Some(encoders),
            folder,
            fingerprints,
            device: device.clone(),
            prompts,
            truncated: AtomicUsize::new(0),
            contents: Mutex::default(),
        }
    }

    /// Lets go of the encoders: from now on everything comes from files.
    ///
    /// # Errors
    ///
    /// There is no folder with files.
    pub fn release_encoders(&mut self) -> Result<()> {
        if self.folder.is_none() {
            return Err(Error::request("cache.ahead", true, "a folder for the cache (`cache.folder`)"));
        }
        self.encoders = None;
        Ok(())
    }

    /// The encoding of a prompt.
    ///
    /// # Errors
    ///
    /// What the encoder returns; a file that cannot be read or written.
    pub fn prompt(&self, prompt: &str) -> Result<EncodedPrompt> {
        let key = hash(&["prompt", &self.fingerprints.text, &self.prompts.to_string(), prompt]);
        let named = self.cached("prompts", &key, self.prompts, || {
            let encoders = self.encoders(&format!("the prompt {prompt:?}"))?;
            let encoded = encoders.text.encode(&[prompt.to_owned()])?;
            self.truncated.fetch_add(usize::from(!encoded.truncated.is_empty()), Ordering::Relaxed);
            let mut named = NamedTensors::default();
            named.insert("txt", Values::new(encoded.txt));
            named.insert("vec", Values::new(encoded.vec));
            Ok(named)
        })?;
        let damaged = || Error::checkpoint("cache", format!("the encoding {key} is damaged; delete it"));
        let txt = named.get("txt").and_then(Values::tensor).ok_or_else(damaged)?;
        let vec = named.get("vec").and_then(Values::tensor).ok_or_else(damaged)?;
        Ok(EncodedPrompt { txt, vec })
    }

    /// How many of the prompts that were encoded so far were too long for an encoder, so that their ends were dropped.
    pub fn truncated(&self) -> usize {
        self.truncated.load(Ordering::Relaxed)
    }

    /// The latent `[1, C, h, w]` of a target, brought to the size of its bucket.
    ///
    /// # Errors
    ///
    /// A picture that cannot be read; what the codec returns; a file that cannot be read or written.
    pub fn target(&self, path: &Path, size: Size, how: Fit) -> Result<Tensor<4>> {
        self.latent(path, &format!("target {size:?} {how:?}"), |picture| Ok(fit(picture, size, how)))
    }

    /// The latent `[1, C, h, w]` of a reference, scaled as at generation.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target).
    pub fn reference(&self, path: &Path, long_side: u32) -> Result<Tensor<4>> {
        self.latent(path, &format!("reference {long_side}"), |picture| preprocess_ref(picture, long_side))
    }

    /// Encodes all that `samples` need, unless it is in files already. `advance` hears of each sample and may stop.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target) and [`prompt`](Self::prompt); what `advance` returns.
    pub fn encode_ahead(
        &self,
        samples: &[Checked],
        how: Fit,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        self.prompt("")?;
        for (i, checked) in samples.iter().enumerate() {
            self.prompt(&checked.sample.prompt)?;
            self.target(&checked.sample.target, checked.target, how)?;
            for reference in &checked.sample.references {
                self.reference(reference, checked.long_side)?;
            }
            advance(i + 1)?;
        }
        Ok(())
    }

    fn latent(
        &self,
        path: &Path,
        what: &str,
        prepare: impl FnOnce(&Picture) -> Result<RgbImage>,
    ) -> Result<Tensor<4>> {
        let key = || -> Result<String> {
            Ok(hash(&["latent", &self.fingerprints.codec, what, &self.contents_of(path)?]))
        };
        let key = if self.folder.is_some() { key()? } else { String::new() };
        let named = self.cached("latents", &key, StorageDtype::F32, || {
            let encoders = self.encoders(&format!("{}", path.display()))?;
            let picture = prepare(&Picture::open(path, &DecodeOptions::default())?)?;
            let pixels = Pixels {
                width: picture.width() as usize,
                height: picture.height() as usize,
                rgb: picture.into_raw(),
            };
            let latent = encoders.codec.encode(pixels.to_tensor(&self.device)?, None)?;
            let mut named = NamedTensors::default();
            named.insert("latent", Values::new(latent));
            Ok(named)
        })?;
        let damaged = || Error::checkpoint("cache", format!("the latent {key} is damaged; delete it"));
        named.get("latent").and_then(Values::tensor).ok_or_else(damaged)
    }

    /// SHA-256 of a picture file. It is taken once in a run: length and time do not tell a picture that was replaced, and
    /// every step asks.
    fn contents_of(&self, path: &Path) -> Result<String> {
        let mut known = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(contents) = known.get(path) {
            return Ok(contents.clone());
        }
        let contents = FileRecord::of(path)?.sha256;
        known.insert(path.to_path_buf(), contents.clone());
        Ok(contents)
    }

    fn encoders(&self, what: &str) -> Result<&Encoders> {
        self.encoders.as_ref().ok_or_else(|| {
            let reason = format!("{what} is not in the cache, and the encoders were released; start anew");
            Error::checkpoint("cache", reason)
        })
    }

    /// What is in the file of `key`, or what `encode` makes, which is then in the file.
    fn cached(
        &self,
        kind: &str,
        key: &str,
        dtype: StorageDtype,
        encode: impl FnOnce() -> Result<NamedTensors>,
    ) -> Result<NamedTensors> {
        let Some(folder) = &self.folder else { return encode() };
        // A folder per two digits keeps folders of a million encodings usable.
        let folder = folder.join(kind).join(&key[..2]);
        let path = folder.join(format!("{key}.safetensors"));
        if !path.exists() {
            let encoded = encode()?;
            std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
            encoded.write(&path, dtype, &BTreeMap::new())?;
        }
        // What was just written is read too: a first run computes with the same numbers as later ones.
        Ok(NamedTensors::read(&Checkpoint::open(&path)?, &self.device))
    }
}

fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
