"""Makes tests/fixtures/pictures/pillow: TIFFs, GIFs and JPEGs of kinds that few programs write, and what Pillow makes of them.

usage: python make_pictures.py [--out DIR]

Needs Pillow 11.3.0 and numpy (requirements.txt). The same versions give the same bytes. `index.json` lists for each TIFF and GIF what
the official preprocessing makes of it at two sizes; JPEGs come without, since decoders differ in the last bits.
"""

import argparse
import io
import itertools
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 40, 28
LONG_SIDES = (40, 56)


def preprocess(path, long_side):
    """A reference as the official code sees it: resized in its own mode, cropped, then converted to RGB."""
    image = Image.open(path)
    w, h = image.size
    size = (long_side, int((long_side / w) * h)) if w >= h else (int((long_side / h) * w), long_side)
    image = image.resize(size, resample=Image.LANCZOS)
    cw, ch = size[0] // 16 * 16, size[1] // 16 * 16
    left, top = (size[0] - cw) // 2, (size[1] - ch) // 2
    return image.crop((left, top, left + cw, top + ch)).convert("RGB")


def packed(samples, bits):
    """Rows of samples of so many bits, each row filled up to whole bytes."""
    if bits == 8:
        return samples.astype(np.uint8).tobytes()
    rows = ["".join(f"{v:0{bits}b}" for v in row) for row in samples]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def tiff(data, photometric, bits, samples=1, extra=None, colours=None, big_endian=False, more=()):
    """An uncompressed TIFF of one strip."""
    order, tags = (">" if big_endian else "<"), {256: WIDTH, 257: HEIGHT, 258: [bits] * samples, 259: 1, 262: photometric}
    tags |= {277: samples, 278: HEIGHT, 279: len(data), **dict(more)}
    if extra is not None:
        tags[338] = extra
    if colours is not None:
        tags[320] = list(colours)
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[273] = start
    table, heap = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        packed_values = b"".join(struct.pack(order + "H", v) for v in values)
        if len(packed_values) > 4:
            place, heap = start + len(data) + len(heap), heap + packed_values
            packed_values = struct.pack(order + "I", place)
        table += struct.pack(order + "HHI", tag, 3, len(values)) + packed_values.ljust(4, b"\0")
    begin = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "IH", 8, len(tags))
    return begin + table + bytes(4) + data + heap


def lzw(samples, bits):
    """Data of a GIF, in codes that stay as wide as they begin: a clear code comes before they would grow."""
    width, clear, held, count, data = bits + 1, 1 << bits, 0, 0, bytearray()
    codes = []
    for i, sample in enumerate(samples):
        codes += [clear] * (i % (clear - 2) == 0) + [int(sample)]
    for code in [*codes, clear + 1]:
        held, count = held | code << count, count + width
        while count >= 8:
            data.append(held & 255)
            held, count = held >> 8, count - 8
    data.append(held)
    blocks = b"".join(bytes([len(data[i : i + 255])]) + bytes(data[i : i + 255]) for i in range(0, len(data), 255))
    return bytes([bits]) + blocks + b"\0"


def gif(frame, palette, own=None, transparent=None, background=0, at=(0, 0), interlaced=False):
    """A GIF of one frame on a screen of WIDTH x HEIGHT; palettes of 16 colours."""
    data = b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0x83 if palette else 0, background, 0) + bytes(palette or [])
    if transparent is not None:
        data += b"!\xf9\x04" + bytes([1, 0, 0, transparent]) + b"\0"
    height, width = frame.shape
    data += b"," + struct.pack("<HHHHB", *at, width, height, (0x83 if own else 0) | (0x40 if interlaced else 0)) + bytes(own or [])
    if interlaced:
        frame = np.concatenate([frame[0::8], frame[4::8], frame[2::4], frame[1::2]])
    return data + lzw(frame.ravel(), 4) + b";"


def draw(out):
    """Writes the pictures; returns the names of those that Pillow's result is wanted of."""
    random = np.random.default_rng(3407)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rings = (np.sin(np.hypot(x - 18, y - 12) / 2) * 100 + 128).astype(np.uint8)
    rgb = np.stack([rings, (x * 6).astype(np.uint8), (y * 9).astype(np.uint8)], -1)
    alpha = np.clip(255 - np.hypot(x - 20, y - 14) * 14, 0, 255).astype(np.uint8)
    files = {}
    for bits in (1, 2, 4, 8):
        colours = random.integers(0, 1 << 16, 3 << bits).tolist()
        data = packed(rings >> (8 - bits), bits)
        files[f"palette{bits}.tif"] = tiff(data, 3, bits, colours=colours, big_endian=bits == 2)
        files[f"white_is_zero{bits}.tif"] = tiff(data, 0, bits, big_endian=bits == 4)
    # The lowest bit first, as fax programs write.
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed(rings >> 7, 1))
    files["lowest_bit_first.tif"] = tiff(turned, 1, 1, more={266: 2})
    # A predictor counts for nothing without a compression that has one.
    files["predictor_of_nothing.tif"] = tiff(rgb.tobytes(), 2, 8, 3, more={317: 2})
    grey_alpha = np.dstack([rings, alpha]).tobytes()
    files["grey_alpha.tif"] = tiff(grey_alpha, 1, 8, 2, extra=2)
    rgba = np.dstack([rgb, alpha])
    premultiplied = np.dstack([(rgb.astype(int) * alpha[..., None] // 255).astype(np.uint8), alpha])
    files["associated_alpha.tif"] = tiff(premultiplied.tobytes(), 2, 8, 4, extra=1)
    files["no_alpha.tif"] = tiff(rgba.tobytes(), 2, 8, 4, extra=0)
    files["alpha_and_more.tif"] = tiff(np.dstack([rgba, rings]).tobytes(), 2, 8, 5, extra=[2, 0], big_endian=True)
    image = Image.fromarray(rgb)
    kinds = {"palette": image.quantize(200), "grey_alpha": Image.fromarray(np.dstack([rings, alpha])), "rgba": Image.fromarray(rgba)}
    for (name, picture), compression in itertools.product(kinds.items(), ("tiff_lzw", "tiff_adobe_deflate", "packbits")):
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF", compression=compression, tiffinfo={317: 2} if compression == "tiff_lzw" else {})
        files[f"{name}_{compression}.tif"] = buffer.getvalue()

    colourful, other = (random.integers(0, 256, 48).tolist() for _ in range(2))
    greys, spread = ([level * step for level in range(16) for _ in range(3)] for step in (1, 17))
    whole, part = rings >> 4, rings[3:20, 5:28] >> 4
    files["small_frame.gif"] = gif(part, colourful, at=(9, 6), background=7)
    files["small_frame_transparent.gif"] = gif(part, colourful, transparent=5, at=(9, 6), background=7)
    files["small_frame_own_palette.gif"] = gif(part, colourful, own=other, transparent=3, at=(17, 11))
    files["small_frame_interlaced.gif"] = gif(part, colourful, at=(2, 8), interlaced=True)
    files["beyond_the_screen.gif"] = gif(part, colourful, transparent=1, at=(25, 20))
    files["only_own_palette.gif"] = gif(whole, None, own=other)
    files["palette_of_greys.gif"] = gif(part, greys, transparent=9, at=(9, 6))
    files["spread_greys.gif"] = gif(whole, spread, interlaced=True)

    photo = Image.fromarray(np.kron(rgb, np.ones((4, 4, 1), np.uint8)) ^ random.integers(0, 24, (4 * HEIGHT, 4 * WIDTH, 3), np.uint8))
    for name, options in {
        "baseline.jpg": {},
        "progressive.jpg": {"progressive": True},
        "restarts.jpg": {"restart_marker_blocks": 3},
        "progressive_restarts.jpg": {"progressive": True, "restart_marker_rows": 1, "subsampling": 0},
        "grey.jpg": {"progressive": True},
    }.items():
        picture = photo.convert("L") if name.startswith("grey") else photo
        picture.save(out / name, quality=70, **options)
    for name, data in files.items():
        (out / name).write_bytes(data)
    return sorted(files)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/fixtures/pictures/pillow")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    index = []
    for name, long_side in itertools.product(draw(out), LONG_SIDES):
        output = f"{name}_{long_side}.out.png"
        preprocess(out / name, long_side).save(out / output)
        index.append({"input": name, "long_side": long_side, "output": output})
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
