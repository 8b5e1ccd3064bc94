//! One map from our errors to Python's exceptions; the message is kept as it is.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyFileNotFoundError, PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    uno_rs,
    UnoError,
    PyException,
    "Anything that goes wrong inside uno_rs and has no closer exception."
);
create_exception!(
    uno_rs,
    CheckpointError,
    UnoError,
    "A model's file is missing, damaged, or of another model."
);
create_exception!(uno_rs, NonFiniteError, UnoError, "NaN or infinity where finite numbers must be.");

fn io(source: &std::io::Error, message: String) -> PyErr {
    match source.kind() {
        std::io::ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
        _ => PyOSError::new_err(message),
    }
}

/// The exception for an error of uno-core.
pub(crate) fn core(error: uno_core::Error) -> PyErr {
    use uno_core::Error as E;
    let message = error.to_string();
    match error {
        E::Io { source, .. } | E::Write { source, .. } => io(&source, message),
        E::Format { .. } | E::Load(_) => CheckpointError::new_err(message),
        E::Invalid { .. } | E::Tokenizer(_) | E::Device { .. } => PyValueError::new_err(message),
        E::NonFinite { .. } => NonFiniteError::new_err(message),
        E::Cancelled { .. } => PyKeyboardInterrupt::new_err(message),
        _ => UnoError::new_err(message),
    }
}

/// The exception for an error of uno-models.
pub(crate) fn models(error: uno_models::Error) -> PyErr {
    use uno_models::Error as E;
    let message = error.to_string();
    match error {
        E::Core(error) => core(error),
        E::Picture { .. } | E::Request { .. } | E::Format { .. } => PyValueError::new_err(message),
        E::Checkpoint { .. } => CheckpointError::new_err(message),
        E::Hub { .. } | E::Endpoint { .. } => PyOSError::new_err(message),
        E::Write { source, .. } | E::Read { source, .. } => io(&source, message),
        _ => UnoError::new_err(message),
    }
}
