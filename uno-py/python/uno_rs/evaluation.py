"""DreamBench's scores of pictures and prompt lists (docs/evaluation.md says what is pinned)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _uno_rs
from .pictures import raw
from .progress import Progress

if TYPE_CHECKING:
    from ._types import EvaluateArguments
    from .pictures import PictureLike


class Scorer:
    """DINO, CLIP-I, CLIP-T, and a score of each subject on cut-outs."""

    def __init__(
        self,
        dino: str | os.PathLike[str],
        clip: str | os.PathLike[str],
        *,
        clip_tokenizer: str | os.PathLike[str] | None = None,
        views: str = "given",
        device: str = "cpu",
    ) -> None:
        """Loads both encoders: safetensors files, or folders with them and their `config.json`.

        `dino` is ViT-S/16 and `clip` ViT-B/32 for DreamBench. `views` is "given" (a picture is compared with the
        references that are given) or "folder" (with all pictures in their folders).
        """
        tokenizer = None if clip_tokenizer is None else Path(clip_tokenizer)
        self._scorer = _uno_rs.Scorer(Path(dino), Path(clip), tokenizer, views, device)

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything that scores depend on beside pictures and prompts."""
        protocol: dict[str, Any] = json.loads(self._scorer.protocol())
        return protocol

    def score(
        self, picture: PictureLike, prompt: str, references: Sequence[str | os.PathLike[str]] = ()
    ) -> dict[str, Any]:
        """The scores of one picture: dino, clip_i, clip_t, subject (the least over `subjects`), subjects.

        Without references dino, clip_i and subject are None.
        """
        scores: dict[str, Any] = json.loads(
            self._scorer.score(raw(picture), prompt, [Path(path) for path in references])
        )
        return scores

    def evaluate(
        self,
        prompts: str | os.PathLike[str],
        pictures: str | os.PathLike[str],
        *,
        out: str | os.PathLike[str] | None = None,
        num_images_per_prompt: int = 4,
        shard: tuple[int, int] = (0, 1),
        progress: bool = True,
    ) -> dict[str, Any] | None:
        """Scores `{prompt}_{picture}.png` of a prompt list; goes on where an earlier call stopped.

        Writes result.json and report.html into `out` (by default `evaluation` in the folder of pictures) and returns
        the result, or None as long as other shards have not scored their pictures.
        """
        folder = Path(pictures)
        with Progress(progress) as shown:
            arguments: EvaluateArguments = {
                "prompts": Path(prompts),
                "pictures": folder,
                "out": folder / "evaluation" if out is None else Path(out),
                "per_prompt": num_images_per_prompt,
                "shard": f"{shard[0]}/{shard[1]}",
            }
            result = self._scorer.evaluate(arguments, shown.on_event)
        return None if result is None else json.loads(result)
