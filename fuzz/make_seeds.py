#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, seeds/<target>/*. Needs Pillow; the seeds in the repository were made with 13.0."""

import base64
import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image

SEEDS = Path(__file__).parent / "seeds"


def save(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


# --- safetensors_header -----------------------------------------------------------------------------------------------

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "BOOL": 1}


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape) in tensors.items():
        count = 1
        for d in shape:
            count *= d
        end = len(data) + count * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), end]}
        data = data.ljust(end, b"\x3c")
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def t5_weights():
    tensors, block = {"shared.weight": [2, 1]}, "encoder.block.0.layer"
    for part in "qkvo":
        tensors[f"{block}.0.SelfAttention.{part}.weight"] = [1, 1]
    tensors[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = [4, 1]
    for part in ("wi_0", "wi_1", "wo"):
        tensors[f"{block}.1.DenseReluDense.{part}.weight"] = [1, 1]
    for name in (f"{block}.0.layer_norm", f"{block}.1.layer_norm", "encoder.final_layer_norm"):
        tensors[f"{name}.weight"] = [1]
    return {name: ("F8_E4M3", shape) for name, shape in tensors.items()}


# Enough of each model for its dimensions to be found; zeros keep the data small.
FLUX = {
    "img_in.weight": ("F8_E4M3", [32, 4]),
    "txt_in.weight": ("F8_E4M3", [32, 2]),
    "vector_in.in_layer.weight": ("F8_E4M3", [32, 2]),
    "time_in.in_layer.weight": ("F8_E4M3", [32, 2]),
    "double_blocks.0.img_mlp.0.weight": ("F8_E4M3", [4, 32]),
    "double_blocks.0.img_attn.norm.query_norm.scale": ("F8_E4M3", [32]),
}
AE = {
    "encoder.conv_in.weight": ("F8_E4M3", [32, 3, 3, 0]),
    "encoder.conv_out.weight": ("F8_E4M3", [2, 32, 3, 0]),
    "encoder.down.0.block.0.conv1.weight": ("F8_E4M3", [32, 32, 3, 0]),
    "encoder.down.1.block.0.conv1.weight": ("F8_E4M3", [64, 32, 3, 0]),
}
CLIP = {
    "text_model.embeddings.token_embedding.weight": ("F8_E4M3", [2, 64]),
    "text_model.embeddings.position_embedding.weight": ("F8_E4M3", [2, 64]),
    "text_model.encoder.layers.0.mlp.fc1.weight": ("F8_E4M3", [1, 64]),
}


def safetensors_header():
    every = {f"x.{dtype}": (dtype, [2]) for dtype in SIZES}
    save("safetensors_header", "every_dtype", safetensors(every, {"format": "pt"}))
    save("safetensors_header", "scalar_and_empty", safetensors({"s": ("F32", []), "e": ("F32", [0, 3])}))
    save("safetensors_header", "t5", safetensors(t5_weights()))
    save("safetensors_header", "flux", safetensors(FLUX))
    save("safetensors_header", "autoencoder", safetensors(AE))
    save("safetensors_header", "clip", safetensors(CLIP))
    save("safetensors_header", "git_lfs", b"version https://git-lfs.github.com/spec/v1\n")
    save("safetensors_header", "zip", b"PK\x03\x04")


# --- model_shapes -----------------------------------------------------------------------------------------------------


def model_shapes():
    for kind, name in enumerate(["flux", "lora", "autoencoder", "t5", "clip"]):
        save("model_shapes", name, bytes([kind]))
        save("model_shapes", f"{name}_expanded", bytes([kind, 1]))
        # Twelve unchanged dimensions, then one edit of a tensor.
        save("model_shapes", f"{name}_edited", bytes([kind]) + bytes(14) + bytes([5, 3, 0, 0, 2]))


# --- spiece_model -----------------------------------------------------------------------------------------------------


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
T5_FIRST = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
WORDS = [("▁", -2.0, NORMAL), ("a", -3.0, NORMAL), ("▁a", -4.0, NORMAL), ("to", -5.0, NORMAL), ("é", -3.5, NORMAL)]


def charsmap():
    """A double array that makes a space of a tab, and "a" of "A"."""
    units, leaf, has_leaf = [0] * 0x52, 1 << 31, 1 << 8
    root = 0x10
    units[0] = root << 10
    for char, place, text_at in [(9, 0x20, 0), (0x41, 0x30, 2)]:
        at = root ^ char
        units[at] = (at ^ place) << 10 | has_leaf | char
        units[place] = leaf | text_at
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + b" \0a\0"


def spiece(pieces, trainer=b"", normalizer=b""):
    proto = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, k)) for t, s, k in pieces)
    return proto + field(2, trainer) + field(3, normalizer)


def spiece_model():
    def seed(name, kind, file, text="A robot\t☃"):
        text = text.encode()
        save("spiece_model", name, bytes([kind, len(text)]) + text + file)

    normal = spiece(T5_FIRST + WORDS, field(3, 1), field(2, charsmap()))
    seed("spiece", 0, normal)
    rules = field(3, 0) + field(4, 0) + field(5, 0)
    other = WORDS + [("bot", 0.0, USER), ("rob", -1.0, UNUSED)]
    seed("spiece_rules", 0, spiece(T5_FIRST + other, field(3, 1) + field(24, 1), rules))
    byte = [(f"<0x{b:02X}>", 0.0, BYTE) for b in (0xE2, 0x98, 0x83)]
    seed("spiece_bytes", 0, spiece(T5_FIRST + WORDS + byte, field(3, 1) + field(35, 1)))
    added = [{"id": i, "content": t, "special": True} for i, (t, _, _) in enumerate(T5_FIRST)]
    added.append({"id": 8, "content": "<extra_id_0>", "special": True})
    map64 = base64.b64encode(charsmap()).decode()
    unigram = {
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": map64}]},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [[t, s] for t, s, _ in T5_FIRST + WORDS]},
    }
    seed("unigram_json", 1, json.dumps(unigram, separators=(",", ":"), ensure_ascii=False).encode())

    tokens = ["a", "b", "o", "r", "t", "a</w>", "b</w>", "t</w>", "ro", "bo", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [("r", "o"), ("b", "o")]
    bpe = {
        "added_tokens": [{"id": 11, "content": "<|endoftext|>", "special": True}],
        "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": [" ".join(m) for m in merges]},
    }
    seed("bpe_json", 2, json.dumps(bpe, separators=(",", ":")).encode())
    text = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
    seed("vocab_merges", 3, json.dumps(vocab, separators=(",", ":")).encode() + b"\0" + text.encode())


# --- picture ----------------------------------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, interlace=0, extra=b"", claimed=None):
    """A PNG of a kind that Pillow does not write; its samples are a ramp. `claimed` is the size in its header."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, dx, dy in passes if interlace else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        line = (columns * samples * depth + 7) // 8
        if columns > 0:
            raw += b"".join(b"\0" + bytes((7 * i + 3 * r) & 255 for i in range(line)) for r in range(rows))
    header = struct.pack(">IIBBBBB", *(claimed or (width, height)), depth, color, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def picture():
    ramp = Image.new("RGBA", (12, 9))
    ramp.putdata([(20 * x, 28 * y, 255 - 20 * x, 40 * (x % 7)) for y in range(9) for x in range(12)])

    def seed(name, mode, kind, image=None, **options):
        out = io.BytesIO()
        image = ramp.convert("RGB").convert(mode) if image is None and mode != "RGBA" else image or ramp
        image.save(out, kind, **options)
        # Where nothing reads them, the last bytes choose the longer side; EXIF orientation is applied.
        save("picture", f"{kind.lower()}_{name}", out.getvalue() + bytes([0, 80, 0]))

    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        seed(mode, mode, "PNG")
    seed("P_transparent", "P", "PNG", transparency=3)
    seed("RGB_transparent", "RGB", "PNG", transparency=(0, 0, 255))
    seed("P_4bit", "P", "PNG", image=ramp.convert("RGB").quantize(7), bits=4)
    seed("animated", "RGB", "PNG", save_all=True, append_images=[ramp.convert("RGB").rotate(90)])
    palette = chunk(b"PLTE", bytes(range(12)))
    for name, data in {
        "png_grey2": png(9, 5, 2, 0, extra=chunk(b"tRNS", b"\0\1")),
        "png_grey16": png(9, 5, 16, 0),
        "png_grey_alpha16": png(3, 5, 16, 4),
        "png_rgb16": png(3, 5, 16, 2, extra=chunk(b"tRNS", b"\0\1\0\2\0\3")),
        "png_rgba16_interlaced": png(9, 5, 16, 6, 1),
        "png_palette2_interlaced": png(9, 9, 2, 3, 1, palette),
        "png_palette_too_short": png(4, 4, 8, 3, 0, palette + chunk(b"tRNS", b"\0\x80")),
        "png_huge": png(1, 1, 8, 2, claimed=(1 << 30, 1 << 30)),
    }.items():
        save("picture", name, data + bytes([0, 80, 0]))
    for mode in ("L", "RGB", "CMYK"):
        seed(mode, mode, "JPEG", quality=30)
    seed("progressive", "RGB", "JPEG", quality=30, progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    seed("exif", "RGB", "JPEG", quality=30, exif=exif)
    seed("exif", "RGB", "PNG", exif=exif)
    seed("exif", "RGBA", "WEBP", exif=exif)
    seed("lossy", "RGB", "WEBP", quality=30)
    seed("lossless", "RGB", "WEBP", lossless=True)
    seed("animated", "RGBA", "WEBP", save_all=True, append_images=[ramp.rotate(90)], quality=20)
    seed("plain", "P", "GIF", image=ramp.convert("RGB").quantize(5))
    second = ramp.rotate(180).convert("RGB").quantize(5)
    first = ramp.convert("RGB").quantize(5)
    seed("animated", "P", "GIF", image=first, save_all=True, append_images=[second], transparency=2, disposal=2)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image = ramp.convert("RGB").quantize(5) if mode == "P" else None
        seed(mode, mode, "BMP", image=image)
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"):
        image = ramp.convert("L").convert("I").convert("I;16") if mode == "I;16" else None
        seed(mode.replace(";", ""), mode, "TIFF", image=image)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        seed(compression, "1" if compression == "group4" else "RGB", "TIFF", compression=compression)


if __name__ == "__main__":
    safetensors_header()
    model_shapes()
    spiece_model()
    picture()
