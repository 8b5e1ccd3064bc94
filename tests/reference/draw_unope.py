"""Draws docs/images/unope.png: where UnoPE puts the tokens of the text, the noisy latent and the references.

    venv/bin/python tests/reference/draw_unope.py                 # from the repository root

The picture has its own light ground with rounded corners, so that it can be read on light and dark pages alike. The font
is the one inside Pillow.
"""

import argparse
import pathlib

from PIL import Image, ImageDraw, ImageFont

SCALE = 3
WIDTH, HEIGHT = 1200, 776
LEFT, TOP, CELL = 214, 152, 40
GROUND, BORDER, INK, SOFT = "#fbfcfe", "#ccd3dc", "#1f2937", "#5b6675"
TEXT = ("#7c3aed", "#ede4ff")
# Name, rows, columns, (strong, fill, band) colours.
PARTS = [
    ("noisy latent", 6, 6, ("#1d4ed8", "#a9c6fb", "#eef4ff")),
    ("reference 1", 5, 4, ("#b45309", "#fbd08a", "#fff6e6")),
    ("reference 2", 3, 5, ("#047857", "#93dcb8", "#e9f9f1")),
]
MODES = [("d", "rows and columns (default)"), ("h", "rows only"), ("w", "columns only"), ("o", "none: all overlap")]


class Page:
    """A drawing in final pixels, made SCALE times as large."""

    def __init__(self):
        self.image = Image.new("RGBA", (WIDTH * SCALE, HEIGHT * SCALE), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def box(self, x, y, w, h, fill=None, line=None, width=1, radius=0):
        # Pillow's corners are inclusive; one pixel less keeps neighbours apart.
        area = [x * SCALE, y * SCALE, (x + w) * SCALE - 1, (y + h) * SCALE - 1]
        self.draw.rounded_rectangle(area, radius * SCALE, fill, line, width * SCALE if line else 0)

    def line(self, points, colour, width=2):
        self.draw.line([(x * SCALE, y * SCALE) for x, y in points], colour, round(width * SCALE))

    def head(self, x, y, right, colour):
        """An arrow head that points right, or down."""
        tip = [(9, 0), (-3, -6), (-3, 6)] if right else [(0, 9), (-6, -3), (6, -3)]
        self.draw.polygon([((x + dx) * SCALE, (y + dy) * SCALE) for dx, dy in tip], colour)

    def dot(self, x, y, radius, fill, line="#ffffff"):
        self.draw.ellipse([(v * SCALE) for v in (x - radius, y - radius, x + radius, y + radius)], fill, line, 2 * SCALE)

    def text(self, x, y, words, size=18, colour=INK, anchor="lm", bold=False):
        font = ImageFont.load_default(size * SCALE)
        # The font has one weight only: a thin stroke of the same colour makes it bolder.
        stroke = round(size * SCALE / 42) if bold else 0
        self.draw.text((x * SCALE, y * SCALE), words, colour, font, anchor, stroke_width=stroke, stroke_fill=colour)

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image.resize((WIDTH, HEIGHT), Image.Resampling.BOX).save(path, optimize=True)
        print(f"{path.stat().st_size:7,}  {path.name}  {WIDTH}x{HEIGHT}")


def placed():
    """Each part with the row and column where it starts: the offsets of mode `d`."""
    row = column = 0
    for name, rows, columns, colours in PARTS:
        yield name, row, column, rows, columns, colours
        row, column = row + rows, column + columns


def draw(page):
    parts = list(placed())
    rows, columns = sum(p[3] for p in parts), sum(p[4] for p in parts)
    wide, high = columns * CELL, rows * CELL
    at = lambda row, column: (LEFT + column * CELL, TOP + row * CELL)

    page.box(0, 0, WIDTH, HEIGHT, GROUND, BORDER, 1, 18)
    page.text(36, 42, "UnoPE: every picture has its own rows and columns", 27, bold=True)
    page.text(36, 76, "Position ids (0, row, column) of all tokens in mode d, in a small example", 18, SOFT)

    # The rows and columns that each part takes, from the axes to the part.
    for _, row, column, r, c, (strong, _, band) in parts[1:]:
        x, y = at(row, column)
        page.box(LEFT, y, x - LEFT, r * CELL, band)
        page.box(x, TOP, c * CELL, y - TOP, band)
        for i in range(0, x - LEFT, 10):
            page.line([(LEFT + i, y), (LEFT + i + 5, y)], strong, 1)
        for i in range(0, y - TOP, 10):
            page.line([(x, TOP + i), (x, TOP + i + 5)], strong, 1)

    # Axes.
    page.line([(LEFT, TOP), (LEFT + wide + 34, TOP)], INK)
    page.head(LEFT + wide + 34, TOP, True, INK)
    page.text(LEFT + wide + 52, TOP, "column", 19, anchor="lm")
    page.line([(LEFT, TOP), (LEFT, TOP + high + 22)], INK)
    page.head(LEFT, TOP + high + 22, False, INK)
    page.text(LEFT - 16, TOP + high + 20, "row", 19, anchor="rm")

    for _, row, column, r, c, (strong, fill, _) in parts:
        x, y = at(row, column)
        for i in range(r):
            for j in range(c):
                page.box(x + j * CELL + 1.5, y + i * CELL + 1.5, CELL - 3, CELL - 3, fill, radius=5)
        page.box(x, y, c * CELL, r * CELL, line=strong, width=3, radius=6)
        page.text(x + CELL / 2, TOP - 16, str(column), 18, strong, "mm", bold=True)
        page.text(LEFT - 16, y + CELL / 2, str(row), 18, strong, "rm", bold=True)

    # Text tokens share the first place of the latent.
    page.box(30, 106, 150, 54, TEXT[1], TEXT[0], 2, 8)
    page.text(105, 122, "text tokens", 18, TEXT[0], "mm", bold=True)
    page.text(105, 144, "all at (0, 0)", 17, TEXT[0], "mm")
    x, y = LEFT + CELL / 2, TOP + CELL / 2
    page.line([(180, 142), (x, y)], TEXT[0], 2.5)
    page.dot(x, y, 9, TEXT[0])

    sums = [None, "= (0 + 6, 0 + 6)", "= (6 + 5, 6 + 4)"]
    for (name, row, column, r, c, (strong, _, _)), sum_of in zip(parts, sums):
        x, y = at(row, column + c)
        x, y = x + 16, y + 26
        page.text(x, y, name, 22, strong, bold=True)
        page.text(x, y + 28, f"{r} x {c} tokens", 18)
        page.text(x, y + 54, f"from ({row}, {column})", 18)
        if sum_of:
            page.text(x, y + 80, sum_of, 18, SOFT)

    x, y = LEFT + wide + 30, TOP + 44
    page.box(x - 18, y - 26, WIDTH - x - 12, 192, "#ffffff", BORDER, 1, 10)
    page.text(x, y, "Offsets by mode", 19, bold=True)
    for i, (mode, what) in enumerate(MODES):
        page.text(x, y + 34 + 32 * i, mode, 18, INK, bold=True)
        page.text(x + 24, y + 34 + 32 * i, what, 18, SOFT)


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--out", type=pathlib.Path, default=root / "docs" / "images")
    args = args.parse_args()
    page = Page()
    draw(page)
    page.save(args.out / "unope.png")


if __name__ == "__main__":
    main()
