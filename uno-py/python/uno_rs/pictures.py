"""Pictures as people have them (PIL, numpy, path) to the raw pixels that the binary part takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import PIL.Image

    from ._types import RawPicture

    PictureLike = str | os.PathLike[str] | PIL.Image.Image | np.ndarray

#: Pillow's modes with 8-bit channels, by the number of those.
_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
#: Most pixels that are taken, as in the Rust program.
MAX_PIXELS = 1 << 27


def raw(picture: PictureLike, *, exif_orientation: bool = True, name: str = "picture") -> RawPicture:
    """Name, width, height, channels, pixels, and whether Pillow would resize it with nearest neighbour.

    A path is opened with Pillow. EXIF orientation is honoured unless `exif_orientation` is off. An array is `[H, W]`,
    `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]`: uint8, or float in 0 to 1.

    Raises TypeError for other kinds, ValueError for arrays of other shapes or values, for a JPEG that is cut short and
    for a raw photo, FileNotFoundError, and what Pillow raises for a file that is no picture.
    """
    import PIL.Image

    if isinstance(picture, (str, os.PathLike)):
        name = os.fspath(picture)
        with open(name, "rb") as file, opened(name, file.read()) as image:
            _check_size(name, image.size)
            image.load()
            return _from_pil(image, name, exif_orientation)
    if isinstance(picture, PIL.Image.Image):
        return _from_pil(picture, getattr(picture, "filename", "") or name, exif_orientation)
    if hasattr(picture, "__array_interface__"):
        return _from_array(picture, name)
    raise TypeError(f"{name}: got {type(picture).__name__}, wanted a path, a PIL image or a numpy array")


def opened(name: str, data: bytes, formats: Sequence[str] | None = None) -> PIL.Image.Image:
    """The bytes of a picture file as Pillow opens them, not yet loaded.

    Raises ValueError for a JPEG that is cut short, even where Pillow was told to load such files, and for a raw photo,
    of which Pillow shows the preview; `PIL.UnidentifiedImageError`, which says what the file is and what to do, for
    other kinds.
    """
    import io

    import PIL.Image

    from . import _uno_rs

    _uno_rs.refuse_partial(name, data)
    try:
        return PIL.Image.open(io.BytesIO(data), formats=formats)
    except PIL.UnidentifiedImageError:
        reason = _uno_rs.unreadable(data) or "is no picture that Pillow can read; it is damaged or of an unusual kind"
        raise PIL.UnidentifiedImageError(f"{name}: {reason}") from None


def record(picture: PictureLike, taken: RawPicture) -> tuple[str, str]:
    """Where a picture came from, and the SHA-256 of the file, or of the pixels of a picture in memory."""
    import hashlib

    if isinstance(picture, (str, os.PathLike)):
        path = os.path.abspath(os.fspath(picture))
        with open(path, "rb") as file:
            sha256 = hashlib.sha256()
            while block := file.read(1 << 20):
                sha256.update(block)
        return path, sha256.hexdigest()
    name, _, _, _, pixels, _ = taken
    return name, hashlib.sha256(pixels).hexdigest()


def _check_size(name: str, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{name}: got {size[0]}x{size[1]} pixels, wanted at most {MAX_PIXELS}; make it smaller first")


def _from_pil(image: PIL.Image.Image, name: str, exif_orientation: bool) -> RawPicture:
    import PIL.ImageOps

    _check_size(name, image.size)
    if exif_orientation:
        image = PIL.ImageOps.exif_transpose(image)
    # Pillow resizes modes 1 and P with nearest neighbour, whatever is asked for.
    nearest = image.mode in ("1", "P")
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey to white; its upper byte is what is meant.
        import numpy as np

        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode not in _CHANNELS:
        image = image.convert("L" if image.mode == "1" else "RGB")
    return (name, image.width, image.height, _CHANNELS[image.mode], image.tobytes(), nearest)


def _from_array(picture: object, name: str) -> RawPicture:
    import numpy as np

    array = np.asarray(picture)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"{name}: got an array of shape {array.shape}, wanted [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    height, width, channels = array.shape
    _check_size(name, (width, height))
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
            raise ValueError(f"{name}: got float values outside of 0 to 1, wanted those, or uint8 in 0 to 255")
        array = np.rint(array * 255.0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"{name}: got an array of {array.dtype}, wanted uint8 in 0 to 255, or float in 0 to 1")
    return (name, width, height, channels, array.tobytes(), False)
