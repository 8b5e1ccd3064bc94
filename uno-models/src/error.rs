//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in `uno-models`. Each message says what was got, what was wanted and how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A component failed; the message is the component's own.
    #[error(transparent)]
    Core(#[from] uno_core::Error),
    /// A reference picture cannot be used.
    #[error("picture {name}: {reason}")]
    Picture {
        /// The picture's file name, or a description of where it came from.
        name: String,
        /// What was found, what was wanted, and how to mend it.
        reason: String,
    },
    /// A setting of the request is outside of what can be computed.
    #[error("{field}: got {got}, wanted {wanted}")]
    Request {
        /// The field of the request.
        field: String,
        /// The value that came in.
        got: String,
        /// The values that are accepted.
        wanted: String,
    },
    /// A part of the model was not found, or is not what it should be.
    #[error("{part}: {reason}")]
    Checkpoint {
        /// Which part (DiT, autoencoder, T5, CLIP, LoRA).
        part: String,
        /// Where it was looked for, and how to supply it.
        reason: String,
    },
    /// The Hugging Face hub refused, failed or may not be asked.
    #[error("{repo}/{file}: {reason}")]
    Hub {
        /// The repository.
        repo: String,
        /// The file in it.
        file: String,
        /// What happened, and how to mend it.
        reason: String,
    },
    /// An endpoint (a language model's) refused, failed or gave no usable answer.
    #[error("{url}: {reason}")]
    Endpoint {
        /// Its address.
        url: String,
        /// What happened.
        reason: String,
        /// What that says of the next question.
        kind: EndpointFailure,
    },
    /// A result could not be written; nothing was left half-written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file (settings, prompt list, sidecar) is not what it should be.
    #[error("{path}: {reason}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found, what was wanted, and how to mend it.
        reason: String,
    },
}

/// What the failure of an endpoint says of the next question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointFailure {
    /// It refuses: asking again, whatever it is, would be of no use.
    Refused,
    /// It did not answer, or only with errors that pass.
    Unreachable,
    /// It answers, but nothing that can be read to this question.
    Unreadable,
}

impl Error {
    /// An [`Error::Picture`].
    pub fn picture(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Picture { name: name.into(), reason: reason.into() }
    }

    /// An [`Error::Request`].
    pub fn request(field: impl Into<String>, got: impl ToString, wanted: impl Into<String>) -> Self {
        Self::Request { field: field.into(), got: got.to_string(), wanted: wanted.into() }
    }

    /// An [`Error::Checkpoint`].
    pub fn checkpoint(part: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Checkpoint { part: part.into(), reason: reason.into() }
    }

    /// An [`Error::Read`] for `path`; made for `map_err(Error::read(path))`.
    pub fn read(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Read { path, source }
    }

    /// An [`Error::Write`] for `path`; made for `map_err(Error::write(path))`.
    pub fn write(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Write { path, source }
    }

    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }
}
