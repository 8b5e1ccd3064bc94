//! cargo test --release --features wgpu --test gpu
//!
//! What a GPU computes against what the CPU computes: the parts of a model, and whole generations. Software Vulkan (Debian's
//! mesa-vulkan-drivers) will do. Without any GPU the tests say that they are skipped; with UNO_REQUIRE_GPU they fail.
//! UNO_TEST_DEVICE names another device than wgpu.
#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]

#[path = "../common/mod.rs"]
mod common;
mod components;
mod generations;

use burn::tensor::Device;

/// The GPU's name, as `--device` takes it.
fn gpu_name() -> String {
    std::env::var("UNO_TEST_DEVICE").unwrap_or_else(|_| "auto".into())
}

fn gpu() -> Option<Device> {
    match uno_core::device::open(&gpu_name()) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(std::env::var_os("UNO_REQUIRE_GPU").is_none(), "UNO_REQUIRE_GPU is set, but {error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}
