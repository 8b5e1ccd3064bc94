//! Training: UNO's LoRA on a frozen transformer, and the parts of it that train any module.
//!
//! | module | holds |
//! |---|---|
//! | [`named`] | parameters, gradients and moments as tensors by name; to and from files and burn modules |
//! | [`optimizer`] | AdamW and the clipping of the global gradient norm |
//! | [`learning_rate`], [`ema`] | the learning rate of a step; the average of past parameters |
//! | [`random`] | draws that depend on a seed and a counter alone, so that nothing has to be remembered |
//! | [`metrics`] | what is measured per step, to CSV, JSONL and TensorBoard |

pub mod ema;
pub mod learning_rate;
pub mod metrics;
pub mod named;
pub mod optimizer;
pub mod random;
