"""What is measured."""

import sys
from dataclasses import dataclass
from pathlib import Path

from .prepare import PEERS

TEXT = 512


@dataclass
class Side:
    """One of the programs that do the same work."""

    name: str
    command: list


@dataclass
class Case:
    """Work, and the programs that do it. The first is ours; its result is what all others must agree with."""

    name: str
    title: str
    sides: list
    rounds: int
    whole_process: bool = False


class Commands:
    """Command lines of both sides."""

    def __init__(self, programs, folder, threads):
        self.programs, self.folder, self.threads = programs, folder, threads

    def result(self, name):
        return self.folder / f"result-{name.replace('/', '-')}.f32"

    def ours(self, name, bench, *options, side="ours"):
        return Side(side, [self.programs[bench], *map(str, options), "--output", str(self.result(f"{name}/{side}"))])

    def theirs(self, name, side, script, *options, check=True):
        command = [sys.executable, str(PEERS / f"{script}.py"), "--threads", str(self.threads), *map(str, options)]
        return Side(side, [*command, "--check", str(self.result(f"{name}/ours"))] if check else command)


def all_cases(commands, quick):
    """Cases in the order in which they are measured."""
    return [
        *layers(commands, quick),
        load(commands, quick),
        startup(commands, quick),
        *text(commands, quick),
        dit_step(commands, quick),
        *tokens(commands, quick),
        *steps(commands, quick),
        *vae(commands, quick),
    ]


def dit_files(folder: Path, storage=None):
    dit = {
        None: "dit.safetensors",
        "bf16": "dit-bf16.safetensors",
        "e4m3": "dit-fp8.safetensors",
        "q8_0": "dit-q8_0.gguf",
    }
    return ["--checkpoint", folder / dit[storage], "--lora", folder / "lora.safetensors"]


def dit_step(c, quick):
    side = "16x16" if quick else "32x32"
    sizes = ["--text", TEXT, "--latent", side, "--reference", side]
    name, diffusers = "dit", ["--folder", c.folder / "diffusers-dit"]
    sides = [
        c.ours(name, "dit_step", *dit_files(c.folder), *sizes),
        c.ours(name, "dit_step", *dit_files(c.folder), "--merge", *sizes, side="ours-merged"),
        c.theirs(name, "torch", "dit_step", *dit_files(c.folder), *sizes),
        c.theirs(name, "library", "dit_step", *diffusers, *sizes),
    ]
    for storage in ("bf16", "q8_0", "e4m3"):
        sides.append(c.ours(name, "dit_step", *dit_files(c.folder, storage), *sizes, side=f"ours-{storage}"))
    sides.append(c.ours(name, "dit_step", *dit_files(c.folder, "q8_0"), "--int8", *sizes, side="ours-int8"))
    return Case(name, f"DiT step, {TEXT} text + {side} latent + {side} reference tokens", sides, 2 if quick else 5)


def tokens(c, quick):
    """Sizes of pictures; the size of `dit_step` belongs to them."""
    sizes = [("256", ["16x16"]), ("1024", ["32x32"]), ("1024+3x400", ["32x32", *["20x20"] * 3]), ("4096", ["64x64"])]
    for label, (latent, *references) in sizes[:2] if quick else sizes:
        options = ["--text", TEXT, "--latent", latent, *(x for r in references for x in ("--reference", r))]
        name = f"tokens/{label}"
        sides = [
            c.ours(name, "dit_step", *dit_files(c.folder), *options),
            c.theirs(name, "torch", "dit_step", *dit_files(c.folder), *options),
        ]
        yield Case(name, f"DiT step, {TEXT} text + {label} tokens", sides, 2 if quick else 3)


def steps(c, quick):
    for count in (1, 2, 4) if quick else (1, 2, 4, 8):
        options = [*dit_files(c.folder), "--text", 128, "--latent", "16x16", "--steps", count]
        name = f"steps/{count}"
        sides = [c.ours(name, "dit_step", *options), c.theirs(name, "torch", "dit_step", *options)]
        yield Case(name, f"{count} DiT steps, 128 text + 256 latent tokens", sides, 2 if quick else 3)


def text(c, quick):
    for encoder, tokens, title in (
        ("t5", 512, "T5-XXL, 2 of its 24 layers, 512 tokens"),
        ("clip", 77, "CLIP-L, 77 tokens"),
    ):
        options = ["--encoder", encoder, "--tokens", tokens]
        weights = ["--checkpoint", c.folder / f"{encoder}.safetensors"]
        sides = [c.ours(encoder, "text", *options, *weights)]
        if encoder == "t5":
            sides.append(c.theirs(encoder, "torch", "text", *options, *weights))
        sides.append(c.theirs(encoder, "library", "text", *options, "--folder", c.folder / f"transformers-{encoder}"))
        yield Case(encoder, title, sides, 2 if quick else 5)


def vae(c, quick):
    size = "256x256" if quick else "512x512"
    for work in ("decode", "encode"):
        options, weights = ["--work", work, "--size", size], ["--checkpoint", c.folder / "ae.safetensors"]
        sides = [
            c.ours(work, "vae", *options, *weights),
            c.theirs(work, "torch", "vae", *options, *weights),
            c.theirs(work, "library", "vae", *options, "--folder", c.folder / "diffusers-ae"),
        ]
        yield Case(work, f"Autoencoder, {work} {size}", sides, 2)


def layers(c, quick):
    linear = ["--layer", "linear", "--checkpoint", c.folder / "linear.safetensors"]
    rows = [
        ("linear", "Linear, 1024 x 3072 x 12288", linear),
        ("one-row", "Linear, 1 x 3072 x 12288", [*linear, "--rows", 1]),
        ("attention", "attention, 1 x 24 x 1024 x 128", ["--layer", "attention", "--width", 128]),
        ("gelu", "GELU (tanh), 1024 x 12288", ["--layer", "gelu", "--width", 12288]),
        ("modulate", "layer norm and modulation, 1024 x 3072", ["--layer", "modulate"]),
        (
            "group-norm",
            "Group norm and SiLU of burn's operations, 128 x 256 x 256",
            ["--layer", "group-norm-silu", "--heads", 128, "--rows", 256, "--width", 256],
        ),
    ]
    for name, title, options in rows:
        sides = [c.ours(name, "layers", *options), c.theirs(name, "torch", "layers", *options)]
        yield Case(name, title, sides, 3 if quick else 7)


def load(c, quick):
    diffusers = ["--folder", c.folder / "diffusers-dit"]
    sides = [
        c.ours("load", "load", *dit_files(c.folder)),
        c.theirs("load", "torch", "load", *dit_files(c.folder), check=False),
        c.theirs("load", "library", "load", *diffusers, check=False),
    ]
    return Case("load", "Opening a transformer of 0.9 GB", sides, 3 if quick else 7)


def startup(c, quick):
    sizes = ["--text", TEXT, "--latent", "16x16"]
    sides = [
        c.ours("startup", "dit_step", *dit_files(c.folder), *sizes),
        c.theirs("startup", "torch", "dit_step", *dit_files(c.folder), *sizes, check=False),
        c.theirs("startup", "library", "dit_step", "--folder", c.folder / "diffusers-dit", *sizes, check=False),
    ]
    title = f"From process start to the first step, {TEXT} + 256 tokens"
    return Case("startup", title, sides, 2 if quick else 3, whole_process=True)
