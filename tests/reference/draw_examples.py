"""Draws the two reference pictures that the examples use: a striped teapot and a toy robot.

    venv/bin/python tests/reference/draw_examples.py              # from the repository root

Writes examples/assets/teapot.png (512x512) and examples/assets/robot.png (512x640). Shapes are drawn at four times the
size and scaled down, which smooths their edges. Drawn for this project; no picture of others was used.
"""

import argparse
import math
import pathlib

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SCALE = 4
INK = "#2f3a4a"


class Canvas:
    """A picture drawn at SCALE times its size; all coordinates are in its final pixels."""

    def __init__(self, width, height, ground):
        self.size = (width * SCALE, height * SCALE)
        self.image = Image.new("RGB", self.size, ground)

    def mask(self):
        mask = Image.new("L", self.size, 0)
        return mask, ImageDraw.Draw(mask)

    def paint(self, mask, colour, opacity=1.0, within=None):
        if within is not None:
            mask = ImageChops.multiply(mask, within)
        if opacity < 1:
            mask = mask.point(lambda v: round(v * opacity))
        self.image.paste(colour, (0, 0, *self.size), mask)

    def ellipse(self, box):
        mask, draw = self.mask()
        draw.ellipse([v * SCALE for v in box], fill=255)
        return mask

    def rounded(self, box, radius):
        mask, draw = self.mask()
        draw.rounded_rectangle([v * SCALE for v in box], radius * SCALE, fill=255)
        return mask

    def polygon(self, points):
        mask, draw = self.mask()
        draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=255)
        return mask

    def stroke(self, points, width):
        """A line with round ends and joints; `width` is a number, or a function of the way along it (0 to 1)."""
        mask, draw = self.mask()
        for i, (x, y) in enumerate(points):
            r = (width(i / (len(points) - 1)) if callable(width) else width) / 2
            draw.ellipse([(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE], fill=255)
        return mask

    def shadow(self, box, opacity, blur):
        self.paint(self.ellipse(box).filter(ImageFilter.GaussianBlur(blur * SCALE)), "#5d6470", opacity)

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        small = self.image.resize((self.size[0] // SCALE, self.size[1] // SCALE), Image.Resampling.BOX)
        small.save(path, optimize=True)
        print(f"{path.stat().st_size:7,}  {path.name}  {small.width}x{small.height}")


def curve(points, steps=400):
    """A Bézier curve through its control points' hull, as a list of points."""
    degree = len(points) - 1
    weights = [math.comb(degree, k) for k in range(degree + 1)]
    result = []
    for i in range(steps + 1):
        t = i / steps
        terms = [w * (1 - t) ** (degree - k) * t**k for k, w in enumerate(weights)]
        result.append(tuple(sum(f * p[axis] for f, p in zip(terms, points)) for axis in (0, 1)))
    return result


def grown(mask, pixels):
    """The mask made larger by `pixels` on all sides."""
    return mask.filter(ImageFilter.GaussianBlur(pixels * SCALE / 2)).point(lambda v: 255 if v > 12 else 0)


def outlined(canvas, mask, colour, edge=INK, width=5):
    canvas.paint(grown(mask, width), edge)
    canvas.paint(mask, colour)


def teapot(path):
    c = Canvas(512, 512, "#f4efe6")
    c.shadow((96, 408, 424, 446), 0.35, 9)
    teal, dark, cream, gold = "#2f8f9d", "#22707b", "#fbf3df", "#f2b134"

    handle = c.stroke(curve([(362, 222), (462, 180), (486, 300), (430, 352), (352, 356)]), 25)
    outlined(c, handle, dark)
    spout = c.stroke(curve([(160, 340), (92, 336), (108, 240), (58, 204)]), lambda t: 80 - 50 * t)
    outlined(c, spout, teal)
    lip = c.stroke([(30 + 40 * i / 60, 217 - 33 * i / 60) for i in range(61)], 18)
    outlined(c, lip, gold, width=4)

    foot = c.rounded((188, 398, 324, 428), 12)
    outlined(c, foot, dark)
    body = c.ellipse((116, 184, 396, 418))
    outlined(c, body, teal)
    # Stripes bend with the belly: each lies between two flat arcs.
    for top, colour, height in [(228, cream, 26), (280, gold, 26), (332, cream, 26)]:
        bow = 26
        upper = [(106 + 3 * i, top + bow * (1 - ((i - 50) / 50) ** 2)) for i in range(101)]
        lower = [(x, y + height) for x, y in reversed(upper)]
        c.paint(c.polygon(upper + lower), colour, within=body)
    dots = [(x, 293 + 26 * (1 - ((x - 256) / 150) ** 2)) for x in range(146, 376, 44)]
    for x, y in dots:
        c.paint(c.ellipse((x - 5, y - 5, x + 5, y + 5)), "#c8553d", within=body)
    shade = ImageChops.subtract(body, c.ellipse((86, 156, 380, 404)))
    c.paint(shade, "#123c46", 0.28)
    c.paint(c.stroke(curve([(143, 282), (148, 244), (180, 222)]), 10), "#ffffff", 0.55)

    lid = ImageChops.multiply(c.ellipse((172, 142, 340, 262)), c.rounded((160, 130, 352, 202), 0))
    outlined(c, lid, dark)
    c.paint(c.stroke(curve([(196, 182), (206, 164), (232, 154)]), 8), "#ffffff", 0.45)
    rim = c.rounded((164, 194, 348, 212), 9)
    outlined(c, rim, gold)
    knob = c.ellipse((236, 100, 276, 140))
    outlined(c, c.rounded((246, 130, 266, 150), 3), dark)
    outlined(c, knob, "#c8553d")
    c.paint(c.ellipse((244, 107, 256, 119)), "#ffffff", 0.6)
    c.save(path)


def robot(path):
    c = Canvas(512, 640, "#edf1f5")
    c.shadow((118, 572, 394, 606), 0.35, 9)
    red, deep, steel, pale, yellow, sky = "#e4573d", "#b53f2a", "#9fb0c0", "#dfe7ee", "#f6c244", "#5cc3d6"

    for side in (-1, 1):
        x = 256 + side * 56
        outlined(c, c.rounded((x - 17, 496, x + 17, 566), 6), steel)
        for y in (514, 530, 546):
            c.paint(c.rounded((x - 17, y, x + 17, y + 4), 2), "#7c8d9d")
        outlined(c, c.rounded((x - 40, 556, x + 40, 592), 17), deep)
        c.paint(c.rounded((x - 40, 582, x + 40, 592), 5), "#8f2f1f")
    # One arm hangs, the other waves.
    for arm, hand in [([(148, 356), (88, 372), (92, 448)], (92, 462)), ([(364, 356), (444, 356), (446, 288)], (446, 272))]:
        outlined(c, c.stroke(curve(arm), 29), steel)
        turn = 1 if hand[1] > 400 else -1
        palm = c.ellipse((hand[0] - 30, hand[1] - 30, hand[0] + 30, hand[1] + 30))
        top, bottom = sorted((hand[1], hand[1] + turn * 40))
        gap = c.rounded((hand[0] - 9, top, hand[0] + 9, bottom), 6)
        outlined(c, ImageChops.subtract(palm, gap), yellow)
    for x in (146, 366):
        outlined(c, c.ellipse((x - 25, 331, x + 25, 381)), deep)

    outlined(c, c.rounded((226, 280, 286, 330), 6), steel)
    body = c.rounded((148, 316, 364, 506), 34)
    outlined(c, body, red)
    c.paint(ImageChops.subtract(body, c.rounded((130, 300, 346, 490), 34)), "#6d1f10", 0.25)
    outlined(c, c.rounded((184, 350, 328, 440), 16), pale, width=4)
    c.paint(c.ellipse((198, 366, 256, 424)), INK)
    c.paint(c.ellipse((203, 371, 251, 419)), "#ffffff")
    c.paint(c.stroke([(227 + 13 * i / 40, 395 - 13 * i / 40) for i in range(41)], 5), deep)
    c.paint(c.ellipse((222, 390, 232, 400)), INK)
    for i, colour in enumerate((yellow, sky, "#7fbf6a")):
        y = 374 + 22 * i
        c.paint(c.rounded((272, y - 6, 314, y + 6), 6), INK)
        c.paint(c.rounded((274, y - 4, 274 + (38, 26, 14)[i], y + 4), 4), colour)
    for i in range(5):
        x = 200 + 28 * i
        c.paint(c.ellipse((x - 6, 462, x + 6, 474)), deep)

    outlined(c, c.rounded((250, 92, 262, 140), 4), steel)
    outlined(c, c.ellipse((234, 58, 278, 102)), yellow)
    c.paint(c.ellipse((243, 66, 256, 79)), "#ffffff", 0.7)
    for x in (126, 386):
        outlined(c, c.rounded((x - 17, 186, x + 17, 246), 12), yellow)
    head = c.rounded((138, 134, 374, 296), 46)
    outlined(c, head, red)
    c.paint(ImageChops.subtract(head, c.rounded((120, 118, 356, 280), 46)), "#6d1f10", 0.25)
    c.paint(c.stroke(curve([(160, 200), (158, 158), (200, 154)]), 10), "#ffffff", 0.5)
    outlined(c, c.rounded((168, 166, 344, 264), 34), "#263445", width=4)
    for x in (216, 296):
        c.paint(c.ellipse((x - 24, 182, x + 24, 230)), sky)
        c.paint(c.ellipse((x - 12, 194, x + 12, 218)), "#103040")
        c.paint(c.ellipse((x - 2, 194, x + 9, 205)), "#ffffff")
    c.paint(c.stroke(curve([(226, 238), (256, 258), (286, 238)]), 6), "#ffffff")
    c.save(path)


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--out", type=pathlib.Path, default=root / "examples" / "assets")
    args = args.parse_args()
    teapot(args.out / "teapot.png")
    robot(args.out / "robot.png")


if __name__ == "__main__":
    main()
