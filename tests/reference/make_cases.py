"""Fixtures of other dimensions than golden's, computed by diffusers and transformers: tests/fixtures/{dev64,schnell128}.

    python tests/reference/make_cases.py        # about a minute; requirements-cases.txt has the versions

They have the form of the golden sets (../shared/golden/README.md), so the same tests run on them. Weights are random, from recorded
seeds; vocabularies are those of the embedded model.
"""

import json
import shutil
from pathlib import Path

import models
import numpy as np
import torch
from draw_modes import draw_modes
from PIL import Image
from run import noise, pack, preprocess, reference_ids, run_transformer, schedule
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, T5Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "uno-models/assets/tiny"
PROMPTS = [
    "A robot beside a teapot", "the striped teapot on a wooden table, at sunset", "", " ", "a", "Ünïcödé façade naïve café",
    "猫が海辺で眠る", "Чайник и робот", "ﬁne ligature ½ ①", "  leading and   multiple   spaces  ", "UPPER lower MiXeD",
    "line\nbreak\ttab", "don't can't I'll we've", "emoji 🤖🫖 ok", "numbers 1234567890 & symbols #@!%", "3.14159 2,000",
    "a-b_c/d\\e", "x" * 300, "the robot pours tea " * 120, "re\u0301sume\u0301 combining", "한국어 문장", "\u200bzero width",
]  # fmt: skip

SETS = {
    "dev64": dict(
        seed=64, file="flux1-dev", heads=1, head_dim=64, double=1, single=3, context=48, pooled=64, guidance=True, rank=8,
        dit_dtype=torch.bfloat16, ae_dtype=torch.float16, channels=(32, 32, 32, 32), res_blocks=2,
        t5=dict(d_model=48, d_kv=8, d_ff=80, num_layers=3, num_heads=6), t5_dtype=torch.bfloat16,
        clip=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4), shards=2, json=False,
        pipes=[("two", 80, 48, 3, 4.0, 11, "d", ["rgba.png", "palette.png"], 64), ("none", 48, 64, 4, 2.5, 12, "d", [], 64)],
    ),
    "schnell128": dict(
        seed=128, file="flux1-schnell", heads=1, head_dim=128, double=1, single=2, context=32, pooled=64, guidance=False,
        rank=2, dit_dtype=torch.float8_e4m3fn, ae_dtype=torch.float16, channels=(32, 32, 32, 32), res_blocks=1,
        t5=dict(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2), t5_dtype=torch.float16,
        clip=dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1), shards=1, json=True,
        pipes=[("one", 64, 64, 2, 4.0, 13, "w", ["rgb16.png"], 80)],
    ),
}  # fmt: skip


def save(path, tensors, dtype=None, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().to(dtype or v.dtype).contiguous() for k, v in sorted(tensors.items())}, path, metadata)


def save_sharded(folder, tensors, dtype, shards):
    """One file, or several with an index."""
    names = sorted(tensors)
    if shards == 1:
        return save(folder / "model.safetensors", tensors, dtype)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i::shards]
        save(folder / file, {k: tensors[k] for k in part}, dtype)
        weight_map.update(dict.fromkeys(part, file))
    text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1, sort_keys=True)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


def tokenizers(model, as_json):
    """The embedded model's vocabularies in one form or the other, and transformers' tokenizers for them."""
    (model / "t5").mkdir(parents=True, exist_ok=True)
    (model / "clip").mkdir(exist_ok=True)
    t5 = T5Tokenizer.from_pretrained(TINY / "t5", extra_ids=100)
    clip = CLIPTokenizer.from_pretrained(TINY / "clip")
    if as_json:
        for tokenizer, part in ((t5, "t5"), (clip, "clip")):
            backend = Tokenizer.from_str(tokenizer._tokenizer.to_str())
            backend.no_padding()
            backend.no_truncation()
            (model / part / "tokenizer.json").write_text(backend.to_str())
    else:
        shutil.copy(TINY / "t5/spiece.model", model / "t5")
        shutil.copy(TINY / "clip/vocab.json", model / "clip")
        shutil.copy(TINY / "clip/merges.txt", model / "clip")
    ids = lambda tok, text, n: tok(text, max_length=n, truncation=True, padding="max_length").input_ids  # noqa: E731
    vocabulary = json.loads((TINY / "clip/vocab.json").read_text())
    end = vocabulary["<|endoftext|>"]

    def clip_ids(text):
        known = clip(text, max_length=77, truncation=True).input_ids
        return known + [end] * (77 - len(known))

    return lambda text: ids(t5, text, 512), clip_ids, len(vocabulary)


def make(name, s):
    out = ROOT / "tests/fixtures" / name
    shutil.rmtree(out, ignore_errors=True)
    model, cases, pictures = out / "model", out / "cases", out / "preprocess"
    cases.mkdir(parents=True)
    seed = s["seed"]
    random = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(shape, generator=random)  # noqa: E731

    # Models.
    shape = {k: s[k] for k in ("heads", "head_dim", "double", "single", "context", "pooled", "guidance")}
    dit = models.transformer(seed, s["dit_dtype"], **shape)
    base = models.transformer_to_original(dit)
    lora = models.lora(seed + 1, dit.config, s["rank"])
    both = models.transformer_from_original(models.transformer(0, torch.float32, **shape), models.merged(base, lora))
    save(model / f"{s['file']}.safetensors", base, s["dit_dtype"])
    save(model / "dit_lora.safetensors", lora)
    ae = models.autoencoder(seed + 2, s["ae_dtype"], channels=s["channels"], res_blocks=s["res_blocks"])
    save(model / "ae.safetensors", models.autoencoder_to_original(ae), s["ae_dtype"])
    t5_ids, clip_ids, clip_vocab = tokenizers(model, s["json"])
    pieces = 700
    t5 = models.t5(seed + 3, s["t5_dtype"], vocab_size=pieces, **s["t5"])
    tensors = {k: v for k, v in t5.state_dict().items() if k != "encoder.embed_tokens.weight"}
    save_sharded(model / "t5", tensors, s["t5_dtype"], s["shards"])
    clip = models.clip(seed + 4, torch.float16, vocab_size=clip_vocab, max_position_embeddings=77, **s["clip"])
    state = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in clip.state_dict().items()}
    save(model / "clip/model.safetensors", {k: v for k, v in state.items() if "position_ids" not in k}, torch.float16)
    config = {k: getattr(clip.config, k) for k in ("num_attention_heads", "hidden_act", "layer_norm_eps")}
    (model / "clip/config.json").write_text(json.dumps(config) + "\n")

    # Tokens and text.
    tokens = [{"prompt": p, "t5": t5_ids(p), "clip": clip_ids(p)} for p in PROMPTS]
    (cases / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False, separators=(",", ":")) + "\n")

    def encode(prompt):
        with torch.no_grad():
            hidden = t5(torch.tensor([t5_ids(prompt)])).last_hidden_state
            return hidden, clip(torch.tensor([clip_ids(prompt)])).pooler_output

    two = PROMPTS[:2]
    states = [encode(p) for p in two]
    text = {
        "t5_ids": torch.tensor([t5_ids(p) for p in two]), "clip_ids": torch.tensor([clip_ids(p) for p in two]),
        "t5_out": torch.cat([h for h, _ in states]), "clip_out": torch.cat([p for _, p in states]),
    }  # fmt: skip
    save(cases / "text.safetensors", text, metadata={"prompts": json.dumps(two)})

    # Transformer.
    listed, tensors = [], {}
    sizes = [(4, 6), (6, 4), (2, 8), (4, 4)]
    for i, (pe, refs, batch) in enumerate([("d", 0, 1), ("d", 2, 2), ("h", 1, 1), ("w", 3, 1), ("o", 4, 1)]):
        case = {"latent": rand(batch, 16, 8, 12), "txt": rand(batch, 5, s["context"]), "vec": rand(batch, s["pooled"])}
        case |= {f"ref{k}": rand(batch, 16, *sizes[k]) for k in range(refs)}
        case["t"] = torch.linspace(0.9, 0.2, batch)
        guidance = torch.full((batch,), 3.5)
        references = [case[f"ref{k}"] for k in range(refs)]
        for weights, key in ((dit, "out_base"), (both, "out_lora")):
            args = (case["latent"], references, case["txt"], case["vec"], case["t"], guidance if s["guidance"] else None, pe)
            case[key] = run_transformer(weights, *args)
        if s["guidance"]:
            case["guidance"] = guidance
        tensors |= {f"{i}.{k}": v for k, v in case.items()}
        listed.append({"case": i, "pe": pe, "refs": refs})
    save(cases / "dit.safetensors", tensors, metadata={"cases": json.dumps(listed)})

    # Autoencoder.
    image, z = rand(1, 3, 32, 48).clamp(-1, 1), rand(1, 16, 4, 6)
    decode = lambda z: ae.decoder(z / 0.3611 + 0.1159)  # noqa: E731
    latent_of = lambda moments: 0.3611 * (moments[:, :16] - 0.1159)  # noqa: E731
    with torch.no_grad():
        moments = ae.encoder(image)
        save(
            cases / "ae.safetensors",
            {"image": image, "moments": moments, "latent_mode": latent_of(moments), "z": z, "decoded": decode(z)},
        )

    # Schedule, positions, noise.
    steps = [(n, length, shift) for n in (1, 3, 30) for length in (6, 100, 5000) for shift in (True, False)]
    text = [{"steps": n, "seq_len": length, "shift": shift, "t": schedule(n, length, shift)} for n, length, shift in steps]
    (cases / "schedule.json").write_text(json.dumps(text) + "\n")
    text = []
    for pe in "dhwo":
        latent, refs = (20, 36), [(8, 30), (40, 10)]
        grids = [(h // 2, w // 2) for h, w in refs]
        ids = reference_ids(pe, (latent[0] // 2, latent[1] // 2), grids)
        entry = {"pe": pe, "latent_hw": latent, "ref_latent_hw": refs, "img_first": [0.0, 0.0, 0.0]}
        entry["img_last"] = [0.0, latent[0] / 2 - 1.0, latent[1] / 2 - 1.0]
        each = lambda x: {"first": x[0].tolist(), "last": x[-1].tolist(), "n": len(x), "sum": x.sum(0).tolist()}  # noqa: E731
        text.append(entry | {"refs": [each(x) for x in ids]})
    (cases / "unope.json").write_text(json.dumps(text) + "\n")
    drawn = {}
    for value, h, w in ((1, 16, 16), (2**32 + 5, 80, 48), (987654321, 128, 64)):
        for dtype, label in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
            drawn[f"seed{value}_h{h}_w{w}_{label}"] = noise(value, h, w, dtype)
    save(cases / "noise_torch_cpu.safetensors", drawn)

    # References.
    pictures.mkdir()
    index = []
    for file in draw_modes(pictures):
        for long_side in (48, 64, 97):
            seen = preprocess(pictures / file, long_side)
            output = f"{Path(file).name}_{long_side}.out.png"
            seen.save(pictures / output)
            mode = Image.open(pictures / file).mode
            index.append({"input": file, "long_side": long_side, "output": output, "size": list(seen.size), "mode": mode})
    (pictures / "index.json").write_text(json.dumps(index, indent=1) + "\n")

    # Whole generations.
    for label, width, height, n, guidance, value, pe, files, long_side in s["pipes"]:
        prompt = PROMPTS[0]
        start = noise(value, height, width)
        refs = []
        for file in files:
            pixels = torch.from_numpy(np.array(preprocess(pictures / file, long_side))).float()
            with torch.no_grad():
                refs.append(latent_of(ae.encoder((pixels / 255 * 2 - 1).permute(2, 0, 1)[None])))
        txt, vec = encode(prompt)
        times = schedule(n, (width // 8) * (height // 8) // 256)
        x = start
        for t, t_next in zip(times, times[1:]):
            g = torch.tensor([guidance]) if s["guidance"] else None
            v = run_transformer(both, x, refs, txt, vec, torch.tensor([t]), g, pe)
            packed = pack(x) + (t_next - t) * v
            h, w = x.shape[2:]
            x = packed.reshape(1, h // 2, w // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, h, w)
        with torch.no_grad():
            decoded = decode(x)
        result = {"noise": start, "latent_packed": pack(x), "decoded": decoded}
        result |= {f"ref{k}": r for k, r in enumerate(refs)}
        settings = {
            "prompt": prompt, "width": width, "height": height, "steps": n, "guidance": guidance, "seed": value, "pe": pe,
            "ref_long_side": long_side,
        }  # fmt: skip
        metadata = {k: str(v) for k, v in settings.items()} | {"refs": json.dumps(files)}
        save(cases / f"pipe_{label}.safetensors", result, metadata=metadata)
        levels = (127.5 * (decoded[0].clamp(-1, 1) + 1)).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(cases / f"pipe_{label}.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    for set_name, settings in SETS.items():
        make(set_name, settings)
        size = sum(f.stat().st_size for f in (ROOT / "tests/fixtures" / set_name).rglob("*") if f.is_file())
        print(f"{set_name}: {size / 1e6:.2f} MB")
