"""Components and functions, with numpy arrays in and out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _uno_rs
from .pictures import raw

if TYPE_CHECKING:
    import numpy as np

    from .pictures import PictureLike


class Transformer:
    """The FLUX transformer, with UNO's LoRA or without, in float32.

    `path` is `flux1-dev.safetensors` or `flux1-schnell.safetensors`, `lora` UNO's `dit_lora.safetensors`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lora: str | os.PathLike[str] | None = None,
        lora_scale: float = 1.0,
        merge_lora: bool = False,
        device: str = "cpu",
    ) -> None:
        self._model = _uno_rs.Transformer(path, lora, lora_scale, merge_lora, device)

    def __call__(
        self,
        latent: np.ndarray,
        *,
        txt: np.ndarray,
        vec: np.ndarray,
        t: Sequence[float] | np.ndarray,
        guidance: Sequence[float] | np.ndarray | None = None,
        references: Sequence[np.ndarray] = (),
        pe: str = "d",
    ) -> np.ndarray:
        """The velocity of a noisy latent `[n, C, h, w]`: one forward pass.

        `txt` `[n, tokens, features]` and `vec` `[n, features]` are T5's and CLIP's states, `t` and `guidance` `[n]`,
        and references latents `[n, C, h_k, w_k]`. Returns `[n, C, h, w]`.
        """
        import numpy as np

        def array(x: np.ndarray) -> np.ndarray:
            return np.asarray(x, dtype=np.float32)

        latent = array(latent)
        return self._model.forward(
            {
                "latent": latent,
                "references": [array(r) for r in references],
                "txt": array(txt),
                "vec": array(vec),
                "t": [float(x) for x in t],
                "guidance": [1.0] * len(latent) if guidance is None else [float(x) for x in guidance],
                "pe": pe,
            }
        )


def preprocess(picture: PictureLike, *, long_side: int | None = None, exif_orientation: bool = True) -> np.ndarray:
    """A reference as the model sees it, uint8 `[H, W, 3]`: scaled as Pillow does, cropped to multiples of 16.

    `long_side` is 512 unless given (the pipeline takes 320 for two references and more).
    """
    return _uno_rs.preprocess(raw(picture, exif_orientation=exif_orientation), long_side)


def unope_ids(
    latent: tuple[int, int],
    references: Sequence[tuple[int, int]] = (),
    *,
    pe: str = "d",
    text_tokens: int = 0,
) -> np.ndarray:
    """Positions of text tokens, the noisy latent's tokens, and each reference's, float32 `[tokens, 3]`.

    Grids are (rows, columns) of tokens: a sixteenth of the picture's height and width.
    """
    return _uno_rs.position_ids(latent, list(references), pe, text_tokens)


def schedule(steps: int, sequence_length: int, *, shift: bool = True) -> np.ndarray:
    """Times from 1 to 0, float32 `[steps + 1]`.

    UNO's inference passes `(W // 8) * (H // 8) // 256` as sequence length, FLUX `(W // 16) * (H // 16)`.
    """
    import numpy as np

    return np.array(_uno_rs.timestep_schedule(steps, sequence_length, shift), dtype=np.float32)


def noise(
    seed: int,
    height: int,
    width: int,
    *,
    source: str = "torch-cuda",
    dtype: str = "bfloat16",
    channels: int = 16,
) -> np.ndarray:
    """Initial noise, float32 `[1, channels, height / 8, width / 8]`.

    `source` is `torch-cuda` or `torch-cpu`: the device on which torch draws the same. `dtype`, bfloat16 or float32, is
    what the noise is rounded to: the official pipeline's is bfloat16.
    """
    return _uno_rs.initial_noise(seed, height, width, source, dtype, channels)
