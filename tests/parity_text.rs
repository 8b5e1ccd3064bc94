//! T5 and CLIP against the official implementation, from token ids.

mod common;

use burn::tensor::Tensor;
use common::*;
use uno_core::text::{ClipTextEncoder, T5Encoder};
use uno_core::weights::Checkpoint;

#[test]
fn t5_states_agree() {
    for (file, set) in each("cases/text.safetensors") {
        let cases = Cases::open(&file);
        for options in storages() {
            let t5 = T5Encoder::load(&Checkpoint::open(set.join("model/t5")).unwrap(), &options).unwrap();
            let states: Vec<_> =
                id_rows(&file, "t5_ids").iter().map(|ids| t5.forward(ids).unwrap()).collect();
            let error = relative_error(&values(Tensor::cat(states, 0)), &cases.values("t5_out"));
            check(&set, &format!("T5 states ({:?})", options.storage), error, COMPONENT);
        }
    }
}

#[test]
fn clip_states_agree() {
    for (file, set) in each("cases/text.safetensors") {
        let cases = Cases::open(&file);
        for options in storages() {
            let folder = set.join("model/clip");
            let config = folder.join("config.json");
            let clip =
                ClipTextEncoder::load(&Checkpoint::open(&folder).unwrap(), Some(&config), &options).unwrap();
            let states: Vec<_> =
                id_rows(&file, "clip_ids").iter().map(|ids| clip.forward(ids).unwrap()).collect();
            let error = relative_error(&values(Tensor::cat(states, 0)), &cases.values("clip_out"));
            check(&set, &format!("CLIP state ({:?})", options.storage), error, COMPONENT);
        }
    }
}
