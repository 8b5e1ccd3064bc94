//! The one error type of this crate.

use std::path::{Path, PathBuf};

use crate::weights::LoadReport;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in `uno-core`. Each message says what was got, what was wanted and how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, mapped or read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written; what was there before is as it was.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is damaged, lies about itself, or is of another kind than wanted.
    #[error("{path}: {reason}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found, what was wanted, and how to mend it.
        reason: String,
    },
    /// A checkpoint does not hold exactly the tensors that its model needs.
    #[error("{0}")]
    Load(Box<LoadReport>),
    /// An argument is outside of what the function takes.
    #[error("{what}: got {got}, wanted {wanted}")]
    Invalid {
        /// The argument's name.
        what: String,
        /// The value that came in.
        got: String,
        /// The values that are accepted, and the remedy where there is one.
        wanted: String,
    },
    /// NaN or infinity where finite numbers must be; going on would give a black or noisy picture.
    #[error("{what} holds {count} values that are not finite (NaN or infinity) out of {total}; {remedy}")]
    NonFinite {
        /// The tensor or stage.
        what: String,
        /// How many values are not finite.
        count: usize,
        /// How many values there are.
        total: usize,
        /// What to do about it.
        remedy: String,
    },
    /// The observer asked to stop.
    #[error("cancelled after step {step} of {total}")]
    Cancelled {
        /// Steps that were finished.
        step: usize,
        /// Steps that were wanted.
        total: usize,
    },
    /// A tokenizer's files are unusable, or a text cannot be encoded with it.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The compute device cannot be used.
    #[error("device {name}: {reason}")]
    Device {
        /// The device as the user named it.
        name: String,
        /// Why not, and what would work.
        reason: String,
    },
    /// A component that the user supplied (an implementation of one of the traits) failed.
    #[error("{component}: {source}")]
    Component {
        /// Which component.
        component: String,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// An [`Error::Format`] for `path`.
    pub fn format(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An [`Error::Io`] for `path`; made for `map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Write`] for `path`; made for `map_err(Error::write(path))`.
    pub fn write(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Write { path, source }
    }

    /// An [`Error::Component`], for implementations of this crate's traits outside of it.
    pub fn component(
        component: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Component { component: component.into(), source: source.into() }
    }

    /// An [`Error::Invalid`] argument.
    pub fn invalid(what: impl Into<String>, got: impl ToString, wanted: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), got: got.to_string(), wanted: wanted.into() }
    }
}
