"""The command line: the official app's options, and those that it has not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

#: The port, as the official app's.
PORT = 7860
#: Most requests that wait.
QUEUE = 20
#: Largest file of a reference, in bytes.
UPLOAD = 20 << 20

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; ends the program with what is wrong with it."""
    parser = argparse.ArgumentParser(
        prog="python -m uno_rs.app",
        description="UNO in the browser, with Gradio. Without a model (no --model, --name or --download, and no "
        "variable of the environment that names a file) the small one inside the package is used.",
        allow_abbrev=False,
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="DIR", help="folder of the model")
    model.add_argument(
        "--name",
        choices=("flux-dev", "flux-dev-fp8", "flux-schnell"),
        help="kind of model; by default what the files are. Alone: files that variables of the environment name "
        "(FLUX_DEV, AE, ...), or that the hub's cache holds",
    )
    model.add_argument(
        "--download", action="store_true", help="fetch what is missing from the Hugging Face hub (37 GB in HF_HOME)"
    )
    model.add_argument(
        "--lora_scale",
        "--lora-scale",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="on UNO's LoRA; 0 is plain FLUX [1]",
    )

    computation = parser.add_argument_group("computation")
    computation.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda, cuda:1, vulkan, wgpu, metal or rocm, as far as they are built in [cpu]",
    )
    computation.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="number format of transformer and text encoders; by default what suits the device",
    )
    computation.add_argument(
        "--memory", metavar="SIZE", help="most memory to use: a size such as 6GiB, auto (what is free), or least [auto]"
    )
    computation.add_argument(
        "--offload",
        type=_truth,
        nargs="?",
        const=True,
        default=False,
        metavar="BOOL",
        help="as little memory as possible (--memory least)",
    )

    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "--port", type=_whole(1, 65535), default=PORT, help=f"on 127.0.0.1, which other machines do not reach [{PORT}]"
    )
    serving.add_argument(
        "--share",
        action="store_true",
        help="a public address through Gradio's servers, where all data pass; whoever has it can make pictures",
    )
    serving.add_argument(
        "--queue", type=_whole(1, 10_000), default=QUEUE, metavar="COUNT", help=f"most requests that wait [{QUEUE}]"
    )
    serving.add_argument(
        "--max_upload",
        "--max-upload",
        type=_bytes,
        default=UPLOAD,
        metavar="SIZE",
        help="largest file of a reference: bytes, or a number with KiB, MiB or GiB [20MiB]",
    )

    arguments = parser.parse_args(argv)
    if arguments.model is not None and arguments.download:
        parser.error("--download fetches a model and --model names one; give one of the two")
    if arguments.offload and arguments.memory is not None:
        parser.error("--offload is --memory least; give one of the two")
    return arguments


def _truth(text: str) -> bool:
    """Truth values as the official app's parser reads them."""
    lower = text.lower()
    if lower in ("true", "yes", "t", "y", "1"):
        return True
    if lower in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"got {text!r}, wanted true or false")


class _whole:
    """A whole number from `least` to `most`."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text) and self._least <= int(text) <= self._most:
            return int(text)
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {self._least} to {self._most}")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})\s*([a-z]*)", text.strip().lower())
    unit = _UNITS.get(match[2]) if match else None
    if match and unit and 1 <= int(match[1]) * unit <= 1 << 30:
        return int(match[1]) * unit
    raise argparse.ArgumentTypeError(f"got {text!r}, wanted 1 byte to 1 GiB, such as 20MiB")
