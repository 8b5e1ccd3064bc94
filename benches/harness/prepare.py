"""Programs and files of the measurements."""

import json
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).resolve().parents[1] / "peers"
BENCHES = ("dit_step", "layers", "load", "text", "vae")
FILES = ("dit", "lora", "ae", "t5", "clip", "linear")
STORAGES = {"bf16": "safetensors", "fp8": "safetensors", "q8_0": "gguf"}


def programs(root):
    """Builds the benchmarks; the path of each executable by its name."""
    command = ["cargo", "build", "--release", "--benches", "--example", "make_checkpoint"]
    done = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    )
    found = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["kind"][0] in ("bench", "example"):
            found[message["target"]["name"]] = message["executable"]
    return found


def files(folder, make_checkpoint):
    """Random checkpoints, made once, and the peers' layouts of them."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "complete"
    if stamp.exists():
        return
    prepare = [sys.executable, PEERS / "prepare.py"]
    subprocess.run([*prepare, "manifests", folder], check=True)
    wanted = [(name, f"{name}.safetensors", []) for name in FILES]
    wanted += [("dit", f"dit-{s}.{end}", ["--storage", s]) for s, end in STORAGES.items()]
    for manifest, out, options in wanted:
        command = [make_checkpoint, "--like", folder / f"{manifest}.json", "--out", folder / out, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*prepare, "layouts", folder], check=True)
    stamp.touch()
