"""Checks the mapping in models.py on golden values of the official implementation.

    python tests/reference/validate_models.py ../shared/golden/tiny
"""

import json
import sys
from pathlib import Path

import torch
from models import (
    autoencoder,
    autoencoder_from_original,
    merged,
    transformer,
    transformer_from_original,
)  # fmt: skip
from run import run_transformer
from safetensors.torch import load_file, safe_open


def error(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def main(golden):
    base = load_file(golden / "model/flux1-dev.safetensors")
    count = lambda prefix: len({k.split(".")[1] for k in base if k.startswith(prefix)})  # noqa: E731
    hidden = base["img_in.weight"].shape[0]
    head_dim = base["double_blocks.0.img_attn.norm.query_norm.scale"].shape[0]
    shape = dict(
        heads=hidden // head_dim, head_dim=head_dim, double=count("double_blocks"), single=count("single_blocks"),
        context=base["txt_in.weight"].shape[1], pooled=base["vector_in.in_layer.weight"].shape[1], guidance=True,
    )  # fmt: skip
    both = merged(base, load_file(golden / "model/dit_lora.safetensors"))
    with safe_open(golden / "cases/dit.safetensors", "pt") as file:
        cases = json.loads(file.metadata()["cases"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    for weights, out in ((base, "out_base"), (both, "out_lora")):
        model = transformer_from_original(transformer(0, torch.float32, **shape), weights)
        for case in cases:
            get = lambda name: tensors[f"{case['case']}.{name}"]  # noqa: B023, E731
            refs = [get(f"ref{i}") for i in range(case["refs"])]
            got = run_transformer(model, get("latent"), refs, get("txt"), get("vec"), get("t"), get("guidance"), case["pe"])
            print(f"DiT {out} case {case['case']}: {error(got, get(out)):.1e}")
    ae = load_file(golden / "model/ae.safetensors")
    levels = len({k.split(".")[2] for k in ae if k.startswith("encoder.down.")})
    channels = [ae[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    blocks = len({k.split(".")[4] for k in ae if k.startswith("encoder.down.0.block.")})
    model = autoencoder_from_original(autoencoder(0, torch.float32, channels=channels, res_blocks=blocks), ae)
    cases = load_file(golden / "cases/ae.safetensors")
    with torch.no_grad():
        print(f"AE moments: {error(model.encoder(cases['image']), cases['moments']):.1e}")
        print(f"AE decoded: {error(model.decoder(cases['z'] / 0.3611 + 0.1159), cases['decoded']):.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
