"""Trains the two tokenizers of uno-tiny on captions of its world and on sentences of `tiny_text.py`.

    cargo run --release --example train_tiny -- captions > captions.txt
    venv/bin/python tests/reference/make_world_tokenizers.py captions.txt

Writes `t5/spiece.model`, `clip/vocab.json` and `clip/merges.txt` into uno-models/assets/uno-tiny (or --out). The words of
the world become one token each; other English words are spelled in pieces.
"""

import argparse
import json
import pathlib

from tiny_text import clip_bpe, sentences, spiece_model

T5_VOCAB, CLIP_MERGES = 480, 400
# Frequent short words, which the training of unigram models leaves in pieces.
WORDS = ["and", "photo", "of", "plain", "city", "night", "at", "the", "to"]


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("captions", type=pathlib.Path)
    args.add_argument("--out", type=pathlib.Path, default=root / "uno-models" / "assets" / "uno-tiny")
    args = args.parse_args()
    captions = args.captions.read_text(encoding="utf-8").splitlines()
    corpus = captions + sentences(3407, len(captions) // 4)
    for folder in ("t5", "clip"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    (args.out / "t5" / "spiece.model").write_bytes(spiece_model(corpus, T5_VOCAB, WORDS))
    vocab, merges = clip_bpe(corpus, CLIP_MERGES)
    clip = args.out / "clip"
    (clip / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    (clip / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")


if __name__ == "__main__":
    main()
