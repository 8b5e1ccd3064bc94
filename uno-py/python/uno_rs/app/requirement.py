"""Whether Gradio is there, in the version that the app is written for."""

from __future__ import annotations

#: Major version of Gradio.
WANTED = 6
_INSTALL = "install it with: pip install 'uno-rs[app]'"


def require_gradio() -> None:
    """Raises ImportError, with what to install, unless Gradio is there in the wanted version."""
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError(f"the app needs Gradio {WANTED}, which is not installed; {_INSTALL}") from None
    got = str(gradio.__version__)
    if got.partition(".")[0] != str(WANTED):
        raise ImportError(f"the app needs Gradio {WANTED}, and {got} is installed; {_INSTALL}")
