"""The program `python -m uno_rs.app`: loads the model, serves the page, and cleans up."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .._uno_rs import UnoError
from ..pipeline import UNO_REPO, UnoPipeline
from . import arguments
from .requirement import require_gradio

#: Variables of the environment that name a model's files.
_VARIABLES = ("FLUX_DEV", "FLUX_DEV_FP8", "FLUX_SCHNELL", "AE", "T5", "CLIP", "LORA")
#: References that memory is planned for: all that the page takes.
_REFERENCES = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until Ctrl-C or SIGTERM. Returns 0, or 1 after saying what went wrong."""
    options = arguments.parse(argv)
    try:
        require_gradio()
        serve(load(options), options)
    except KeyboardInterrupt:
        pass
    except (ImportError, OSError, UnoError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def load(options: argparse.Namespace) -> UnoPipeline:
    """The pipeline that the command line names; raises as `UnoPipeline.from_pretrained`."""
    # One by one, for type checkers: both ways of loading take these.
    if options.model is None and not options.download:
        if options.name is not None or any(os.environ.get(name) for name in _VARIABLES):
            return UnoPipeline.from_files(
                model_type=options.name,
                device=options.device,
                dtype=options.dtype,
                memory=options.memory or "auto",
                offload=options.offload,
                plan_references=_REFERENCES,
                lora_scale=options.lora_scale,
            )
    return UnoPipeline.from_pretrained(
        UNO_REPO if options.download else options.model,
        model_type=options.name,
        device=options.device,
        dtype=options.dtype,
        memory=options.memory or "auto",
        offload=options.offload,
        plan_references=_REFERENCES,
        lora_scale=options.lora_scale,
    )


def serve(pipeline: UnoPipeline, options: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM; raises OSError for a port that is taken."""
    from . import launch_options
    from .interface import build
    from .work import Worker

    worker = Worker(pipeline)
    with _ended_by_signals() as ended, _temporary_files():
        app = build(worker, options.queue)
        try:
            _, address, public = app.launch(
                **launch_options(port=options.port, share=options.share, max_upload=options.max_upload),
                quiet=True,
                prevent_thread_lock=True,
            )
            print(f"open {address}", file=sys.stderr)
            if options.share:
                print(f"public, for whoever has it: {public or 'none, Gradio could not open one'}", file=sys.stderr)
            while not ended.wait(1.0):
                pass
        finally:
            worker.stop()
            app.close(verbose=False)


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. In another thread than the main one signals stay as they are."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: ended.set()) for kind in kinds]
    try:
        yield ended
    finally:
        for kind, handler in zip(kinds, before):
            signal.signal(kind, handler)


@contextmanager
def _temporary_files() -> Iterator[None]:
    """A folder for uploads and pictures, which is removed at the end."""
    name = "GRADIO_TEMP_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="uno-app-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
