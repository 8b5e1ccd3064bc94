//! Weights: tensors of checkpoint files, mapped into memory, and one strict way to load a model from them.
//!
//! ```text
//! file(s) -> Checkpoint (names, shapes, formats; no data read) -> load(|weights| Model::load(weights)) -> model
//! ```
//!
//! A model's `load` function takes each tensor that it needs by name and shape from [`Weights`]. Afterwards everything that
//! was missing, left over or of a wrong shape is reported at once, in a [`LoadReport`].

mod checkpoint;
mod dtype;
mod fingerprint;
pub(crate) mod foreign;
pub mod ggml;
mod gguf;
pub mod layout;
mod loader;
mod mapped;
mod matmul;
mod report;
mod scales;
mod split;
mod stored;
mod write;

pub use checkpoint::Checkpoint;
pub use dtype::{StorageDtype, e4m3_to_f32, f32_to_e4m3};
pub use loader::{LoadOptions, Storage, Weights, load};
pub(crate) use matmul::{Start, multiply};
pub use report::{LoadReport, Mismatch};
pub use split::gguf_parts;
pub use stored::StoredTensor;
pub use write::{TensorHeader, write};
