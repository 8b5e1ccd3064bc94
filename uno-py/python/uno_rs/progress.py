"""Progress on a terminal or in a notebook, with tqdm where it is installed."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Shows what the binary part tells it. Without tqdm only notices and download plans are shown."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: Any = None
        self._of = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def on_event(self, kind: str, payload: dict[str, Any]) -> None:
        """Takes one event."""
        if kind == "notice":
            self._say(f"note: {payload['text']}")
        elif kind == "download_plan":
            for line in payload["parts"]:
                self._say(f"download {line}")
        elif kind == "download":
            self._show(payload["file"], payload["done"], payload["total"], unit="B", unit_scale=True)
        elif kind == "step":
            self._show("denoising", payload["step"], payload["total"], unit="step")
        elif kind == "train_step":
            self._show("training", payload["step"], payload["total"], unit="step")
            if self._bar is not None:
                self._bar.set_postfix(loss=f"{payload['loss']:.4f}")
        elif kind == "score":
            self._show("scoring", payload["done"], payload["total"], unit="picture")
        elif kind == "synthesis":
            self._show(payload["stage"], payload["done"], payload["total"], unit="item")
        elif kind == "advance":
            self._show("encoding", payload["done"], payload["total"], unit="sample")

    def _say(self, text: str) -> None:
        # What the user must know is said even without bars.
        self._close()
        print(text, file=sys.stderr)

    def _show(self, name: str, done: int, total: int, **options: Any) -> None:
        if not self._enabled:
            return
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        if self._bar is None or self._of != name:
            self._close()
            self._bar, self._of = tqdm(total=total, desc=name, **options), name
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
