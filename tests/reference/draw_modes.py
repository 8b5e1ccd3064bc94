"""Small pictures in every mode that Pillow treats in its own way."""

import numpy as np
import png as pypng
from PIL import Image


def draw_modes(folder):
    """Writes the pictures and returns their names."""
    y, x = np.mgrid[0:50, 0:70]
    rings = (np.sin(np.hypot(x - 30, y - 20) / 3) * 100 + 128).astype(np.uint8)
    rgb = np.stack([rings, (x * 3).astype(np.uint8), (y * 5).astype(np.uint8)], -1)
    alpha = np.clip(255 - np.hypot(x - 35, y - 25) * 8, 0, 255).astype(np.uint8)
    image = Image.fromarray(rgb)
    palette = image.quantize(40)
    save = lambda picture, name, **options: picture.save(folder / name, **options)  # noqa: E731
    save(Image.fromarray(np.dstack([rgb, alpha])), "rgba.png")
    save(Image.fromarray(np.dstack([rings, alpha])), "grey_alpha.png")
    save(palette, "palette.png", transparency=3)
    save(image.quantize(3), "palette2.png", bits=2)
    save(image, "transparent_colour.png", transparency=tuple(int(v) for v in rgb[10, 10]))
    save(Image.fromarray(rings > 128), "one_bit.png")
    save(palette, "palette.bmp")
    save(Image.fromarray(rings), "grey.bmp")
    save(image, "rgb.tiff")
    save(image, "lossless.webp", lossless=True)
    save(Image.fromarray(np.dstack([rgb, alpha])), "alpha.webp", lossless=True, exact=True)
    save(palette, "palette.gif")
    # What Pillow does not write: 16 bits per channel, 4-bit grey, interlace.
    wide = (rgb.astype(np.uint16) << 8) | rgb[::-1]
    with open(folder / "rgb16.png", "wb") as f:
        pypng.Writer(70, 50, greyscale=False, bitdepth=16).write(f, wide.reshape(50, -1).tolist())
    with open(folder / "rgba16.png", "wb") as f:
        both = np.dstack([wide, alpha.astype(np.uint16) << 8])
        pypng.Writer(70, 50, greyscale=False, alpha=True, bitdepth=16).write(f, both.reshape(50, -1).tolist())
    with open(folder / "grey4.png", "wb") as f:
        pypng.Writer(70, 50, greyscale=True, bitdepth=4).write(f, (rings >> 4).tolist())
    with open(folder / "interlaced.png", "wb") as f:
        pypng.Writer(70, 50, greyscale=False, interlace=True).write(f, rgb.reshape(50, -1).tolist())
    return sorted(p.name for p in folder.iterdir() if ".out." not in p.name)
