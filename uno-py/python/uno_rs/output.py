"""What a generation gives back."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _uno_rs

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image


@dataclass
class UnoOutput:
    """Pictures and their settings. In a notebook it shows itself."""

    #: PIL images; with `output_type="np"` float32 `[n, H, W, 3]` in 0 to 1, with `"latent"` `[n, C, H / 8, W / 8]`.
    images: list[PIL.Image.Image] | np.ndarray
    #: Settings of each picture: prompt, the seed that was used, sizes, model fingerprints ...
    metadata: list[dict[str, Any]]
    #: What was changed or noticed: rounded sizes, truncated prompts.
    notices: list[str] = field(default_factory=list)
    #: Seconds that the whole took.
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Saves PIL images as `0.png`, `1.png` ... with their settings inside, and returns the paths.

        The settings in a file name references and the model's files without their folders. Earlier results of that name are
        replaced.

        Raises ValueError if the images are no PIL images, FileExistsError for a picture of that name that was not made by
        uno-rs; then nothing is saved.
        """
        from PIL.PngImagePlugin import PngInfo

        paths = []
        os.makedirs(folder, exist_ok=True)
        places = [os.path.join(folder, f"{i}.png") for i in range(len(self._pil()))]
        for path in places:
            if os.path.lexists(path) and not _is_ours(path):
                raise FileExistsError(
                    f"{path}: is there already and was not made by uno-rs, so it is not replaced; save to another folder"
                )
        for path, image, settings in zip(places, self._pil(), self.metadata):
            info = PngInfo()
            info.add_itxt("Description", settings["prompt"])
            info.add_itxt("uno", json.dumps(_without_folders(settings), ensure_ascii=False))
            # Complete or not at all: written beside its place, then moved there.
            partial = f"{path}.part"
            image.save(partial, format="PNG", pnginfo=info)
            os.replace(partial, path)
            paths.append(path)
        return paths

    def _pil(self) -> list[PIL.Image.Image]:
        if not isinstance(self.images, list):
            raise ValueError('images are arrays, wanted PIL images: call the pipeline with output_type="pil"')
        return self.images

    def _repr_html_(self) -> str | None:
        if not isinstance(self.images, list):
            return None
        figures = []
        for image, settings in zip(self.images, self.metadata):
            file = io.BytesIO()
            image.save(file, format="PNG")
            data = base64.b64encode(file.getvalue()).decode()
            prompt = html.escape(settings["prompt"] or "(no prompt)", quote=True)
            line = (
                f"seed {settings['seed']} &middot; {settings['width']}&times;{settings['height']} &middot; "
                f"{settings['num_steps']} steps &middot; guidance {settings['guidance']:g} &middot; "
                f"{html.escape(settings['model_type'])}"
            )
            figures.append(
                f'<figure style="margin:0;max-width:320px"><img alt="{prompt}" style="width:100%" '
                f'src="data:image/png;base64,{data}"><figcaption><b>{prompt}</b><br><small>{line}</small></figcaption></figure>'
            )
        notes = "".join(f"<p>{html.escape(notice)}</p>" for notice in self.notices)
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>{notes}'


def _is_ours(path: str) -> bool:
    try:
        read_settings(path)
    except (OSError, ValueError):
        return False
    return True


def _without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings with files by their names alone: a picture leaves the machine."""

    def name(record: dict[str, Any]) -> dict[str, Any]:
        return record | {"path": re.split(r"[/\\]", record["path"].rstrip("/\\"))[-1]}

    noise = settings.get("noise_file")
    return settings | {
        "references": [name(reference) for reference in settings["references"]],
        "model": [name(file) for file in settings["model"]],
        "noise_file": noise and name(noise),
    }


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings inside a PNG or JPEG made by uno-rs, or in its JSON file.

    Raises ValueError if there are none, FileNotFoundError if there is no file.
    """
    settings: dict[str, Any] = json.loads(_uno_rs.read_settings(path))
    return settings
