"""What can be told while a picture is made: what it looks like so far, and how long it takes."""

from __future__ import annotations

import base64
import io
import time
from typing import TYPE_CHECKING

from ..components import schedule

if TYPE_CHECKING:
    import numpy as np

    from ..pipeline import UnoPipeline
    from .inputs import Request


class Preview:
    """Pictures of the latents after each step of one generation."""

    def __init__(self, pipeline: UnoPipeline, request: Request) -> None:
        self._pipeline = pipeline
        self._size = (request.height, request.width)
        # The sequence length of the pipeline's own schedule.
        self._times = schedule(request.num_steps, (request.width // 8) * (request.height // 8) // 256)
        self._before: np.ndarray | None = None

    def after(self, step: int, latents: np.ndarray, *, is_shown: bool) -> str | None:
        """A data URL of what the picture looks like after this step, counted from 0; None if it is not to be shown.

        It is the clean latent that the step was heading for: the latent itself is mostly noise for most of the time.
        At the first step there is nothing yet to tell that from.
        """
        before, self._before = self._before, latents
        if not is_shown:
            return None
        clean = latents
        if before is not None:
            t, t_next = float(self._times[step]), float(self._times[step + 1])
            clean = latents - (latents - before) * (t_next / (t_next - t))
        height, width = self._size
        return _data_url(self._pipeline.preview(clean, height=height, width=width))


class Pace:
    """Measures steps, and says how long the rest takes."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._first: float | None = None

    def left(self, done: int) -> float | None:
        """Seconds for the rest after so many steps; None after the first, which may have begun with other work."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            return None
        # Decoding at the end counts as one more step.
        return (now - self._first) / (done - 1) * (self._steps - done + 1)


def duration(seconds: float) -> str:
    """Seconds in words."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _data_url(pixels: np.ndarray) -> str:
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
