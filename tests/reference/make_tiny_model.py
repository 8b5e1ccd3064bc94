"""Makes the small model with random weights for the tests (uno-models/assets/tiny).

    python3 -m venv venv && venv/bin/pip install -r tests/reference/requirements.txt
    venv/bin/python tests/reference/make_tiny_model.py            # from the repository root

The files have the names, keys and formats of the real checkpoints (BFL keys for FLUX.1-dev and its autoencoder, UNO's LoRA
keys, Hugging Face keys for T5 and CLIP), so that everything that reads the real ones reads these. All dimensions are read
off the tensors' shapes. Running it again gives the same bytes.

Options: --out DIR, --seed N, --ae-mult 1,1,1,1 (channel multipliers of the autoencoder's levels; 1,1,2,2 adds 1.3 MB).

Weights are drawn per tensor from PCG64, seeded by the seed and the tensor's name; so a tensor keeps its values when another
is added. Both tokenizers are trained by `tiny_text.py` on sentences composed there.
"""

import argparse
import itertools
import json
import pathlib
import struct
import zlib

import numpy as np
import sentencepiece
from tiny_text import END, START, clip_bpe, sentences, spiece_model

SEED = 3407
HIDDEN, HEAD, DOUBLE, SINGLE, TOKEN, TIME = 64, 32, 2, 2, 64, 256
RANK = 4
AE_CHANNELS, AE_BLOCKS, AE_Z = 32, 1, 16
T5_WIDTH, T5_HEADS, T5_HEAD, T5_FF, T5_LAYERS, T5_VOCAB, T5_BUCKETS = 64, 4, 16, 128, 2, 480, 32
CLIP_WIDTH, CLIP_HEADS, CLIP_FF, CLIP_LAYERS, CLIP_TOKENS, CLIP_MERGES = 32, 2, 64, 2, 77, 400


# Tensors


class Tensors(dict):
    """Tensors by name, drawn as torch's layers draw theirs, save that norms are near 1 and not at it."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def rng(self, name):
        return np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))

    def uniform(self, name, shape, bound, centre=0.0):
        # From doubles in [0, 1): the same in every version of numpy that has PCG64.
        self[name] = (centre + bound * (2 * self.rng(name).random(shape) - 1)).astype(np.float32)

    def linear(self, name, outputs, inputs, bias=True, kernel=()):
        bound = 1 / np.sqrt(inputs * int(np.prod(kernel, initial=1)))
        self.uniform(f"{name}.weight", (outputs, inputs, *kernel), bound)
        if bias:
            self.uniform(f"{name}.bias", (outputs,), bound)

    def conv(self, name, outputs, inputs, size=3):
        self.linear(name, outputs, inputs, kernel=(size, size))

    def norm(self, name, width, weight="weight", bias=True):
        self.uniform(f"{name}.{weight}", (width,), 0.1, centre=1.0)
        if bias:
            self.uniform(f"{name}.bias", (width,), 0.05)

    def table(self, name, rows, width, spread):
        self.uniform(name, (rows, width), spread * np.sqrt(3))


def flux(t):
    mlp = 4 * HIDDEN
    t.linear("img_in", HIDDEN, TOKEN)
    t.linear("txt_in", HIDDEN, T5_WIDTH)
    for name, width in [("time_in", TIME), ("guidance_in", TIME), ("vector_in", CLIP_WIDTH)]:
        t.linear(f"{name}.in_layer", HIDDEN, width)
        t.linear(f"{name}.out_layer", HIDDEN, HIDDEN)
    for i, stream in itertools.product(range(DOUBLE), ("img", "txt")):
        at = f"double_blocks.{i}.{stream}"
        t.linear(f"{at}_mod.lin", 6 * HIDDEN, HIDDEN)
        t.linear(f"{at}_attn.qkv", 3 * HIDDEN, HIDDEN)
        for part in ("query_norm", "key_norm"):
            t.norm(f"{at}_attn.norm.{part}", HEAD, weight="scale", bias=False)
        t.linear(f"{at}_attn.proj", HIDDEN, HIDDEN)
        t.linear(f"{at}_mlp.0", mlp, HIDDEN)
        t.linear(f"{at}_mlp.2", HIDDEN, mlp)
    for i in range(SINGLE):
        at = f"single_blocks.{i}"
        t.linear(f"{at}.modulation.lin", 3 * HIDDEN, HIDDEN)
        t.linear(f"{at}.linear1", 3 * HIDDEN + mlp, HIDDEN)
        t.linear(f"{at}.linear2", HIDDEN, HIDDEN + mlp)
        for part in ("query_norm", "key_norm"):
            t.norm(f"{at}.norm.{part}", HEAD, weight="scale", bias=False)
    t.linear("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    t.linear("final_layer.linear", TOKEN, HIDDEN)


def lora(t):
    def pair(at, outputs, inputs):
        t.linear(f"{at}.down", RANK, inputs, bias=False)
        t.linear(f"{at}.up", outputs, RANK, bias=False)

    for i, stream in itertools.product(range(DOUBLE), (1, 2)):
        pair(f"double_blocks.{i}.processor.qkv_lora{stream}", 3 * HIDDEN, HIDDEN)
        pair(f"double_blocks.{i}.processor.proj_lora{stream}", HIDDEN, HIDDEN)
    for i in range(SINGLE):
        pair(f"single_blocks.{i}.processor.qkv_lora", 3 * HIDDEN, HIDDEN)
        pair(f"single_blocks.{i}.processor.proj_lora", HIDDEN, 5 * HIDDEN)


def autoencoder(t, mult):
    widths = [AE_CHANNELS * m for m in mult]
    last = len(widths) - 1

    def res(at, inputs, outputs):
        t.norm(f"{at}.norm1", inputs)
        t.conv(f"{at}.conv1", outputs, inputs)
        t.norm(f"{at}.norm2", outputs)
        t.conv(f"{at}.conv2", outputs, outputs)
        if inputs != outputs:
            t.conv(f"{at}.nin_shortcut", outputs, inputs, size=1)

    def middle(at, width):
        res(f"{at}.block_1", width, width)
        t.norm(f"{at}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            t.conv(f"{at}.attn_1.{part}", width, width, size=1)
        res(f"{at}.block_2", width, width)

    t.conv("encoder.conv_in", AE_CHANNELS, 3)
    width = AE_CHANNELS
    for i, outputs in enumerate(widths):
        for j in range(AE_BLOCKS):
            res(f"encoder.down.{i}.block.{j}", width, outputs)
            width = outputs
        if i != last:
            t.conv(f"encoder.down.{i}.downsample.conv", width, width)
    middle("encoder.mid", width)
    t.norm("encoder.norm_out", width)
    t.conv("encoder.conv_out", 2 * AE_Z, width)

    t.conv("decoder.conv_in", width, AE_Z)
    middle("decoder.mid", width)
    for i, outputs in reversed(list(enumerate(widths))):
        for j in range(AE_BLOCKS + 1):
            res(f"decoder.up.{i}.block.{j}", width, outputs)
            width = outputs
        if i != 0:
            t.conv(f"decoder.up.{i}.upsample.conv", width, width)
    t.norm("decoder.norm_out", width)
    t.conv("decoder.conv_out", 3, width)


def t5(t, vocab):
    inner = T5_HEADS * T5_HEAD
    t.table("shared.weight", vocab, T5_WIDTH, 1.0)
    for i in range(T5_LAYERS):
        at = f"encoder.block.{i}.layer"
        for part in "qkv":
            t.linear(f"{at}.0.SelfAttention.{part}", inner, T5_WIDTH, bias=False)
        t.linear(f"{at}.0.SelfAttention.o", T5_WIDTH, inner, bias=False)
        for part, outputs, inputs in [("wi_0", T5_FF, T5_WIDTH), ("wi_1", T5_FF, T5_WIDTH), ("wo", T5_WIDTH, T5_FF)]:
            t.linear(f"{at}.1.DenseReluDense.{part}", outputs, inputs, bias=False)
        for j in range(2):
            t.norm(f"{at}.{j}.layer_norm", T5_WIDTH, bias=False)
    t.table("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", T5_BUCKETS, T5_HEADS, 0.5)
    t.norm("encoder.final_layer_norm", T5_WIDTH, bias=False)


def clip(t, vocab):
    t.table("text_model.embeddings.token_embedding.weight", vocab, CLIP_WIDTH, 0.5)
    t.table("text_model.embeddings.position_embedding.weight", CLIP_TOKENS, CLIP_WIDTH, 0.1)
    t["text_model.embeddings.position_ids"] = np.arange(CLIP_TOKENS, dtype=np.int64)[None]
    for i in range(CLIP_LAYERS):
        at = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            t.linear(f"{at}.self_attn.{part}", CLIP_WIDTH, CLIP_WIDTH)
        t.linear(f"{at}.mlp.fc1", CLIP_FF, CLIP_WIDTH)
        t.linear(f"{at}.mlp.fc2", CLIP_WIDTH, CLIP_FF)
        for j in (1, 2):
            t.norm(f"{at}.layer_norm{j}", CLIP_WIDTH)
    t.norm("text_model.final_layer_norm", CLIP_WIDTH)


# Files


def stored(array, dtype):
    """Name of the storage format and the bytes, little-endian."""
    if array.dtype == np.int64:
        return "I64", array.astype("<i8").tobytes()
    if dtype == "F16":
        return "F16", array.astype("<f2").tobytes()
    bits = array.astype("<f4").view("<u4")
    # To the nearest bf16, ties to even. No value here is near the largest or is NaN.
    return "BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path, tensors, dtype):
    """Written by hand: numpy has no bf16, and the order of the header is then ours."""
    header, data = {"__metadata__": {"format": "pt", "seed": str(tensors.seed), "weights": "random"}}, bytearray()
    # The widest numbers first keeps every tensor aligned.
    for name in sorted(tensors, key=lambda n: (-tensors[n].itemsize, n)):
        kind, raw = stored(tensors[name], dtype)
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--out", type=pathlib.Path, default=root / "uno-models" / "assets" / "tiny")
    args.add_argument("--seed", type=int, default=SEED)
    args.add_argument("--ae-mult", default="1,1,1,1")
    args = args.parse_args()
    corpus = sentences(args.seed)

    def make(file, dtype, fill, *more):
        tensors = Tensors(args.seed)
        fill(tensors, *more)
        write_safetensors(args.out / file, tensors, dtype)

    make("flux1-dev.safetensors", "BF16", flux)
    make("dit_lora.safetensors", "BF16", lora)
    make("ae.safetensors", "BF16", autoencoder, [int(m) for m in args.ae_mult.split(",")])

    spiece = spiece_model(corpus, T5_VOCAB)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece).get_piece_size()
    make("t5/model.safetensors", "F16", t5, pieces)
    (args.out / "t5" / "spiece.model").write_bytes(spiece)
    write_text(args.out / "t5" / "config.json", json.dumps({
        "architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": T5_WIDTH, "d_kv": T5_HEAD, "d_ff": T5_FF,
        "num_layers": T5_LAYERS, "num_heads": T5_HEADS, "vocab_size": pieces,
        "relative_attention_num_buckets": T5_BUCKETS, "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True, "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False,
    }, indent=1) + "\n")  # fmt: skip

    vocab, merges = clip_bpe(corpus, CLIP_MERGES)
    make("clip/model.safetensors", "F16", clip, len(vocab))
    write_text(args.out / "clip" / "vocab.json", json.dumps(vocab, ensure_ascii=False, separators=(",", ":")) + "\n")
    write_text(args.out / "clip" / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    write_text(args.out / "clip" / "config.json", json.dumps({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": len(vocab),
        "hidden_size": CLIP_WIDTH, "intermediate_size": CLIP_FF, "num_hidden_layers": CLIP_LAYERS,
        "num_attention_heads": CLIP_HEADS, "max_position_embeddings": CLIP_TOKENS, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "projection_dim": CLIP_WIDTH, "bos_token_id": vocab[START], "eos_token_id": vocab[END],
        "pad_token_id": vocab[END],
    }, indent=1) + "\n")  # fmt: skip

    files = sorted(p for p in args.out.rglob("*") if p.is_file())
    for path in files:
        print(f"{path.stat().st_size:9,}  {path.relative_to(args.out)}")
    print(f"{sum(p.stat().st_size for p in files):9,}  in all")


if __name__ == "__main__":
    main()
