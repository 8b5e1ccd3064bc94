"""DreamBench's scores by transformers, torchvision and torch: what uno-rs computes, computed by others.

    python scores.py --dino DIR --clip DIR --picture out.png --references a.png b.png --prompt "a mug on a beach"

DIR are folders in the layout of transformers, with config.json. Prints JSON.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model, ViTModel

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def ready(picture, resize, crop, statistics):
    """A PIL picture as an encoder takes it, [1, 3, crop, crop]."""
    return transforms.Compose(
        [
            transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(*statistics),
        ]
    )(picture.convert("RGB"))[None]


def imagenet(picture, side=224):
    return ready(picture, 256 * side // 224, side, IMAGENET)


def clip_pixels(picture, side=224):
    return ready(picture, side, side, CLIP)


class Scorer:
    """The three scores, each a mean of cosines."""

    def __init__(self, dino, clip):
        kind = json.loads((Path(dino) / "config.json").read_text())["model_type"]
        self.dino = (Dinov2Model if kind == "dinov2" else ViTModel).from_pretrained(dino).eval()
        self.clip = CLIPModel.from_pretrained(clip).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(clip)

    def dino_of(self, picture):
        pixels = imagenet(picture, min(224, self.dino.config.image_size))
        out = self.dino(pixels, interpolate_pos_encoding=True) if isinstance(self.dino, ViTModel) else self.dino(pixels)
        return torch.nn.functional.normalize(out.last_hidden_state[:, 0], dim=-1)

    def clip_of(self, picture):
        pixels = clip_pixels(picture, self.clip.config.vision_config.image_size)
        pooled = self.clip.vision_model(pixels).pooler_output
        return torch.nn.functional.normalize(self.clip.visual_projection(pooled), dim=-1)

    def text_of(self, prompt):
        length = self.clip.config.text_config.max_position_embeddings
        ids = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        pooled = self.clip.text_model(ids.input_ids).pooler_output
        return torch.nn.functional.normalize(self.clip.text_projection(pooled), dim=-1)

    @torch.no_grad()
    def scores(self, picture, references, prompt):
        cosine = lambda a, b: float((a * b).sum())
        dino, clip = self.dino_of(picture), self.clip_of(picture)
        mean = lambda values: sum(values) / len(values)
        return {
            "dino": mean([cosine(dino, self.dino_of(r)) for r in references]),
            "clip_i": mean([cosine(clip, self.clip_of(r)) for r in references]),
            "clip_t": cosine(clip, self.text_of(prompt)),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dino", "clip", "picture", "prompt"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--references", nargs="+", required=True)
    arguments = parser.parse_args()
    references = [Image.open(path) for path in arguments.references]
    scorer = Scorer(arguments.dino, arguments.clip)
    print(json.dumps(scorer.scores(Image.open(arguments.picture), references, arguments.prompt)))


if __name__ == "__main__":
    main()
