"""Files of the benchmarks: manifests for `examples/make_checkpoint.rs`, and its checkpoints in the layouts of diffusers
and transformers. `compare.py` calls it.

    prepare.py manifests FOLDER     writes dit.json, lora.json, ae.json, t5.json, clip.json, linear.json
    prepare.py full FOLDER          the same of FLUX.1-dev's size, with UNO's LoRA of rank 512
    prepare.py tiny FOLDER          the same as small as it goes
    prepare.py layouts FOLDER       makes folders of dit.safetensors with lora.safetensors merged, ae, t5 and clip
"""

import json
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[2] / "tests/reference"
DIT = {
    "hidden": 1024, "heads": 8, "double": 3, "single": 6, "channels": 64, "context": 4096, "pooled": 768,
    "time_dim": 256, "guidance": True, "rank": 128,
}  # fmt: skip
T5 = {"vocabulary": 4096, "width": 4096, "inner": 4096, "feed_forward": 10240, "heads": 64, "layers": 2, "buckets": 32}
CLIP = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 77}  # fmt: skip


def full(folder):
    DIT.update(hidden=3072, heads=24, double=19, single=38, rank=512)
    T5.update(vocabulary=32128, layers=24)
    manifests(folder)


def tiny(folder):
    DIT.update(hidden=128, heads=2, double=1, single=2, context=64, pooled=32, rank=4)
    T5.update(vocabulary=128, width=64, inner=64, feed_forward=128, heads=2, layers=1)
    manifests(folder)


def manifests(folder):
    from uno import T5 as T5Model
    from uno import AutoEncoder, Transformer

    with torch.device("meta"):
        shapes = {
            "dit": Transformer(**{**DIT, "rank": 0}),
            "lora": Transformer(**DIT),
            "ae": AutoEncoder(),
            "t5": T5Model(**T5),
        }
    shapes = {name: {k: list(v.shape) for k, v in model.state_dict().items()} for name, model in shapes.items()}
    shapes["lora"] = {k: v for k, v in shapes["lora"].items() if ".processor." in k}
    shapes["clip"] = clip_shapes()
    shapes["linear"] = {"linear.weight": [12288, 3072], "linear.bias": [12288]}
    for name, entries in shapes.items():
        entries = {k: {"shape": v, "dtype": "F32"} for k, v in entries.items()}
        (folder / f"{name}.json").write_text(json.dumps(entries))


def clip_shapes():
    d, inner = CLIP["hidden_size"], CLIP["intermediate_size"]
    matrices = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (d, d), "self_attn.v_proj": (d, d),
                "self_attn.out_proj": (d, d), "mlp.fc1": (inner, d), "mlp.fc2": (d, inner)}  # fmt: skip
    shapes = {
        "embeddings.token_embedding.weight": [CLIP["vocab_size"], d],
        "embeddings.position_embedding.weight": [CLIP["max_position_embeddings"], d],
    }
    norms = ["final_layer_norm"]
    for i in range(CLIP["num_hidden_layers"]):
        norms += [f"encoder.layers.{i}.layer_norm1", f"encoder.layers.{i}.layer_norm2"]
        for name, shape in matrices.items():
            shapes[f"encoder.layers.{i}.{name}.weight"] = list(shape)
            shapes[f"encoder.layers.{i}.{name}.bias"] = [shape[0]]
    for name in norms:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = [d]
    return {f"text_model.{k}": v for k, v in shapes.items()}


def layouts(folder):
    sys.path.insert(0, str(TESTS))
    import models
    from safetensors.torch import load_file

    models.randomize = lambda model, *_: model.eval()  # The weights come from the files.
    read = lambda name: load_file(folder / f"{name}.safetensors")  # noqa: E731
    transformer = models.transformer(
        0, torch.float32, heads=DIT["heads"], head_dim=DIT["hidden"] // DIT["heads"], double=DIT["double"],
        single=DIT["single"], context=DIT["context"], pooled=DIT["pooled"], guidance=DIT["guidance"],
    )  # fmt: skip
    merged = models.merged(read("dit"), read("lora"))
    models.transformer_from_original(transformer, merged).save_pretrained(folder / "diffusers-dit")
    autoencoder = models.autoencoder(0, torch.float32, channels=[128, 256, 512, 512], res_blocks=2)
    models.autoencoder_from_original(autoencoder, read("ae")).save_pretrained(folder / "diffusers-ae")

    t5 = {
        "model_type": "t5", "architectures": ["T5EncoderModel"], "vocab_size": T5["vocabulary"], "d_model": T5["width"],
        "d_kv": T5["inner"] // T5["heads"], "d_ff": T5["feed_forward"], "num_heads": T5["heads"],
        "num_layers": T5["layers"], "relative_attention_num_buckets": T5["buckets"],
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }  # fmt: skip
    # eos_token_id 2 is the old convention: the end is the first position of the highest id.
    clip = {
        "model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu",
        "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1, **CLIP,
    }  # fmt: skip
    for name, config in (("t5", t5), ("clip", clip)):
        target = folder / f"transformers-{name}"
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text(json.dumps(config))
        link = target / "model.safetensors"
        link.unlink(missing_ok=True)
        link.symlink_to(folder / f"{name}.safetensors")


if __name__ == "__main__":
    {"manifests": manifests, "full": full, "tiny": tiny, "layouts": layouts}[sys.argv[1]](Path(sys.argv[2]).resolve())
