"""How the page looks: Gradio's default with the fonts of the system, so that nothing is loaded for them."""

from __future__ import annotations

import gradio as gr

_SANS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")

#: Gradio's bar has its place above the preview, whose pixels are visible; the text beside it is for screen readers.
CSS = """
#uno-progress { min-height: 3.5rem; }
#uno-progress .pending { opacity: 1; }
#uno-progress > [data-testid="status-tracker"] { height: 3.5rem; }
#uno-progress img { width: 100%; margin-top: 3.5rem; image-rendering: pixelated; border-radius: var(--radius-lg); }
#uno-progress .uno-said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
#uno-references .grid-container { --grid-cols: 4 !important; padding-top: 1.75rem; }
"""


def theme() -> gr.Theme:
    """The theme."""
    return gr.themes.Default(font=_SANS, font_mono=_MONO)
