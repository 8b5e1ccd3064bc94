"""UNO in the browser with Gradio: `python -m uno_rs.app`, or `create_app` inside another program.

    from uno_rs import UnoPipeline
    from uno_rs.app import create_app, launch_options

    create_app(UnoPipeline.from_pretrained("models/uno")).launch(**launch_options())

Needs Gradio 6: `pip install uno-rs[app]`. Nothing imports it before `create_app` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import PORT, QUEUE, UPLOAD
from .command import main
from .requirement import require_gradio

if TYPE_CHECKING:
    import gradio as gr

    from ..pipeline import UnoPipeline

__all__ = ["create_app", "launch_options", "main"]


def create_app(pipeline: UnoPipeline, *, queue: int = QUEUE) -> gr.Blocks:
    """The page for a loaded pipeline. One picture is made at a time; at most `queue` requests wait.

    Launch it with `launch_options`, or mount it with `gradio.mount_gradio_app`. Files of users are removed when they
    are a day old, and when the app ends.

    Raises ImportError without Gradio 6, ValueError for a queue below 1.
    """
    require_gradio()
    from .interface import build
    from .work import Worker

    if queue < 1:
        raise ValueError(f"queue: got {queue}, wanted at least 1")
    return build(Worker(pipeline), queue)


def launch_options(*, port: int = PORT, share: bool = False, max_upload: int = UPLOAD) -> dict[str, Any]:
    """Keyword arguments for `Blocks.launch`: this machine only, fonts of the system, and nothing sent elsewhere.

    `max_upload` is the largest file of a reference in bytes. With `share` Gradio opens a public address through its
    own servers, and whoever has it can make pictures.

    Raises ImportError without Gradio 6.
    """
    require_gradio()
    from .theme import CSS, theme

    return {
        "server_name": "127.0.0.1",
        "server_port": port,
        "share": share,
        "max_file_size": max_upload,
        "theme": theme(),
        "css": CSS,
        "footer_links": ["api"],
        # Each of these is turned on by a variable of the environment where it is not given.
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
    }
