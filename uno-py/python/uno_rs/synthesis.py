"""Synthesis of training data, as a configuration file says (docs/synthesis.md lists its keys)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _uno_rs
from .progress import Progress

#: The stages, in order.
STAGES = (
    "diptych",
    "split",
    "similarity",
    "judgement",
    "detection",
    "regeneration",
    "second_similarity",
    "second_judgement",
)


@dataclass(frozen=True)
class SynthesisResult:
    """What a call of `synthesize` did."""

    results: dict[str, Any] | None
    """The funnel and the files that were written; None if none were asked for."""
    failed: list[tuple[str, str]]
    """Items that could not be worked on, with the reason; they still wait, and the next call tries them again."""


def synthesize(
    config: str | os.PathLike[str],
    *,
    stages: Sequence[str] = (),
    shard: tuple[int, int] = (0, 1),
    count: int | None = None,
    write_results: bool = True,
    progress: bool = True,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> SynthesisResult:
    """Does what waits in the folder of a synthesis, or begins it; goes on where an earlier call stopped.

    `stages` are some of `STAGES`, by default all that the configuration asks for; `shard` is the share (i, n) of the
    items, i from 0; `count` replaces the configuration's number of diptychs. With `write_results` lists, labels and
    report are written at the end: leave that to one of several processes. `callback` is called for each item that has
    passed a stage with a dictionary: stage, item, done, total. What it raises, and Ctrl-C, end the call after the items
    at hand.
    """
    with Progress(progress) as shown:

        def on_event(kind: str, payload: dict[str, Any]) -> None:
            shown.on_event(kind, payload)
            if kind == "synthesis" and callback is not None:
                callback(payload)

        results, failed = _uno_rs.synthesize(
            Path(config), list(stages), f"{shard[0]}/{shard[1]}", count, write_results, on_event
        )
    return SynthesisResult(None if results is None else json.loads(results), failed)
