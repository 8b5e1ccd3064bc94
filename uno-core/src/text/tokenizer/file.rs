//! What tokenizer files have in common: how they are read, the parts of a `tokenizer.json`, and what is refused.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, Result};

/// The largest tokenizer file in use (a `tokenizer.json` with 256,000 entries) has 34 MB.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// The largest known list (T5's 103) is far below. Each token is looked for at each place of a prompt.
const MAX_SPECIAL_TOKENS: usize = 4096;

/// The parts of a `tokenizer.json` that both kinds of model have.
#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedTokenJson>,
    #[serde(default)]
    pub(super) normalizer: Option<serde_json::Value>,
    pub(super) model: ModelJson,
}

#[derive(Deserialize)]
pub(super) struct AddedTokenJson {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
}

/// What tells the kinds of model apart; old files do not name theirs.
#[derive(Deserialize)]
pub(super) struct ModelJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    merges: Option<IgnoredAny>,
    unk_id: Option<IgnoredAny>,
}

impl ModelJson {
    pub(super) fn kind(&self) -> &str {
        match (&self.kind, &self.merges, &self.unk_id) {
            (Some(kind), ..) => kind,
            (None, Some(_), _) => "BPE",
            (None, None, Some(_)) => "Unigram",
            (None, None, None) => "nameless",
        }
    }
}

impl TokenizerJson {
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        refuse_other_kinds(path, bytes)?;
        let file: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::format(path, format!("not a tokenizer.json: {e}; download it again")))?;
        check_special(path, file.added_tokens.iter().map(|token| (token.content.as_str(), token.id)))?;
        Ok(file)
    }
}

/// The `model` of a `tokenizer.json`, once its kind is known.
pub(super) fn section<'a, T: Deserialize<'a>>(path: &Path, bytes: &'a [u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct File<T> {
        model: T,
    }
    let file: File<T> = serde_json::from_slice(bytes)
        .map_err(|e| Error::format(path, format!("the model in this tokenizer.json is damaged: {e}")))?;
    Ok(file.model)
}

/// Tokens that stand for themselves must be few and not empty, with ids that a vocabulary can have.
pub(super) fn check_special<'a>(
    path: &Path,
    tokens: impl ExactSizeIterator<Item = (&'a str, u32)>,
) -> Result<()> {
    let count = tokens.len();
    if count > MAX_SPECIAL_TOKENS {
        return Err(Error::format(
            path,
            format!("has {count} added tokens, wanted at most {MAX_SPECIAL_TOKENS}"),
        ));
    }
    for (text, id) in tokens {
        if text.is_empty() {
            return Err(Error::format(path, format!("the added token {id} has no text")));
        }
        if id > 1 << 24 {
            return Err(Error::format(path, format!("the added token {} has the id {id}", shown(text))));
        }
    }
    Ok(())
}

/// `text` in quotes, escaped and not too long for a message.
pub(super) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

/// Reads a tokenizer file, which must not be larger than any tokenizer is.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES >> 20;
        return Err(Error::format(path, format!("is larger than {limit} MiB, which no tokenizer file is")));
    }
    Ok(bytes)
}

/// Names what people have in place of a tokenizer file by accident.
pub(super) fn refuse_other_kinds(path: &Path, bytes: &[u8]) -> Result<()> {
    let reason = match bytes {
        [] => "is empty; download it again",
        [b'v', ..] if bytes.starts_with(b"version https://git-lfs") => {
            "is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository, or download the file"
        }
        [0x80, 2..=5, ..] => "is a Python pickle, which is never loaded here; wanted a tokenizer file",
        [b'P', b'K', 3, 4, ..] => "is a zip archive (a PyTorch checkpoint?); wanted a tokenizer file",
        [b'<', ..] if bytes.starts_with(b"<!DOCTYPE") || bytes.starts_with(b"<html") => {
            "is a web page, from a download that failed; download the file again"
        }
        _ => return Ok(()),
    };
    Err(Error::format(path, reason))
}
