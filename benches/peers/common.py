"""What all peers share: timing, input numbers, options. The counterpart of `benches/common/mod.rs`."""

import argparse
import json
import statistics
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def parser(about):
    p = argparse.ArgumentParser(description=about)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--rounds", type=int, default=5, help="timed runs after the one that warms up")
    p.add_argument("--once", action="store_true", help="run once and end")
    p.add_argument("--serve", action="store_true", help="run as often as each line on standard input says")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="f32", choices=list(DTYPES), help="format that is computed in")
    p.add_argument("--check", help="result of the Rust program, which ours must equal")
    p.add_argument("--tolerance", type=float, default=1e-4, help="largest relative L2 error against it")
    return p


def parse(p):
    """Options; sets the number of threads."""
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    args.place = {"device": args.device, "dtype": DTYPES[args.dtype]}
    return args


def numbers(seed, *shape):
    """Numbers of mean 0 and variance 1 that depend on `seed` and their place only, the same as in Rust."""
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9)
    h ^= np.uint32(seed * 0x85EBCA6B & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x735A2D97)
    h ^= h >> np.uint32(15)
    x = (h >> np.uint32(8)).astype(np.float32) / np.float32(2**24) - np.float32(0.5)
    return torch.from_numpy((x * np.float32(3.4641016)).reshape(shape))


def grid(text):
    """Rows and columns, written 32x48."""
    rows, columns = map(int, text.split("x"))
    return rows, columns


def build(module, *paths, device="cpu", dtype=torch.float32):
    """A module from a function, with the weights of files put in its place, on the CPU in f32 without a copy."""
    with torch.device("meta"):
        model = module()
    tensors = {}
    for path in paths:
        tensors |= {name: tensor.to(dtype) for name, tensor in load_file(path, device=device).items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def shapes(path):
    """Shapes of a safetensors file's tensors by name, from its header alone."""
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def say(**line):
    print(json.dumps(line), flush=True)


@torch.inference_mode()
def run(args, case, work):
    """Times `work` and prints lines of JSON."""
    # A result counts when it has reached this process, so that the device has finished.
    start = time.perf_counter()
    result = work().float().cpu()
    line = {"first_ms": (time.perf_counter() - start) * 1e3}
    if args.check:
        wanted = torch.from_numpy(np.fromfile(args.check, dtype="<f4"))
        got = result.flatten()
        error = ((got - wanted).norm() / wanted.norm()).item() if got.shape == wanted.shape else float("nan")
        line["relative_l2"] = error
        if not error <= args.tolerance:
            sys.exit(f"{case}: not the same work: relative L2 error {error:.2e}, allowed {args.tolerance:.0e}")
    del result
    if args.once:
        return say(case=case)

    def timed():
        start = time.perf_counter()
        result = work().float().cpu()
        milliseconds = (time.perf_counter() - start) * 1e3
        del result
        return milliseconds

    if args.serve:
        say(ready=case, **line)
        for runs in sys.stdin:
            say(ms=statistics.median(timed() for _ in range(int(runs))))
        return None
    times = [timed() for _ in range(max(1, args.rounds))]
    return say(case=case, median_ms=statistics.median(times), times_ms=times, **line)
