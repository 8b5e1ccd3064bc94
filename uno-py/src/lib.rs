//! The binary part of the Python package `uno_rs`: a thin shell around uno-core and uno-models.
//!
//! `uno_rs/_uno_rs.pyi` describes it in Python's terms and is checked against it; `uno_rs/__init__.py` is what people use.

mod components;
mod convert;
mod detach;
mod error;
mod evaluate;
mod fork;
mod pipeline;
mod synthesize;
mod train;

use pyo3::prelude::*;

/// Components and pipeline of UNO; use them through `uno_rs`.
#[pymodule]
mod _uno_rs {
    #[pymodule_export]
    use crate::components::{
        AutoEncoder, ClipTokenizer, T5Tokenizer, TextEncoder, Transformer, initial_noise, position_ids,
        preprocess, timestep_schedule,
    };
    #[pymodule_export]
    use crate::convert::{refuse_partial, unreadable};
    #[pymodule_export]
    use crate::error::{CheckpointError, NonFiniteError, UnoError};
    #[pymodule_export]
    use crate::evaluate::Scorer;
    #[pymodule_export]
    use crate::pipeline::{Pipeline, read_settings};
    #[pymodule_export]
    use crate::synthesize::synthesize;
    #[pymodule_export]
    use crate::train::train_lora;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("BACKENDS", uno_core::device::BACKENDS.to_vec())
    }
}
