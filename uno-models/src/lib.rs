#![doc = include_str!("../README.md")]
//!
//! # Map
//!
//! | module | holds |
//! |---|---|
//! | [`pipeline`] | one generation as numbered steps |
//! | [`request`] | what is asked, and whether it can be done |
//! | [`picture`], [`preprocess`] | references: untrusted files to pixels, scaled and cropped as Pillow does |
//! | [`unope`], [`conditioning`] | positions of references; prompts and references as the model takes them |
//! | [`encodings`] | what a warm pipeline remembers of prompts and references |
//! | [`memory`] | how a model is fitted into a bound on memory, predicted and measured |
//! | [`output`] | PNG and JSON with the settings inside |
//! | [`checkpoint`] | finding the model's files, on disk or on the hub; the embedded model |
//! | [`components`] | from files to a pipeline |
//! | [`eval`] | prompt lists and DreamBench's scores |
//! | `synthesis` | training data from the base model (feature `synthesis`) |
//! | [`tiny`] | a world of rendered pictures, and the small model trained on it |
//! | [`train`] | training of UNO's LoRA, and parts that train any module |

pub mod checkpoint;
pub mod components;
pub mod conditioning;
pub mod encodings;
mod error;
pub mod eval;
mod lists;
pub mod memory;
pub mod output;
#[cfg(feature = "vision")]
mod page;
pub mod picture;
pub mod pipeline;
pub mod preprocess;
pub mod request;
mod spelling;
#[cfg(feature = "synthesis")]
pub mod synthesis;
mod text_file;
pub mod tiny;
pub mod train;
pub mod unope;

pub use error::{EndpointFailure, Error, Result};
pub use pipeline::{Generated, Generation, UnoPipeline};
pub use request::{Defaults, Request};

/// The program in the repository's README, compiled as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct RepositoryReadme;
