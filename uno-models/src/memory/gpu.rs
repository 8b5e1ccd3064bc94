//! What streaming takes on a GPU.

use uno_core::flux::FluxConfig;
use uno_core::text::T5Config;

/// Bytes of the block that runs and of the one that is uploaded meanwhile, in the compute format of `number` bytes per number;
/// `beside` numbers are those of all LoRAs.
pub(super) fn blocks_under_way(config: &FluxConfig, beside: u64, number: u64) -> u64 {
    let (hidden, mlp) = (config.hidden_size as u64, config.mlp_hidden as u64);
    let double = 2 * (4 * hidden * hidden + 2 * hidden * mlp);
    let single = (3 * hidden + mlp) * hidden + (hidden + mlp) * hidden;
    let largest = if config.depth > 0 { double.max(single) } else { single };
    // LoRAs lie on blocks of both kinds; those of two streams have about twice as much.
    let blocks = (2 * config.depth + config.depth_single_blocks).max(1) as u64;
    2 * (largest + 2 * beside / blocks) * number
}

/// The same for T5.
pub(super) fn text_blocks_under_way(config: &T5Config, number: u64) -> u64 {
    let (d, inner, ff) = (config.d_model as u64, (config.num_heads * config.d_kv) as u64, config.d_ff as u64);
    2 * (4 * d * inner + 3 * d * ff) * number
}
