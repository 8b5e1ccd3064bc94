"""Shapes of what goes into the binary part and comes out of it. For type checkers; nothing imports it at run time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict, Union

import numpy as np

Path: TypeAlias = Union[str, "os.PathLike[str]"]
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
#: Called with the kind of an event and what there is to know of it.
OnEvent: TypeAlias = Callable[[str, dict[str, Any]], None] | None

#: Name, width, height, channels, pixels, and whether Pillow would resize it with nearest neighbour.
RawPicture: TypeAlias = tuple[str, int, int, int, bytes, bool]
#: Pictures, final latents, settings as JSON, notices, seconds.
Generated: TypeAlias = tuple[list[Bytes], Floats, list[str], list[str], float]


class EvaluateArguments(TypedDict):
    """What is evaluated."""

    prompts: Path
    pictures: Path
    out: Path
    per_prompt: int
    shard: str


class LoadArguments(TypedDict):
    """Where a model comes from and how it computes."""

    embedded: bool
    model_dir: Path | None
    model_type: str | None
    dit: Path | None
    ae: Path | None
    t5: Path | None
    t5_tokenizer: Path | None
    clip: Path | None
    clip_tokenizer: Path | None
    lora: Path | None
    download: bool
    offline: bool
    token: str | None
    cache_dir: Path | None
    device: str
    dtype: str | None
    memory: str | None
    offload: bool
    lora_scale: float
    merge_lora: bool | None
    int8: bool
    loras: list[tuple[Path, float]]
    plan_size: tuple[int, int] | None
    plan_references: int
    plan_batch: int


class GenerateArguments(TypedDict):
    """What is asked of a generation."""

    samples: list[tuple[str, int]]
    references: list[RawPicture]
    reference_records: list[tuple[Path, str]]
    exif_orientation: bool
    width: int | None
    height: int | None
    num_steps: int
    guidance: float | None
    ref_size: int | None
    pe: str
    noise: str
    noise_dtype: str
    schedule: str
    latents: Floats | None
    reference_seed: int | None
    first_block_cache: float | None
    reference_cache: int | None
    decode: bool


class ForwardArguments(TypedDict):
    """Input of one forward pass of the transformer."""

    latent: Floats
    references: list[Floats]
    txt: Floats
    vec: Floats
    t: list[float]
    guidance: list[float]
    pe: str
