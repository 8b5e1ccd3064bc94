//! Training: UNO's LoRA on a frozen transformer, and the parts of it that train any module.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | one file that says all of a run |
//! | [`trainer`] | a run as numbered steps; [`observer`]: what it tells, and how it is stopped |
//! | [`data`], [`buckets`] | lists of samples, their check and their order; sizes of targets |
//! | [`prepare`], [`encodings`] | what happens before the first step; prompts and pictures as the transformer takes them |
//! | [`batch`], [`step`], [`loss`] | what is drawn, computed and minimized |
//! | [`checkpoint`], [`pictures`], [`metrics`] | what a run leaves behind |
//! | [`lock`] | one run per output folder |
//! | [`lora`], [`memory`] | UNO's LoRA as parameters; what training it takes in memory |
//! | [`named`] | parameters, gradients and moments as tensors by name; to and from files and burn modules |
//! | [`optimizer`] | AdamW and the clipping of the global gradient norm |
//! | [`learning_rate`], [`ema`] | the learning rate of a step; the average of past parameters |
//! | [`shares`] | parts of a step side by side, each with its share of the cores |
//! | [`random`] | draws that depend on a seed and a counter alone, so that nothing has to be remembered |
//!
//! `named`, `optimizer`, `learning_rate`, `ema`, `random`, `shares` and `metrics` know nothing of UNO: they train any burn module.

pub mod batch;
pub mod buckets;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod ema;
pub mod encodings;
pub mod learning_rate;
pub mod lock;
pub mod lora;
pub mod loss;
pub mod memory;
pub mod metrics;
pub mod named;
pub mod observer;
pub mod optimizer;
pub mod pictures;
pub mod prepare;
pub mod random;
pub mod shares;
pub mod step;
pub mod trainer;

pub use config::TrainConfig;
pub use observer::{TrainEvent, TrainObserver};
pub use trainer::{Finished, Start, open_model, train};
