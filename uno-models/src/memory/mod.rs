//! Memory: how much there is, what a generation will need, how it is made to fit, and what it took.
//!
//! [`Plan::make`] looks at the files' headers and at the size of the request, decides what stays in memory and what is
//! streamed from disk, and predicts the peak; nothing is loaded before it. What cannot fit is refused with the numbers.

mod budget;
mod gpu;
mod measure;
mod plan;

pub use budget::Budget;
pub use measure::{peak, reset_peak, resident};
pub use plan::{Geometry, Phase, Plan};

/// Bytes for people: `3.42 GiB`.
pub(crate) fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}
