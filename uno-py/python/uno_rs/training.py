"""Training of UNO's LoRA, as a configuration file says (docs/training.md lists its keys)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _uno_rs
from .progress import Progress


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended."""

    checkpoint: Path
    """Folder of the last checkpoint, with `dit_lora.safetensors`."""
    is_complete: bool
    """Whether all stages are done."""


def train_lora(
    config: str | os.PathLike[str],
    *,
    resume: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> TrainResult:
    """Trains as the TOML or JSON file `config` says, from its first step or after a checkpoint.

    `resume` is a checkpoint's folder, or "latest" for the last one in the output folder; the run then goes on as if it
    had not been interrupted. `output` replaces the configuration's folder. `callback` is called after each step with a
    dictionary: step, total, loss, gradient_norm, learning_rate, seconds, epoch. What it raises, and Ctrl-C, end the run
    after a checkpoint.
    """
    with Progress(progress) as shown:

        def on_event(kind: str, payload: dict[str, Any]) -> None:
            shown.on_event(kind, payload)
            if kind == "train_step" and callback is not None:
                callback(payload)

        folder, is_complete = _uno_rs.train_lora(
            Path(config),
            None if resume is None else Path(resume),
            None if output is None else Path(output),
            on_event,
        )
    return TrainResult(Path(folder), is_complete)
