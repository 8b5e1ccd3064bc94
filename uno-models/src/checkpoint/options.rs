//! What a caller may say about where a model's files are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::files::{ModelType, Part};

/// Where to look for a model's files. The default names nothing and allows no download.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// A folder that holds the whole model, or most of it; its layout is in the [module's documentation](super).
    pub model_dir: Option<PathBuf>,
    /// Which model. `None` takes what the model folder holds, or what the environment variables name, else `flux-dev`.
    /// Where a folder holds several, this decides.
    pub model_type: Option<ModelType>,
    /// The diffusion transformer: a file, an index of shards, or a folder with one of the two.
    pub dit: Option<PathBuf>,
    /// The autoencoder: a file, or a folder with it.
    pub ae: Option<PathBuf>,
    /// T5: a folder, or its weights as a file or an index of shards; the tokenizer is then looked for beside it.
    pub t5: Option<PathBuf>,
    /// The vocabulary of T5 (`spiece.model`, `tokenizer.json`, or a folder with one of them), where it is not beside the weights.
    pub t5_tokenizer: Option<PathBuf>,
    /// CLIP: as [`t5`](Self::t5).
    pub clip: Option<PathBuf>,
    /// The vocabulary of CLIP (`tokenizer.json`, or a folder with that or with `vocab.json` and `merges.txt`), where it is not
    /// beside the weights.
    pub clip_tokenizer: Option<PathBuf>,
    /// UNO's LoRA: a file, or a folder with it (such as a checkpoint of a training run).
    pub lora: Option<PathBuf>,
    /// Whether a LoRA is wanted. Off gives plain FLUX, and whatever LoRA lies about is left alone. Default: on.
    pub use_lora: bool,
    /// Whether what is missing may come from the hub. Default: off, so nothing uses the network unasked.
    pub allow_download: bool,
    /// No network, whatever else is said; files in the hub cache are still used. `HF_HUB_OFFLINE=1` does the same.
    pub offline: bool,
    /// Where environment variables are looked up.
    pub environment: Environment,
    /// How the hub and its cache are reached.
    pub hub: HubOptions,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self {
            model_dir: None,
            model_type: None,
            dit: None,
            ae: None,
            t5: None,
            t5_tokenizer: None,
            clip: None,
            clip_tokenizer: None,
            lora: None,
            use_lora: true,
            allow_download: false,
            offline: false,
            environment: Environment::process(),
            hub: HubOptions::default(),
        }
    }
}

impl CheckpointOptions {
    /// Options for a model folder, everything else as by default.
    pub fn in_folder(model_dir: impl Into<PathBuf>) -> Self {
        Self { model_dir: Some(model_dir.into()), ..Self::default() }
    }

    /// Whether an option or one of the environment variables names any part of a model. A program with a model of its own
    /// uses that one if this is `false`.
    pub fn names_anything(&self) -> bool {
        self.model_dir.is_some()
            || Part::ALL.into_iter().any(|part| {
                self.explicit(part).is_some()
                    || ModelType::ALL
                        .into_iter()
                        .any(|t| part.variables(t).iter().any(|name| self.environment.path(name).is_some()))
            })
    }

    /// The option that names `part`.
    pub(super) fn explicit(&self, part: Part) -> Option<&Path> {
        match part {
            Part::Dit => &self.dit,
            Part::Autoencoder => &self.ae,
            Part::T5 => &self.t5,
            Part::T5Tokenizer => &self.t5_tokenizer,
            Part::Clip => &self.clip,
            Part::ClipTokenizer => &self.clip_tokenizer,
            Part::Lora => &self.lora,
        }
        .as_deref()
    }

    /// Whether the network is ruled out, by the option or the environment.
    pub(super) fn is_offline(&self) -> bool {
        self.offline
            || self.environment.flag("HF_HUB_OFFLINE")
            || self.environment.flag("TRANSFORMERS_OFFLINE")
    }
}

/// How the Hugging Face hub and its cache are reached.
#[derive(Clone)]
pub struct HubOptions {
    /// The hub's address. Default: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// The access token, for gated repositories. Default: `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file that
    /// `hf auth login` writes (`HF_TOKEN_PATH`, else `$HF_HOME/token`). It is sent to the endpoint only.
    pub token: Option<String>,
    /// The cache, the folder with `models--owner--name` in it. Default: `HF_HUB_CACHE`, else `$HF_HOME/hub`, else
    /// `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// How many times in a row a download may fail without a single new byte before it is given up. Default: 5.
    pub retries: u32,
    /// Wait before the first retry; it doubles each time, up to 30 s. Default: 1 s.
    pub backoff: Duration,
    /// How long the other side may be silent before the connection counts as lost. Default: 60 s.
    pub stall_timeout: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            token: None,
            cache_dir: None,
            retries: 5,
            backoff: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for HubOptions {
    // The token is a secret: it must not reach a log through `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "<secret>"))
            .field("cache_dir", &self.cache_dir)
            .field("retries", &self.retries)
            .field("backoff", &self.backoff)
            .field("stall_timeout", &self.stall_timeout)
            .finish()
    }
}
