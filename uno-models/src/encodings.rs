//! What a warm pipeline remembers: encodings of prompts and references, by the hash of their content.
//!
//! A second generation with the same prompt or the same references skips their encoders. What was not used for longest is
//! forgotten first, so that a pipeline that runs for days takes no more memory than on its first one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor};
use image::RgbImage;
use sha2::{Digest, Sha256};
use uno_core::traits::{LatentCodec, TextEncoder, TextEncoding, Truncation};

use crate::conditioning::encode_reference;
use crate::error::Result;

/// Bytes of encoded prompts that are kept; one takes 8.4 MB at full size in f32.
pub const PROMPT_BYTES: usize = 64 << 20;
/// Bytes of encoded references that are kept; one of 512x512 takes 0.26 MB.
pub const REFERENCE_BYTES: usize = 16 << 20;

type Key = [u8; 32];

/// One prompt as the velocity model takes it.
#[derive(Clone)]
struct EncodedPrompt {
    txt: Tensor<3>,
    vec: Tensor<2>,
    truncated: Vec<Truncation>,
}

/// Encodings of earlier generations.
pub(crate) struct Encodings {
    prompts: Mutex<Recent<EncodedPrompt>>,
    references: Mutex<Recent<Tensor<4>>>,
}

impl Default for Encodings {
    fn default() -> Self {
        Self {
            prompts: Mutex::new(Recent::new(PROMPT_BYTES)),
            references: Mutex::new(Recent::new(REFERENCE_BYTES)),
        }
    }
}

impl Encodings {
    /// Whether all prompts are remembered.
    pub(crate) fn know_prompts(&self, prompts: &[String]) -> bool {
        let mut known = self.prompts.lock().unwrap_or_else(PoisonError::into_inner);
        prompts.iter().all(|prompt| known.get(&prompt_key(prompt)).is_some())
    }

    /// Encodes those prompts that are not remembered, each once.
    ///
    /// # Errors
    ///
    /// What the encoder returns.
    pub(crate) fn prompts(&self, encoder: &dyn TextEncoder, prompts: &[String]) -> Result<TextEncoding> {
        let keys: Vec<Key> = prompts.iter().map(|prompt| prompt_key(prompt)).collect();
        let mut found: Vec<Option<EncodedPrompt>> = {
            let mut known = self.prompts.lock().unwrap_or_else(PoisonError::into_inner);
            keys.iter().map(|key| known.get(key)).collect()
        };
        let mut unknown: Vec<usize> = Vec::new();
        for i in (0..prompts.len()).filter(|&i| found[i].is_none()) {
            if !unknown.iter().any(|&j| keys[j] == keys[i]) {
                unknown.push(i);
            }
        }
        if !unknown.is_empty() {
            let texts: Vec<String> = unknown.iter().map(|&i| prompts[i].clone()).collect();
            let encoded = encoder.encode(&texts)?;
            for (row, &i) in unknown.iter().enumerate() {
                let mine = encoded.truncated.iter().filter(|t| t.prompt == row);
                let one = EncodedPrompt {
                    txt: encoded.txt.clone().narrow(0, row, 1),
                    vec: encoded.vec.clone().narrow(0, row, 1),
                    truncated: mine.cloned().collect(),
                };
                for j in (0..prompts.len()).filter(|&j| keys[j] == keys[i]) {
                    found[j] = Some(one.clone());
                }
                let bytes = bytes_of(&one.txt) + bytes_of(&one.vec);
                self.prompts.lock().unwrap_or_else(PoisonError::into_inner).put(keys[i], one, bytes);
            }
        }
        let found: Vec<EncodedPrompt> = found.into_iter().flatten().collect();
        let truncated = found.iter().enumerate().flat_map(|(i, one)| {
            one.truncated.iter().map(move |truncation| Truncation { prompt: i, ..truncation.clone() })
        });
        let truncated = truncated.collect();
        let (txt, vec) = found.into_iter().map(|one| (one.txt, one.vec)).unzip();
        Ok(TextEncoding { txt: Tensor::cat(txt, 0), vec: Tensor::cat(vec, 0), truncated })
    }

    /// Whether all references are remembered.
    pub(crate) fn know_references(&self, references: &[RgbImage], seed: Option<u64>) -> bool {
        let mut known = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = references.iter().enumerate();
        all.all(|(k, picture)| known.get(&reference_key(picture, seed_of(seed, k))).is_some())
    }

    /// Encodes those preprocessed references that are not remembered, each to a latent `[1, C, h, w]`. With `seed` they are
    /// drawn, reference k with `seed + k`.
    ///
    /// # Errors
    ///
    /// What the codec returns.
    pub(crate) fn references(
        &self,
        codec: &dyn LatentCodec,
        references: &[RgbImage],
        device: &Device,
        seed: Option<u64>,
    ) -> Result<Vec<Tensor<4>>> {
        let encode = |(k, picture): (usize, &RgbImage)| {
            let seed = seed_of(seed, k);
            let key = reference_key(picture, seed);
            let known = self.references.lock().unwrap_or_else(PoisonError::into_inner).get(&key);
            if let Some(latent) = known {
                return Ok(latent);
            }
            let latent = encode_reference(codec, picture, device, seed)?;
            let mut known = self.references.lock().unwrap_or_else(PoisonError::into_inner);
            known.put(key, latent.clone(), bytes_of(&latent));
            Ok(latent)
        };
        references.iter().enumerate().map(encode).collect()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.prompts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.references.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn seed_of(seed: Option<u64>, k: usize) -> Option<u64> {
    seed.map(|seed| seed.wrapping_add(k as u64))
}

fn prompt_key(prompt: &str) -> Key {
    Sha256::digest(prompt.as_bytes()).into()
}

fn reference_key(picture: &RgbImage, seed: Option<u64>) -> Key {
    let mut hash = Sha256::new();
    for number in [u64::from(picture.width()), u64::from(picture.height())] {
        hash.update(number.to_le_bytes());
    }
    // Nine bytes in any case, so that no seed reads as pixels.
    hash.update([u8::from(seed.is_some())]);
    hash.update(seed.unwrap_or(0).to_le_bytes());
    hash.update(picture.as_raw());
    hash.finalize().into()
}

fn bytes_of<const D: usize>(tensor: &Tensor<D>) -> usize {
    tensor.dims().iter().product::<usize>() * DType::size(&tensor.dtype())
}

/// A bounded memory that forgets what was not used for longest.
struct Recent<T> {
    /// The least recently used first.
    entries: VecDeque<(Key, T, usize)>,
    bytes: usize,
    limit: usize,
}

impl<T: Clone> Recent<T> {
    fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, limit }
    }

    fn get(&mut self, key: &Key) -> Option<T> {
        let at = self.entries.iter().position(|(k, ..)| k == key)?;
        let entry = self.entries.remove(at)?;
        let value = entry.1.clone();
        self.entries.push_back(entry);
        Some(value)
    }

    /// Remembers `value`, unless it alone is more than all that may be remembered.
    fn put(&mut self, key: Key, value: T, bytes: usize) {
        if bytes > self.limit || self.get(&key).is_some() {
            return;
        }
        while self.bytes + bytes > self.limit
            && let Some((_, _, freed)) = self.entries.pop_front()
        {
            self.bytes -= freed;
        }
        self.bytes += bytes;
        self.entries.push_back((key, value, bytes));
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_is_forgotten_first() {
        let key = |i| [i; 32];
        let mut recent = Recent::new(10);
        for i in 0..3 {
            recent.put(key(i), i, 3);
        }
        assert_eq!(recent.get(&key(0)), Some(0));
        recent.put(key(3), 3, 4);
        assert_eq!([0, 1, 2, 3].map(|i| recent.get(&key(i))), [Some(0), None, Some(2), Some(3)]);
        recent.put(key(4), 4, 11);
        assert_eq!((recent.get(&key(4)), recent.bytes), (None, 10));
        recent.clear();
        assert_eq!((recent.get(&key(0)), recent.bytes), (None, 0));
    }

    #[test]
    fn size_and_seed_are_parts_of_what_a_reference_is() {
        let (wide, tall) = (RgbImage::new(32, 16), RgbImage::new(16, 32));
        let keys = [
            reference_key(&wide, None),
            reference_key(&tall, None),
            reference_key(&wide, Some(0)),
            reference_key(&wide, Some(1)),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key));
        }
        assert_eq!(keys[0], reference_key(&RgbImage::new(32, 16), None));
    }
}
