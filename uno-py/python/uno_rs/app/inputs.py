"""From what a client sends to what is asked of the pipeline: everything is checked, nothing is corrected."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .labels import GUIDANCE, HEIGHT, PROMPT, REF_SIZE, REFERENCES, SEED, STEPS, WIDTH

if TYPE_CHECKING:
    import PIL.Image

    from ..defaults import Defaults

#: Sides are multiples of this, in pixels.
MULTIPLE = 16
#: Most characters of a prompt. T5 reads 512 tokens, of about four characters each.
MAX_PROMPT = 4000
#: Most steps, and least and most guidance, as in the official app.
MAX_STEPS, MIN_GUIDANCE, MAX_GUIDANCE = 50, 1.0, 5.0
#: Largest seed. A browser has no larger whole number.
MAX_SEED = 2**53 - 1
#: Random seeds are below this, so that they are easy to read.
RANDOM_SEEDS = 2**32
#: Formats of references, by Pillow's names.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


class InputError(ValueError):
    """What a client sent and cannot be done, in words for people."""


@dataclass(frozen=True)
class Limits:
    """Sizes that are taken, in pixels."""

    least: int
    most: int
    least_reference: int
    most_reference: int

    @classmethod
    def of(cls, defaults: Defaults) -> Limits:
        """From half the side that the model was made for to four times that; 256 to 2048 for UNO on FLUX.1."""
        side = max(defaults.width, defaults.height)
        single, _ = defaults.ref_sizes
        return cls(side // 2, 4 * side, single // 4, single)


@dataclass(frozen=True)
class Request:
    """One picture that is asked for."""

    prompt: str
    width: int
    height: int
    guidance: float
    num_steps: int
    seed: int
    #: Longer side of the references in pixels; None: by their number.
    ref_size: int | None
    references: list[PIL.Image.Image]


def check(
    limits: Limits,
    prompt: Any,
    width: Any,
    height: Any,
    guidance: Any,
    num_steps: Any,
    seed: Any,
    ref_long_side: Any,
    pictures: Sequence[Any],
    uploads: str,
) -> Request:
    """The request; raises InputError for the first thing that cannot be. Pictures lie in the folder `uploads`."""
    if not isinstance(prompt, str):
        raise _refused(PROMPT, prompt, "a text")
    if len(prompt) > MAX_PROMPT:
        raise InputError(f"{PROMPT}: got {len(prompt)} characters, wanted at most {MAX_PROMPT}")
    sides = [_side(label, value, limits) for label, value in ((WIDTH, width), (HEIGHT, height))]
    guidance_scale = _number(GUIDANCE, guidance, MIN_GUIDANCE, MAX_GUIDANCE)
    steps = _whole(STEPS, num_steps, 1, MAX_STEPS, f"1 to {MAX_STEPS}")
    wanted = f"-1, or a whole number from 0 to {MAX_SEED}"
    number = _whole(SEED, seed, -1, MAX_SEED, wanted)
    return Request(
        prompt=prompt,
        width=sides[0],
        height=sides[1],
        guidance=guidance_scale,
        num_steps=steps,
        seed=secrets.randbelow(RANDOM_SEEDS) if number == -1 else number,
        ref_size=check_ref_size(limits, ref_long_side),
        references=open_references(pictures, uploads),
    )


def check_ref_size(limits: Limits, value: Any) -> int | None:
    """Longer side of references in pixels; None for -1."""
    least, most = limits.least_reference, limits.most_reference
    wanted = f"-1, or a whole number from {least} to {most}"
    size = _whole(REF_SIZE, value, -1, most, wanted)
    if -1 < size < least:
        raise _refused(REF_SIZE, value, wanted)
    return None if size == -1 else size


def open_references(pictures: Sequence[Any], uploads: str) -> list[PIL.Image.Image]:
    """Those pictures that are given, upright; raises InputError for one that is none, or no upload."""
    return [_open(label, picture, uploads) for label, picture in zip(REFERENCES, pictures) if picture is not None]


def _open(label: str, picture: Any, uploads: str) -> PIL.Image.Image:
    import PIL.Image
    import PIL.ImageOps

    from ..pictures import MAX_PIXELS, opened

    path = picture.get("path") if isinstance(picture, dict) else None
    # Gradio looks only at what calls itself a file; a client may send any path.
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(Path(uploads).resolve()):
        raise InputError(f"{label}: got no uploaded file, wanted one")
    wanted = ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"
    try:
        with opened("the file", Path(path).read_bytes(), FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PIL.Image.DecompressionBombError
            image.load()
            # A copy, without the name of the temporary file: settings inside pictures have names of references.
            return PIL.ImageOps.exif_transpose(image)
    except PIL.Image.DecompressionBombError:
        raise InputError(f"{label}: has more than {MAX_PIXELS} pixels; make it smaller first") from None
    except PIL.UnidentifiedImageError as error:
        reason = str(error).removeprefix("the file: ")
        raise InputError(f"{label}: {reason} (wanted {wanted})") from None
    # Pillow's decoders raise all of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError) as error:
        raise InputError(f"{label}: is damaged ({_reason(error)}), wanted a whole {wanted}") from None


def _reason(error: Exception) -> str:
    # Messages of the operating system end in the path.
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__


def _side(label: str, value: Any, limits: Limits) -> int:
    wanted = f"a multiple of {MULTIPLE} from {limits.least} to {limits.most}"
    side = _whole(label, value, limits.least, limits.most, wanted)
    if side % MULTIPLE != 0:
        raise _refused(label, value, wanted)
    return side


def _number(label: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _refused(label, value, f"{least:g} to {most:g}")
    return float(value)


def _whole(label: str, value: Any, least: int, most: int, wanted: str) -> int:
    is_whole = not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
    )
    if not is_whole or not least <= value <= most:
        raise _refused(label, value, wanted)
    return int(value)


def _refused(label: str, value: Any, wanted: str) -> InputError:
    got = "nothing" if value is None else repr(value)
    return InputError(f"{label}: got {got if len(got) <= 80 else got[:80] + '…'}, wanted {wanted}")
