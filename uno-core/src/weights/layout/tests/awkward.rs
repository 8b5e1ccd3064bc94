//! Names and shapes that no good file has.

use super::*;

#[test]
fn parts_that_cannot_be_joined_keep_their_names() {
    let q = "transformer_blocks.0.attn.to_q.weight";
    let k = "transformer_blocks.0.attn.to_k.weight";
    let v = "transformer_blocks.0.attn.to_v.weight";
    let huge = usize::MAX / 2;
    for shapes in [
        vec![(q, vec![4, 4]), (v, vec![4, 4])],
        vec![(q, vec![4, 4]), (k, vec![4, 4]), (v, vec![4, 5])],
        vec![(q, vec![4, 4]), (k, vec![4]), (v, vec![4, 4])],
        vec![(q, vec![]), (k, vec![]), (v, vec![])],
        vec![(q, vec![huge, 0]), (k, vec![huge, 0]), (v, vec![huge, 0])],
    ] {
        let mut given: Names = shapes.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
        given.push(("x_embedder.bias".to_owned(), vec![4]));
        given.push(("norm_out.linear.bias".to_owned(), vec![3]));
        let recipes = flux(&given).unwrap().recipes;
        assert_eq!(recipes.len(), given.len(), "{given:?}");
        assert_eq!(recipes["img_in.bias"], take("x_embedder.bias"));
        for name in given.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "x_embedder.bias") {
            assert_eq!(recipes[name], take(name), "{given:?}");
        }
    }
}

#[test]
fn two_tensors_that_claim_one_name_are_both_kept() {
    let given = names(&[
        ("transformer.img_in.weight", &[4, 4]),
        ("img_in.weight", &[4, 4]),
        ("transformer.txt_in.weight", &[4, 4]),
        ("transformer.context_embedder.weight", &[4, 4]),
        ("transformer.x_embedder.bias", &[4]),
        // Not below the prefix, so not the transformer's.
        ("proj_out.bias", &[4]),
    ]);
    let recipes = flux(&given).unwrap().recipes;
    let wanted = [
        ("context_embedder.weight", "transformer.context_embedder.weight"),
        ("img_in.bias", "transformer.x_embedder.bias"),
        ("img_in.weight", "transformer.img_in.weight"),
        ("img_in.weight (once more)", "img_in.weight"),
        ("proj_out.bias", "proj_out.bias"),
        ("txt_in.weight", "transformer.txt_in.weight"),
    ];
    assert_eq!(recipes, wanted.map(|(name, source)| (name.to_owned(), take(source))).into());

    let [one, other] = ["t5xxl.transformer.enc.blk.0.attn_q.weight", "t5xxl.enc.blk.0.attn_q.weight"];
    let recipes = t5(&names(&[(one, &[4, 4]), (other, &[4, 4])])).unwrap().recipes;
    let wanted = [("enc.blk.0.attn_q.weight", one), (other, other)];
    assert_eq!(recipes, wanted.map(|(name, source)| (name.to_owned(), take(source))).into());
}

#[test]
fn no_tensor_is_lost_whatever_the_names() {
    let prefixes =
        ["", "", "transformer.", "diffusion_model.", "vae.", "model.diffusion_model.", "clip_l.", "x."];
    let stems = [
        "encoder.down_blocks.0.resnets.0.conv1",
        "decoder.up_blocks.7.resnets.0.conv1",
        "decoder.up_blocks.18446744073709551615.resnets.0.conv1",
        "decoder.up_blocks.99999999999999999999.resnets.0.conv1",
        "encoder.mid_block.attentions.0.to_q",
        "encoder.block.0.layer.0.SelfAttention.q",
        "enc.blk.0.attn_q",
        "enc.blk.00.attn_q",
        "text_model.encoder.layers.0.mlp.fc1",
        "transformer.text_model.embeddings.x",
    ];
    let stems: Vec<String> = LINEARS
        .iter()
        .flat_map(|(theirs, ours, _)| [fill(theirs, &[0]), fill(ours, &[0])])
        .chain(stems.map(str::to_owned))
        .collect();
    let ends = [".weight", ".bias", ".scale", "", ".", ".é"];
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for _ in 0..3000 {
        let count = 1 + below(30);
        let given: BTreeMap<String, Vec<usize>> = (0..count)
            .map(|_| {
                let name = [prefixes[below(8)], &stems[below(stems.len())], ends[below(6)]].concat();
                (name, (0..below(4)).map(|_| below(3)).collect())
            })
            .collect();
        let given: Names = given.into_iter().collect();
        for arrange in [flux, autoencoder, t5, clip] {
            if let Some(arranged) = arrange(&given) {
                assert_covered(&given, &arranged);
            }
        }
    }
}
