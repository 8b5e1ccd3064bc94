#!/usr/bin/env python3
"""Writes tests/fixtures/ggml_blocks.safetensors: GGML blocks and what the Python package `gguf` makes of them.

Run it in an environment of its own with public packages, from the repository root:

    python3 -m venv .venv-ggml && .venv-ggml/bin/pip install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0
    .venv-ggml/bin/python tests/reference/make_ggml_blocks.py

For every type, `{NAME}.bytes` [blocks, bytes of a block] (U8) holds blocks of random bytes whose f16 scales are finite
(ordinary, subnormal, zero, the largest), and `{NAME}.values` [blocks, numbers of a block] (F32) what
`gguf.quants.dequantize` reads from them. For the simple types, `{NAME}.numbers` (F32) holds numbers and
`{NAME}.packed` (U8) the blocks `gguf.quants.quantize` writes for them. The seed is fixed: a rerun writes the same file.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import save

SEED = 20240613
# Where the f16 numbers of a block lie, in bytes.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
SIMPLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
# Zero of both signs, the least and the greatest subnormal, the least normal, one, the largest of both signs.
SPECIAL = [0x0000, 0x8000, 0x0001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF]


def random_scales(rng: np.random.Generator, count: int) -> np.ndarray:
    """Finite f16 bit patterns: the special ones first, then random ones, every fourth subnormal."""
    bits = rng.integers(0, 0x7C00, count, dtype=np.uint16) | rng.integers(0, 2, count, dtype=np.uint16) << 15
    bits[::4] &= 0x83FF
    bits[: len(SPECIAL)] = SPECIAL[:count]
    return bits


def random_blocks(rng: np.random.Generator, name: str, count: int) -> np.ndarray:
    """Blocks [count, bytes] of random bytes with finite scales."""
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[0], blocks[1] = 0, 255
    for turn, at in enumerate(SCALES[name]):
        # The second scale of a block is turned round, so that special ones meet ordinary ones too.
        bits = np.roll(random_scales(rng, count), turn * 5)
        blocks[:, at : at + 2] = bits.astype("<u2").view(np.uint8).reshape(-1, 2)
    return blocks


def numbers_to_pack(rng: np.random.Generator) -> np.ndarray:
    """Rows [rows, 32] for the simple types: random ones of many sizes and the awkward ones."""
    rows = [rng.standard_normal(32) * size for size in (1e-7, 1e-5, 0.01, 0.02, 0.05, 0.3, 1, 1, 5, 100, 3e4, 1e6)]
    rows += [np.zeros(32), np.full(32, 0.75), np.full(32, -0.75)]
    rows.append(np.where(np.arange(32) == 9, -3.0, 0.0))
    rows.append(np.where(np.arange(32) % 2 == 0, 1.5, -1.5))
    rows.append(np.where(np.arange(32) % 2 == 0, -1.5, 1.5))
    # Halves between two levels, for each number of levels.
    rows += [(np.arange(32) - 15.5) * 0.5, (np.arange(32) - 16) / 4, np.arange(32) % 16 / 2 - 4]
    rows.append(np.concatenate([[127.0], np.arange(31) - 15.5]))
    rows += [rng.uniform(0.5, 1, 32), rng.uniform(-1, -0.5, 32)]
    return np.stack(rows).astype(np.float32)


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/ggml_blocks.safetensors")
    rng = np.random.default_rng(SEED)
    tensors = {}
    for name in SCALES:
        kind = gguf.GGMLQuantizationType[name]
        blocks = random_blocks(rng, name, 48 if name in SIMPLE else 20)
        tensors[f"{name}.bytes"] = blocks
        tensors[f"{name}.values"] = dequantize(blocks, kind)
        if name in SIMPLE:
            numbers = numbers_to_pack(rng)
            tensors[f"{name}.numbers"] = numbers
            with np.errstate(over="ignore"):
                tensors[f"{name}.packed"] = quantize(numbers, kind)
    target.write_bytes(save(tensors))
    print(f"{target}: {target.stat().st_size} bytes, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
