use super::*;
use std::collections::BTreeSet;

fn found(key: &str) -> Option<(String, Option<Rows>, bool, Half)> {
    parse(key).map(|(t, half)| (t.layer.to_string(), t.rows, t.swap_halves, half))
}

#[test]
fn keys_of_all_styles_name_our_layers() {
    use Half::{Alpha, Dora, Down, Up};
    use Rows::{AfterThree, FirstThree, Hidden};
    for (key, layer, rows, half) in [
        ("double_blocks.0.processor.qkv_lora1.down.weight", "double_blocks.0.img_attn.qkv", None, Down),
        ("double_blocks.18.processor.proj_lora2.up.weight", "double_blocks.18.txt_attn.proj", None, Up),
        ("single_blocks.3.processor.qkv_lora.up.weight", "single_blocks.3.linear1", Some(FirstThree), Up),
        ("single_blocks.3.processor.proj_lora.down.weight", "single_blocks.3.linear2", None, Down),
        (
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
            "double_blocks.0.img_attn.qkv",
            None,
            Down,
        ),
        ("lora_unet_double_blocks_12_img_mod_lin.lora_up.weight", "double_blocks.12.img_mod.lin", None, Up),
        ("lora_unet_double_blocks_1_txt_mlp_2.alpha", "double_blocks.1.txt_mlp.2", None, Alpha),
        ("lora_unet_single_blocks_3_linear1.lora_up.weight", "single_blocks.3.linear1", None, Up),
        ("lora_unet_single_blocks_3_modulation_lin.dora_scale", "single_blocks.3.modulation.lin", None, Dora),
        ("lora_unet_final_layer_linear.alpha", "final_layer.linear", None, Alpha),
        ("lora_unet_guidance_in_out_layer.alpha", "guidance_in.out_layer", None, Alpha),
        ("lora_unet_final_layer_adaLN_modulation_1.alpha", "final_layer.adaLN_modulation.1", None, Alpha),
        (
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
            "double_blocks.0.img_attn.qkv",
            Some(Hidden(0)),
            Down,
        ),
        (
            "base_model.model.transformer_blocks.2.attn.add_v_proj.lora_B.default.weight",
            "double_blocks.2.txt_attn.qkv",
            Some(Hidden(2)),
            Up,
        ),
        (
            "base_model.model.transformer.single_transformer_blocks.2.attn.to_k.lora.up.weight",
            "single_blocks.2.linear1",
            Some(Hidden(1)),
            Up,
        ),
        (
            "transformer.single_transformer_blocks.2.proj_mlp.lora_magnitude_vector.default.weight",
            "single_blocks.2.linear1",
            Some(AfterThree),
            Dora,
        ),
        ("transformer.single_transformer_blocks.2.proj_out.alpha", "single_blocks.2.linear2", None, Alpha),
        ("transformer.proj_out.lora_B.weight", "final_layer.linear", None, Up),
        (
            "lora_transformer_single_transformer_blocks_7_proj_mlp.lora_down.weight",
            "single_blocks.7.linear1",
            Some(AfterThree),
            Down,
        ),
        (
            "lora_transformer_transformer_blocks_0_ff_context_net_0_proj.alpha",
            "double_blocks.0.txt_mlp.0",
            None,
            Alpha,
        ),
        (
            "diffusion_model.double_blocks.5.img_attn.proj.lora_A.weight",
            "double_blocks.5.img_attn.proj",
            None,
            Down,
        ),
        ("single_blocks.5.linear2.lora_B.weight", "single_blocks.5.linear2", None, Up),
    ] {
        assert_eq!(found(key), Some((layer.to_owned(), rows, false, half)), "{key}");
        assert!(!is_text_encoder(key), "{key}");
    }
    let layer = "final_layer.adaLN_modulation.1".to_owned();
    assert_eq!(
        found("transformer.norm_out.linear.lora_B.weight"),
        Some((layer, None, true, Half::Up)),
        "scale before shift"
    );
}

#[test]
fn every_layer_is_found_in_every_style_and_in_no_other_place() {
    let mut seen = BTreeSet::new();
    for (theirs, ours, how) in LINEARS {
        let (theirs, ours) = (fill(theirs, &[17]), fill(ours, &[17]));
        for (name, whole) in [(&theirs, !matches!(how, Use::Part(..))), (&ours, true)] {
            for prefix in
                ["", "transformer.", "diffusion_model.", "base_model.model.", "base_model.model.transformer."]
            {
                for (end, half) in ENDS {
                    let got = found(&format!("{prefix}{name}{end}")).unwrap();
                    assert_eq!((&got.0, got.1.is_none(), got.3), (&ours, whole, half), "{prefix}{name}{end}");
                }
            }
            for (prefix, ..) in UNDERSCORED.iter().filter(|(_, said, _)| *said == Said::Nothing) {
                let key = format!("{prefix}{}.lora_up.weight", name.replace('.', "_"));
                let dotted = found(&format!("{name}.lora_up.weight"));
                assert_eq!(found(&key), dotted, "{key}");
            }
            // Names that differ only in dots and underscores would be one with underscores.
            let fits = |separator, name: &str| {
                let rows = LINEARS.iter().flat_map(|(theirs, ours, _)| [*theirs, *ours]);
                rows.filter(|pattern| matches(pattern, name, separator).is_some())
                    .collect::<BTreeSet<_>>()
                    .len()
            };
            assert_eq!((fits('.', name), fits('_', &name.replace('.', "_"))), (1, 1), "{name}");
        }
        seen.insert(ours);
    }
    // Outside of blocks, in double blocks, in single blocks.
    assert_eq!(seen.len(), 10 + 10 + 3);
}

#[test]
fn other_keys_are_nothing_known() {
    for key in [
        "",
        ".",
        ".alpha",
        "lora_unet_",
        "lora_unet_.alpha",
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_unet_double_blocks_00_img_attn_qkv.alpha",
        "lora_unet_double_blocks__img_attn_qkv.alpha",
        "lora_unet_double_blocks_0_img_attn.qkv.alpha",
        "lora_unet_double.blocks.0.img_attn.qkv.alpha",
        "double_blocks_0_img_attn_qkv.alpha",
        "double_blocks.99999999999999999999999.img_attn.qkv.alpha",
        "double_blocks.-1.img_attn.qkv.alpha",
        "double_blocks.0.img_attn.qkv.weight",
        "double_blocks.0.img_attn.qkv.lora_A..weight",
        "double_blocks.0.img_attn.qkv.lora_A.bias",
        "double_blocks.0.img_attn.qkv.lora_B.bias",
        "double_blocks.0.img_attn.qkv.lora_B.a.b.weight",
        "double_blocks.0.img_attn.qkv.down.weight",
        "double_blocks.0.img_attn.qkv.lokr_w1",
        "double_blocks.0.processor.qkv_lora3.down.weight",
        "double_blocks.0.processor.qkv_lora1.lora_down.weight",
        "single_blocks.0.processor.qkv_lora1.down.weight",
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc3.lora_down.weight",
        "lora_te1_proj_out.lora_down.weight",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoder.text_projection.lora_A.weight",
        "vision_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "lora_te3_decoder_block_0_layer_0_SelfAttention_q.lora_down.weight",
        "text_encoder_2.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.lora_A.weight",
        "single_blocks.0.linear1_mlp.lora_A.weight",
        "transformer.transformer_blocks.0.attn.to_q.é.weight",
    ] {
        assert_eq!(parse(key), None, "{key}");
    }
}

#[test]
fn keys_of_text_encoders_name_their_layers() {
    let clip = "text_model.encoder.layers.3.mlp.fc1";
    let t5 = "encoder.block.3.layer.0.SelfAttention.q";
    for (key, component, layer) in [
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.lora_down.weight", Component::Clip, clip),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1.lora_down.weight", Component::Clip, clip),
        ("lora_te1.text_model.encoder.layers.3.mlp.fc1.lora_A.weight", Component::Clip, clip),
        ("lycoris_text_model_encoder_layers_3_mlp_fc1.lora_down.weight", Component::Clip, clip),
        (
            "text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_linear_layer.down.weight",
            Component::Clip,
            clip,
        ),
        ("text_encoder.encoder.layers.3.mlp.fc1.lora_A.weight", Component::Clip, clip),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.lora_A.weight",
            Component::Clip,
            clip,
        ),
        ("clip_l.text_model.encoder.layers.3.mlp.fc1.lora_down.weight", Component::Clip, clip),
        ("base_model.model.text_model.encoder.layers.3.mlp.fc1.lora_A.weight", Component::Clip, clip),
        (
            "text_encoder.base_model.model.text_model.encoder.layers.3.mlp.fc1.lora_A.default.weight",
            Component::Clip,
            clip,
        ),
        ("lora_te2_encoder_block_3_layer_0_SelfAttention_q.lora_down.weight", Component::T5, t5),
        ("lora_te3_encoder_block_3_layer_0_SelfAttention_q.lora_down.weight", Component::T5, t5),
        ("lora_te3.encoder.block.3.layer.0.SelfAttention.q.lora_down.weight", Component::T5, t5),
        ("text_encoder_2.encoder.block.3.layer.0.SelfAttention.q.lora_A.weight", Component::T5, t5),
        (
            "text_encoder_2.base_model.model.encoder.block.3.layer.0.SelfAttention.q.lora_A.weight",
            Component::T5,
            t5,
        ),
        (
            "text_encoders.t5xxl.transformer.encoder.block.3.layer.0.SelfAttention.q.lora_A.weight",
            Component::T5,
            t5,
        ),
        ("t5xxl.encoder.block.3.layer.0.SelfAttention.q.lora_A.weight", Component::T5, t5),
        ("t5.encoder.block.3.layer.0.SelfAttention.q.lora_down.weight", Component::T5, t5),
        ("base_model.model.encoder.block.3.layer.0.SelfAttention.q.lora_A.weight", Component::T5, t5),
    ] {
        let (target, half) = parse(key).unwrap_or_else(|| panic!("{key}"));
        assert_eq!(
            (target.layer.component, target.layer.to_string()),
            (component, layer.to_owned()),
            "{key}"
        );
        assert_eq!((half, target.rows, is_text_encoder(key)), (Half::Down, None, true), "{key}");
    }
    for (layers, separator) in
        [(&CLIP_LINEARS[..], '.'), (&T5_LINEARS, '.'), (&CLIP_LINEARS, '_'), (&T5_LINEARS, '_')]
    {
        for pattern in layers {
            let layer = fill(pattern, &[11]);
            let key = match separator {
                '_' => format!("lora_te1_{}.alpha", layer.replace('.', "_")),
                _ => format!("text_encoder.{layer}.alpha"),
            };
            assert_eq!(found(&key), Some((layer, None, false, Half::Alpha)), "{key}");
        }
    }
}

#[test]
fn unknown_keys_of_text_encoders_are_told_apart() {
    for key in [
        "lora_te1_text_model_encoder_layers_0_mlp_fc3.alpha",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
        "text_encoder.text_projection.lora_A.weight",
        "base_model.model.text_model.embeddings.token_embedding.lora_A.weight",
    ] {
        assert!(is_text_encoder(key) && parse(key).is_none(), "{key}");
    }
    assert!(!is_text_encoder("lora_text") && !is_text_encoder("double_blocks.0.img_attn.qkv.lora_A.weight"));
    assert!(is_clip_g("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"));
    assert!(is_clip_g("clip_g.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"));
    assert!(!is_clip_g("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"));
}

#[test]
fn prefixes_come_off_in_any_order_and_number() {
    let layer = "transformer_blocks.0.attn.to_k";
    for prefixes in [
        "",
        "transformer.",
        "base_model.model.transformer.",
        "transformer.base_model.model.",
        "model.diffusion_model.",
        "transformer.transformer.",
        "module.transformer._orig_mod.",
        "base_model.model.base_model.model.",
    ] {
        for end in [".lora_A.weight", ".lora_A.default.weight"] {
            let key = format!("{prefixes}{layer}{end}");
            let wanted =
                ("double_blocks.0.img_attn.qkv".to_owned(), Some(Rows::Hidden(1)), false, Half::Down);
            assert_eq!(found(&key), Some(wanted), "{key}");
            assert_eq!(module(&key), layer, "{key}");
        }
    }
}

#[test]
fn comfyui_names_a_part_of_linear1() {
    for key in [
        "diffusion_model.single_blocks.4.linear1_qkv.lora_B.weight",
        "lora_unet_single_blocks_4_linear1_qkv.lora_up.weight",
    ] {
        let wanted = ("single_blocks.4.linear1".to_owned(), Some(Rows::FirstThree), false, Half::Up);
        assert_eq!(found(key), Some(wanted), "{key}");
    }
}

#[test]
fn the_style_is_that_of_the_first_known_key() {
    for (keys, wanted) in [
        (vec![], "unknown"),
        (vec!["x", "lora_te1_x.alpha"], "unknown"),
        (vec!["lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha"], "kohya"),
        (vec!["text_encoder.text_model.encoder.layers.0.mlp.fc1.alpha"], "transformers"),
        (vec!["x", "single_blocks.0.processor.qkv_lora.down.weight"], "UNO or XLabs"),
        (vec!["lora_unet_img_in.alpha"], "kohya"),
        (vec!["lora_transformer_x_embedder.alpha"], "OneTrainer"),
        (vec!["transformer.x_embedder.lora_A.weight"], "diffusers"),
        (vec!["diffusion_model.img_in.lora_A.weight"], "the checkpoint's own names (ComfyUI, ai-toolkit)"),
        (vec!["lora_unet_img_in.dora_scale"], "DoRA"),
    ] {
        assert_eq!(style(keys.iter().copied()), wanted, "{keys:?}");
    }
}
