"""Makes tests/fixtures/vision: small image encoders of random weights in the layouts of transformers, timm and open_clip, and
what these libraries compute with them.

    python tests/reference/make_vision.py [--out tests/fixtures/vision]

With the versions in requirements-vision.txt.
"""

import argparse
import json
import shutil
from pathlib import Path

import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scores import Scorer, clip_pixels, imagenet
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# The first two were drawn by the renderer of uno-models/src/tiny/world; they are not made anew.
PICTURES = ("tests/fixtures/vision/0.png", "tests/fixtures/vision/1.png", "tests/fixtures/pictures/palette.png")
PROMPTS = ("a robot beside a teapot", "a cat", "")
VOCABULARY = ("vocab.json", "merges.txt")


def scrambled(model):
    """Random weights of a size at which every part shows in the output."""
    generator = torch.Generator().manual_seed(3407)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise)
    return model.eval()


def save_timm(model, path, config):
    path.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def stacked(f, pictures):
    return torch.cat([f(picture) for picture in pictures])


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/fixtures/vision")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    pictures = [Image.open(ROOT / path).convert("RGB") for path in PICTURES]
    # Neither square nor a multiple of anything.
    pictures[2] = pictures[2].resize((53, 37))
    pictures.append(pictures[0].crop((20, 0, 61, 127)))
    for i, picture in enumerate(pictures):
        picture.save(out / f"{i}.png")
    cases = {}

    dino = scrambled(ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8), add_pooling_layer=False))
    dino.save_pretrained(out / "dino")
    cases["imagenet_32"] = stacked(lambda p: imagenet(p, 32), pictures)
    cases["dino"] = dino(cases["imagenet_32"]).last_hidden_state[:, 0]
    wide = torch.cat([cases["imagenet_32"], cases["imagenet_32"].flip(0)], 3)
    cases["dino_wide"] = dino(wide, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    model = scrambled(
        timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, num_classes=0
        )
    )
    save_timm(model, out / "dino_timm", {"num_attention_heads": 2})
    cases["dino_timm"] = model(cases["imagenet_32"])

    config = Dinov2Config(**{**SIZES, "mlp_ratio": 2}, image_size=518, patch_size=14)
    dinov2 = scrambled(Dinov2Model(config))
    dinov2.save_pretrained(out / "dinov2")
    cases["dinov2"] = dinov2(stacked(imagenet, pictures)).last_hidden_state[:, 0]

    vocabulary = ROOT / "uno-models/assets/tiny/clip"
    words = len(json.loads((vocabulary / "vocab.json").read_text()))
    text = {
        **SIZES,
        "vocab_size": words,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    clip = scrambled(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
    clip.save_pretrained(out / "clip")
    for file in VOCABULARY:
        shutil.copy(vocabulary / file, out / "clip" / file)
    cases["clip_pixels_32"] = stacked(lambda p: clip_pixels(p, 32), pictures)
    scorer = Scorer(out / "dino", out / "clip")
    cases["clip_image"] = stacked(scorer.clip_of, pictures)
    cases["clip_text"] = stacked(scorer.text_of, PROMPTS)

    model = scrambled(
        open_clip.model.CLIP(
            embed_dim=24,
            vision_cfg={"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2},
            text_cfg={"vocab_size": words, "width": 32, "heads": 2, "layers": 2, "mlp_ratio": 2},
            quick_gelu=True,
        )
    )
    save_timm(model, out / "clip_openai", {"num_attention_heads": 2})
    cases["openai_image"] = model.encode_image(cases["clip_pixels_32"], normalize=True)
    ids = [scorer.tokenizer(prompt, max_length=77, truncation=True).input_ids for prompt in PROMPTS]
    padded = torch.tensor([row + [0] * (77 - len(row)) for row in ids])
    cases["openai_text"] = model.encode_text(padded, normalize=True)

    save_file({name: value.contiguous() for name, value in cases.items()}, out / "cases.safetensors")
    scores = scorer.scores(pictures[3], pictures[:2], PROMPTS[0])
    (out / "scores.json").write_text(
        json.dumps({"picture": 3, "references": [0, 1], "prompt": PROMPTS[0], "prompts": PROMPTS, **scores}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    main()
