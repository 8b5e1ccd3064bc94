#!/usr/bin/env python3
"""Writes tests/fixtures/fp8.safetensors: 8-bit floats and what torch makes of them.

The official `flux-dev-fp8` casts every tensor with torch's `.to(torch.float8_e4m3fn)`, without a scale, and computes with it
after `.to(torch.bfloat16)`. Releases of torch differ in one point: beyond 464, where 448 is no longer the nearest number, old
ones (the official code asks for 2.4.0) give NaN and new ones give 448. So the file holds the answers of one of each. Every run
adds those of the torch that is installed, to the inputs that are in the file if it is there:

    python3 -m venv .venv-old && .venv-old/bin/pip install torch==2.4.0 numpy==1.26.4 safetensors==0.8.0
    python3 -m venv .venv-new && .venv-new/bin/pip install torch==2.15.0 numpy==2.4.6 safetensors==0.8.0
    rm -f tests/fixtures/fp8.safetensors
    .venv-old/bin/python tests/reference/make_fp8.py
    .venv-new/bin/python tests/reference/make_fp8.py

`e4m3.values`, `e4m3.bf16` and `e5m2.values` [256]: the number of each code in f32 and bf16. `f32` [n]: numbers to cast. With
the release of torch before them, `f32.codes` [n] and `bf16.codes` [65536]: the codes of these numbers, and of all numbers of
bf16 in the order of their bits.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

SEED = 20240614


def numbers_to_cast(values: torch.Tensor) -> np.ndarray:
    """Random numbers of many sizes, and those at which the cast decides."""
    rng = np.random.default_rng(SEED)
    parts = [rng.standard_normal(256) * size for size in (1e-4, 2e-3, 0.01, 0.02, 0.05, 1, 20, 200)]
    # All bit patterns alike: sizes from 1e-45 to 1e38, NaN among them.
    bits = rng.integers(0, 2**32, 1024, dtype=np.uint64).astype(np.uint32)
    codes = np.sort(values[:127].numpy())
    middles = (codes[:-1] + codes[1:]) / 2
    edges = np.concatenate([codes, middles]).astype(np.float32)
    # Each with its neighbours on both sides.
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))])
    parts += [edges, -edges]
    # Below the least number of e4m3, 2^-9: half of it is a tie, and what f32 itself holds as subnormal is zero.
    small = np.array([2.0**-9, 2.0**-10, 2.0**-11, 2.0**-126, 2.0**-127, 2.0**-149, 0.0], dtype=np.float32)
    parts += [small, -small]
    large = np.concatenate([np.linspace(447, 481, 137), [464.00003, 463.99997, 479.99997, 480.00003]])
    large = np.concatenate([large, [512, 1e3, 65504, 65520, 1e6, 1e30, np.finfo(np.float32).max, np.inf]])
    parts += [large, -large, [np.nan, -np.nan]]
    return np.concatenate([np.concatenate(parts).astype(np.float32), bits.view(np.float32)])


def all_of_bf16() -> torch.Tensor:
    """Every number of bf16, in the order of its bits."""
    return torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16)).view(torch.bfloat16)


def codes(numbers: torch.Tensor) -> torch.Tensor:
    """The codes of torch's cast."""
    return numbers.to(torch.float8_e4m3fn).view(torch.uint8)


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/fp8.safetensors")
    every_code = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    e4m3, e5m2 = every_code.view(torch.float8_e4m3fn), every_code.view(torch.float8_e5m2)
    tensors = load_file(target) if target.exists() else {}
    values = {"e4m3.values": e4m3.float(), "e4m3.bf16": e4m3.to(torch.bfloat16), "e5m2.values": e5m2.float()}
    for name, tensor in values.items():
        # All releases agree on what a code means.
        assert torch.equal(tensors.setdefault(name, tensor).nan_to_num(1e6), tensor.nan_to_num(1e6)), name
    numbers = tensors.setdefault("f32", torch.from_numpy(numbers_to_cast(values["e4m3.values"])))
    release = torch.__version__.split("+")[0]
    tensors[f"{release}/f32.codes"] = codes(numbers)
    bf16 = all_of_bf16()
    tensors[f"{release}/bf16.codes"] = codes(bf16)
    # The way over bf16 is the way over f32, and the way back depends on the code alone.
    assert torch.equal(codes(bf16) & 0x7F, codes(bf16.float()) & 0x7F)
    back, by_code = bf16.to(torch.float8_e4m3fn).to(torch.bfloat16), values["e4m3.bf16"][codes(bf16).long()]
    assert torch.equal(back.nan_to_num(1e6), by_code.nan_to_num(1e6))
    save_file(dict(sorted(tensors.items())), target)
    for name in ("f32.codes", "bf16.codes"):
        answers = {key: tensor for key, tensor in tensors.items() if key.endswith(f"/{name}")}
        first = next(iter(answers.values()))
        source = numbers if name == "f32.codes" else bf16.float()
        for key, tensor in answers.items():
            other = (tensor != first) & ~source.isnan()
            least = source[other].abs().min().item() if other.any() else None
            print(f"{key}: {len(tensor)} codes, {int(other.sum())} differ from the first, the least of them {least}")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
