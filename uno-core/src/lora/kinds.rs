//! Adapters that are no plain LoRA, told by the names of their tensors.

use crate::lora_keys;

/// A kind of adapter that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// What follows "is no plain LoRA for FLUX but".
    pub(super) name: &'static str,
    /// What can be had of it all the same.
    pub(super) remedy: &'static str,
}

/// Merged, any adapter is an ordinary transformer.
pub(super) const MERGE: &str = "merge it into the transformer with the program that made it, and take the merged transformer, or take a plain \
                     LoRA";
const OTHER: &str = "take a LoRA that adapts FLUX.1's own layers";

/// What stands in names, and of which kind that is. The first that fits counts.
///
/// After LyCORIS' modules, PEFT's tuners and ComfyUI's `weight_adapter`.
const MARKS: [(&[&str], Kind); 17] = [
    (&[".lokr_"], Kind { name: "LoKr", remedy: MERGE }),
    (&[".hada_"], Kind { name: "LoHa", remedy: MERGE }),
    (&[".boft_"], Kind { name: "BOFT", remedy: MERGE }),
    (&[".oft_", "oft_unet_"], Kind { name: "OFT", remedy: MERGE }),
    (
        &[".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight", ".bm.weight", ".glora_"],
        Kind { name: "GLoRA", remedy: MERGE },
    ),
    (&[".ia3_", ".on_input"], Kind { name: "IA3", remedy: MERGE }),
    (&[".lora_E", ".ranknum"], Kind { name: "AdaLoRA", remedy: MERGE }),
    (&[".vera_"], Kind { name: "VeRA", remedy: MERGE }),
    (
        &[
            ".vblora_",
            ".hra_u",
            ".fourierft_",
            ".bone_",
            ".miss_",
            ".shira_",
            ".randlora_",
            ".road_",
            ".c3a_",
            ".waveft_",
        ],
        Kind { name: "another kind of PEFT's", remedy: MERGE },
    ),
    (&[".lora_mid."], Kind { name: "LoCon with a core between its matrices", remedy: MERGE }),
    (
        &[".diff", ".diff_b", ".set_weight", ".w_norm", ".b_norm"],
        Kind { name: "whole differences of weights (.diff, .diff_b)", remedy: MERGE },
    ),
    (
        &[".lora_A.bias", ".lora_B.bias", ".lora_down.bias", ".lora_up.bias", ".reshape_weight"],
        Kind { name: "one with biases or wider layers", remedy: MERGE },
    ),
    (&[".lora_embedding_"], Kind { name: "one on embeddings", remedy: OTHER }),
    (&["ip_adapter", "ip-adapter"], Kind { name: "an IP-Adapter", remedy: OTHER }),
    (&["controlnet"], Kind { name: "a ControlNet", remedy: OTHER }),
    (
        &["bundle_emb.", "emb_params", "string_to_param"],
        Kind { name: "an embedding of new words (textual inversion)", remedy: OTHER },
    ),
    (
        &["down_blocks", "up_blocks", "input_blocks", "output_blocks", "mid_block", "middle_block"],
        Kind { name: "one for the U-Net of Stable Diffusion", remedy: OTHER },
    ),
];

/// The kind that a tensor is of, by its name and shape; `None` if that tells nothing.
pub(super) fn kind(key: &str, shape: &[usize]) -> Option<Kind> {
    if lora_keys::is_clip_g(key) {
        return Some(Kind { name: "one for CLIP-G, a text encoder that FLUX has not", remedy: OTHER });
    }
    // LyCORIS names the blocks of both kinds alike; those of BOFT have one dimension more.
    if key.contains(".oft_blocks") && shape.len() == 4 {
        return Some(Kind { name: "BOFT", remedy: MERGE });
    }
    // The short one must not be found inside of longer words.
    let fits = |mark: &&str| match *mark {
        ".diff" => key.ends_with(".diff"),
        mark => key.contains(mark),
    };
    MARKS.iter().find(|(marks, _)| marks.iter().any(fits)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_what_their_tools_write() {
        for (key, name) in [
            ("lycoris_single_transformer_blocks_1_proj_out.lokr_w1_a", "LoKr"),
            ("lora_unet_single_blocks_0_linear1.hada_w2_b", "LoHa"),
            ("oft_unet_double_blocks_1_img_attn_proj.oft_blocks", "OFT"),
            ("base_model.model.transformer_blocks.0.attn.to_q.oft_R.weight", "OFT"),
            ("transformer_blocks.0.attn.to_q.boft_R.default", "BOFT"),
            ("lycoris_double_blocks_0_img_attn_proj.b2.weight", "GLoRA"),
            ("lycoris_double_blocks_0_img_attn_proj.on_input", "IA3"),
            ("transformer_blocks.0.attn.to_q.ia3_l", "IA3"),
            ("transformer_blocks.0.attn.to_q.lora_E.default", "AdaLoRA"),
            ("diffusion_model.img_in.diff_b", "differences"),
            ("diffusion_model.img_in.diff", "differences"),
            ("lora_unet_img_in.lora_mid.weight", "core"),
            ("transformer.x_embedder.lora_B.bias", "biases"),
            ("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", "IP-Adapter"),
            ("bundle_emb.word.clip_l", "textual inversion"),
            ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "Stable Diffusion"),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "CLIP-G"),
            ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "CLIP-G"),
        ] {
            let found = kind(key, &[4, 4]);
            assert!(found.is_some_and(|kind| kind.name.contains(name)), "{key}: {found:?}");
        }
        assert_eq!(kind("x.oft_blocks", &[2, 4, 8, 8]).unwrap().name, "BOFT");
        for key in ["", "what", "img_in.weight", "diffusion_model.img_in.lora_A.weight", "a.different"] {
            assert_eq!(kind(key, &[4, 4]), None, "{key}");
        }
    }
}
