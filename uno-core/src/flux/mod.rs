//! The FLUX.1 diffusion transformer ("DiT"): rectified-flow velocity of latent tokens, given text and references.
//!
//! After `black-forest-labs/flux` (`model.py`, `modules/layers.py`, `math.py`). Field names equal checkpoint keys.

mod blocks;
mod config;
mod first_block_cache;
mod in_place;
mod joint;
mod model;
mod modulation;
mod reference_cache;
mod rope;
mod run;
mod training;

pub use blocks::{DoubleStreamBlock, SelfAttention, SingleStreamBlock};
pub use config::FluxConfig;
pub(crate) use model::round_to;
pub use model::{Flux, timestep_embedding};
pub use rope::{PositionId, Rope};
