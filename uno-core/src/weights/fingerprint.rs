//! What tells one checkpoint from another, without reading all of it.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::mapped::Window;

/// Bytes taken from each sampled place of a large file.
const BLOCK: usize = 1 << 16;
/// How many places of a large file are taken; files up to `BLOCKS * BLOCK` (16 MiB) are hashed whole.
const BLOCKS: usize = 256;

/// A SHA-256 that is computed when it is first asked for. Cloning shares it.
#[derive(Clone)]
pub(super) struct Fingerprint(Arc<Lazy>);

struct Lazy {
    of: Source,
    value: OnceLock<String>,
}

enum Source {
    Nothing,
    File { window: Window, data_start: usize },
    Shards(Vec<Fingerprint>),
}

impl Fingerprint {
    /// That of no file: empty.
    pub(super) fn none() -> Self {
        Self::new(Source::Nothing)
    }

    /// That of a file whose header ends at `data_start`.
    pub(super) fn of_file(window: Window, data_start: usize) -> Self {
        Self::new(Source::File { window, data_start })
    }

    /// That of several files together.
    pub(super) fn of_shards(shards: Vec<Self>) -> Self {
        Self::new(Source::Shards(shards))
    }

    fn new(of: Source) -> Self {
        Self(Arc::new(Lazy { of, value: OnceLock::new() }))
    }

    /// The hash, hexadecimal.
    pub(super) fn value(&self) -> &str {
        self.0.value.get_or_init(|| match &self.0.of {
            Source::Nothing => String::new(),
            Source::File { window, data_start } => {
                let hash = sampled(window.as_slice(), *data_start);
                // What was looked at is spread over the file; until the weights are used, none of it needs to be in memory.
                window.release();
                hash
            }
            Source::Shards(shards) => {
                let mut hash = Sha256::new();
                shards.iter().for_each(|shard| hash.update(shard.value()));
                hex(&hash.finalize())
            }
        })
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fingerprint").field(&self.0.value.get()).finish()
    }
}

fn sampled(bytes: &[u8], data_start: usize) -> String {
    let mut hash = Sha256::new();
    if bytes.len() <= BLOCK * BLOCKS {
        hash.update(bytes);
    } else {
        hash.update(bytes.len().to_le_bytes());
        hash.update(&bytes[..data_start]);
        let stride = (bytes.len() - BLOCK) / (BLOCKS - 1);
        for block in 0..BLOCKS {
            let start = block * stride;
            hash.update(&bytes[start..start + BLOCK]);
        }
    }
    hex(&hash.finalize())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
