"""One generation at a time, in a thread of its own that can be stopped between steps."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .preview import Pace, Preview

if TYPE_CHECKING:
    from ..pipeline import UnoPipeline
    from .inputs import Request

#: Seconds between two previews at least.
BETWEEN = 0.5


@dataclass(frozen=True)
class Waiting:
    """Another generation is not over yet: one that was cancelled goes on to the end of its step."""


@dataclass(frozen=True)
class Started:
    """Prompt and references are being encoded."""


@dataclass(frozen=True)
class Step:
    """So many steps are done."""

    done: int
    total: int
    #: Seconds for the rest, if that can be told.
    left: float | None
    #: What the picture looks like so far, as a data URL.
    preview: str | None


@dataclass(frozen=True)
class Finished:
    """The picture is there."""

    #: The PNG file, with the settings inside.
    path: Path
    settings: dict[str, Any]
    notices: list[str]
    seconds: float


Update: TypeAlias = Waiting | Started | Step | Finished


class _Stopped(Exception):
    """Raised in the callback to end a generation that nobody waits for."""


class Worker:
    """Makes pictures with one pipeline, one after the other, however many ask."""

    def __init__(self, pipeline: UnoPipeline) -> None:
        self.pipeline = pipeline
        self._turn = threading.Lock()
        self._stops: set[threading.Event] = set()

    async def run(self, request: Request, folder: str) -> AsyncGenerator[Update, None]:
        """Makes a picture in a new folder inside `folder`; the last update is `Finished`.

        Closing the iterator stops the work at the end of the step under way. What the pipeline raises comes out.
        """
        loop = asyncio.get_running_loop()
        updates: asyncio.Queue[Update | BaseException] = asyncio.Queue()
        stop = threading.Event()

        def tell(update: Update | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(updates.put_nowait, update)
            except RuntimeError:
                # The server has ended.
                stop.set()

        self._stops.add(stop)
        thread = threading.Thread(target=self._work, args=(request, folder, stop, tell), name="uno-app generation")
        thread.start()
        try:
            while True:
                update = await updates.get()
                if isinstance(update, BaseException):
                    raise update
                yield update
                if isinstance(update, Finished):
                    return
        finally:
            stop.set()

    def stop(self) -> None:
        """Ends all generations at the end of the step under way."""
        for stop in list(self._stops):
            stop.set()

    def _work(
        self, request: Request, folder: str, stop: threading.Event, tell: Callable[[Update | BaseException], None]
    ) -> None:
        has_turn = False
        try:
            has_turn = self._turn.acquire(blocking=False)
            if not has_turn:
                tell(Waiting())
            while not has_turn:
                _check(stop)
                has_turn = self._turn.acquire(timeout=0.1)
            tell(self._generate(request, folder, stop, tell))
        except _Stopped:
            pass
        # Whatever it is: else a client would wait for ever.
        except BaseException as error:
            tell(error)
        finally:
            if has_turn:
                self._turn.release()
            self._stops.discard(stop)

    def _generate(
        self, request: Request, folder: str, stop: threading.Event, tell: Callable[[Update | BaseException], None]
    ) -> Finished:
        preview, pace = Preview(self.pipeline, request), Pace(request.num_steps)
        shown = 0.0

        def on_step(_: UnoPipeline, step: int, __: float, tensors: dict[str, Any]) -> None:
            nonlocal shown
            _check(stop)
            now = time.monotonic()
            is_shown = now - shown >= BETWEEN
            picture = preview.after(step, tensors["latents"], is_shown=is_shown)
            left = pace.left(step + 1)
            if is_shown:
                shown = now
                tell(Step(step + 1, request.num_steps, left, picture))

        _check(stop)
        tell(Started())
        result = self.pipeline(
            request.prompt,
            reference_images=request.references,
            width=request.width,
            height=request.height,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance,
            seed=request.seed,
            ref_size=request.ref_size,
            callback_on_step_end=on_step,
            progress=False,
        )
        _check(stop)
        # Nobody who was not told this name finds the picture.
        place = Path(folder) / secrets.token_hex(16)
        (saved,) = result.save(place)
        path = place / f"uno-{request.seed}.png"
        os.replace(saved, path)
        return Finished(path, result.metadata[0], result.notices, result.seconds)


def _check(stop: threading.Event) -> None:
    # A program that ends waits for its threads.
    if stop.is_set() or not threading.main_thread().is_alive():
        raise _Stopped
