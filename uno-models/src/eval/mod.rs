//! Evaluation: prompt lists that are generated in one go.

mod dreambench;

pub use dreambench::{Entry, Shard, read_prompts};
