#!/usr/bin/env python3
"""A picture of 704x704 with one reference of 512 in 25 steps, at FLUX.1-dev's full size, on one GPU: uno-rs and PyTorch
(the official structure, LoRA beside the weights) in turns, on the same random weights.

    python benches/gpu.py                                   builds for CUDA, makes 37 GB of checkpoints, prints a table
    python benches/gpu.py --program ./gpu --make ./make_checkpoint      the same with programs that were built elsewhere
    python benches/gpu.py --tiny --device wgpu --peer-device cpu --dtype f32        whether it works, without a GPU

PyTorch and safetensors must be there. docs/gpu.md tells how to bring the programs to a machine without a network.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path

from harness.measure import Server

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benches/peers"


def main():
    args = arguments()
    program, make = build(args)
    folder = args.folder.resolve()
    make_files(folder, make, args)
    print(describe())
    head = ["work", "uno-rs", "PyTorch", "its time / ours", "difference", "peak, uno-rs", "peak, PyTorch"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for title, ours, peer in cases(folder, args):
        row = [title, *compare([program, *ours], [sys.executable, *peer], folder / "result.f32", args)]
        print("| " + " | ".join(row) + " |", flush=True)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", help="the benchmark `gpu`, built")
    p.add_argument("--make", help="the example `make_checkpoint`, built")
    p.add_argument("--features", default="cuda", help="to build with, where nothing is built")
    p.add_argument("--device", default="cuda")
    p.add_argument("--peer-device", default="cuda")
    p.add_argument("--dtype", default="bf16", choices=["bf16", "f16", "f32"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int)
    p.add_argument("--tiny", action="store_true", help="a model and pictures as small as they go")
    p.add_argument("--parts", nargs="*", help="denoise, t5, decode, encode: only these")
    p.add_argument("--streamed", action="store_true", help="denoise once more with a third of the weights on the GPU")
    p.add_argument("--folder", type=Path, default=ROOT / "target/gpu-bench", help="where the checkpoints are made")
    return p.parse_args()


def build(args):
    """Paths of both programs."""
    if args.program and args.make:
        return args.program, args.make
    command = [
        "cargo",
        "build",
        "--release",
        "--features",
        args.features,
        "--bench",
        "gpu",
        "--example",
        "make_checkpoint",
    ]
    done = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    lines = map(json.loads, done.stdout.splitlines())
    found = {line["target"]["name"]: line["executable"] for line in lines if line.get("executable")}
    return found["gpu"], found["make_checkpoint"]


def make_files(folder, make, args):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, PEERS / "prepare.py", "tiny" if args.tiny else "full", folder], check=True)
    for name in ("dit", "lora", "t5", "ae"):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            storage = ["--storage", args.dtype] if name != "ae" else []
            command = [make, "--like", folder / f"{name}.json", "--out", path, *storage]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def cases(folder, args):
    """Title, our command and the peer's of each part."""
    grids = ["--latent", "4x4", "--reference", "2x2"] if args.tiny else ["--latent", "44x44", "--reference", "32x32"]
    steps, text = args.steps or (2 if args.tiny else 25), "8" if args.tiny else "512"
    sizes = ["32x32", "32x32"] if args.tiny else ["704x704", "512x512"]
    file = lambda name: str(folder / f"{name}.safetensors")  # noqa: E731
    dit = ["--checkpoint", file("dit"), "--lora", file("lora"), "--text", text, "--steps", str(steps), *grids]
    t5 = ["--encoder", "t5", "--checkpoint", file("t5"), "--tokens", text]
    decode = ["--work", "decode", "--checkpoint", file("ae"), "--size", sizes[0]]
    encode = ["--work", "encode", "--checkpoint", file("ae"), "--size", sizes[1]]
    where = ["--device", args.device, "--dtype", args.dtype]
    # The autoencoder computes in f32 here; the official program computes it in bf16.
    where_ae = ["--device", args.device, "--dtype", "f32"]
    peer = ["--device", args.peer_device, "--dtype", args.dtype]
    all_parts = [
        ("denoise", f"denoising, {steps} steps", "dit-step", "dit_step.py", dit, where),
        ("t5", "T5", "text", "text.py", t5, where),
        ("decode", f"autoencoder, decode {sizes[0]} (ours in f32)", "vae", "vae.py", decode, where_ae),
        ("encode", "autoencoder, encode the reference (ours in f32)", "vae", "vae.py", encode, where_ae),
    ]
    for part, title, ours, script, options, place in all_parts:
        if not args.parts or part in args.parts:
            theirs = [str(PEERS / script), *options, *peer]
            yield f"{title}, {args.dtype}", [ours, *options, *place], theirs
            if part == "denoise" and args.streamed:
                third = str(os.path.getsize(file("dit")) // 3)
                yield (
                    f"{title}, a third of the weights on the GPU",
                    [ours, *options, *place, "--resident", third],
                    theirs,
                )


def compare(ours, theirs, result, args):
    """Loads both, ours first, and lets them take turns."""
    tolerance = {"f32": "1e-4", "f16": "3e-2", "bf16": "1e-1"}[args.dtype]
    sides = [[*ours, "--output", str(result)], [*theirs, "--check", str(result), "--tolerance", tolerance]]
    servers, peaks = [], []
    for command in sides:
        with Memory() as memory:
            servers.append(Server(Side(command), dict(os.environ)))
            servers[-1].run()
        peaks.append(memory.taken())
    times = [[], []]
    for i in range(args.rounds):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            times[side].append(servers[side].run()[0])
    for server in servers:
        server.close()
    ratios = sorted(peer / own for own, peer in zip(*times))
    middle = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    seconds = [f"{statistics.median(t) / 1e3:.3f} s" for t in times]
    return [*seconds, middle, f"{servers[1].ready['relative_l2']:.0e}", *peaks]


class Side:
    """A command, as `Server` takes it."""

    def __init__(self, command):
        self.command = command


class Memory:
    """The most memory of the GPU that is taken meanwhile, beyond what was taken before, from nvidia-smi."""

    def __enter__(self):
        self.before, self.most, self.ended = self.used(), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    @staticmethod
    def used():
        """MiB; `None` without an NVIDIA GPU."""
        if not shutil.which("nvidia-smi"):
            return None
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        return int(subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def watch(self):
        while self.before is not None and not self.ended.wait(0.05):
            self.most = max(self.most, self.used())

    def taken(self):
        return "not measured" if self.before is None else f"{(self.most - self.before) / 1024:.1f} GiB"


def describe():
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no NVIDIA GPU"
    return f"{gpu}; torch {torch.__version__}\n"


if __name__ == "__main__":
    main()
