"""Every component against torch, transformers and diffusers themselves, on random weights that are drawn here.

A job of its own: it needs `tests/reference/requirements-cases.txt` beside this package. The map between diffusers'
names and FLUX's is that of `tests/reference/models.py`, which made the repository's fixtures too.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uno_rs
from common import COMPONENT, EXACT, ROOT, check, relative_error
from uno_rs import AutoEncoder, ClipTokenizer, T5Tokenizer, TextEncoder, Transformer

torch = pytest.importorskip("torch", reason="torch is not installed: a job of its own")
pytest.importorskip("transformers", reason="transformers is not installed: a job of its own")
pytest.importorskip("diffusers", reason="diffusers is not installed: a job of its own")
pytest.importorskip("safetensors")
from safetensors.torch import save_file  # noqa: E402

sys.path.insert(0, str(ROOT / "tests" / "reference"))
import models  # noqa: E402
import run  # noqa: E402

TINY = ROOT / "uno-models" / "assets" / "tiny"
F32 = torch.float32
PROMPTS = [
    "A robot beside a teapot",
    "",
    "  two  spaces,\ttab\nand line ",
    "Ünïcödé façade, 猫が海辺で眠る, Чайник",
    "don't UPPER MiXeD 3.14 #@!% 🤖",
    "the robot pours tea " * 120,
]


def save(path: Path, tensors: dict[str, Any], dtype: Any = F32) -> Path:
    """Writes a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().to(dtype).contiguous() for name, value in tensors.items()}, path)
    return path


def rand(seed: int, *shape: int) -> Any:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


T5_SHAPES: list[dict[str, int]] = [
    {"d_model": 48, "d_kv": 8, "d_ff": 80, "num_layers": 3, "num_heads": 6},
    {"d_model": 32, "d_kv": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2},
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", T5_SHAPES)
def test_t5_agrees_with_transformers(tmp_path: Path, shape: dict[str, int], dtype: str) -> None:
    stored = getattr(torch, dtype)
    model = models.t5(1, stored, vocab_size=200, **shape)
    names = {name: value for name, value in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    ours = TextEncoder(save(tmp_path / "t5" / "model.safetensors", names, stored))
    ids = torch.randint(2, 200, (1, 300), generator=torch.Generator().manual_seed(2))
    ids[:, 40:] = 0
    with torch.no_grad():
        wanted = model(ids, attention_mask=None).last_hidden_state.numpy()
    check(f"T5 {shape} {dtype}", relative_error(ours.encode(ids[0].tolist()), wanted), COMPONENT)


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (128, 2), (64, 4)])
def test_clip_agrees_with_transformers(tmp_path: Path, width: int, heads: int) -> None:
    shape = {"hidden_size": width, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": heads}
    model = models.clip(3, F32, vocab_size=300, **shape)
    # Since transformers 5 the names have no prefix; files do.
    prefixed = {"text_model." + name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    names = {name: value for name, value in prefixed.items() if not name.endswith("position_ids")}
    file = save(tmp_path / "clip" / "model.safetensors", names)
    (file.parent / "config.json").write_text(json.dumps({"num_attention_heads": heads, "hidden_act": "quick_gelu"}))
    ours = TextEncoder(file.parent)
    ids = torch.randint(0, 298, (1, 77), generator=torch.Generator().manual_seed(4))
    ids[:, 0], ids[:, 20:] = 298, 299
    with torch.no_grad():
        wanted = model(ids).pooler_output.numpy()
    check(f"CLIP of width {width} with {heads} heads", relative_error(ours.encode(ids[0].tolist()), wanted), COMPONENT)


@pytest.mark.parametrize(("channels", "blocks"), [((32, 32, 64, 64), 1), ((32, 64, 64, 32), 2)])
def test_the_autoencoder_agrees_with_diffusers(tmp_path: Path, channels: tuple[int, ...], blocks: int) -> None:
    model = models.autoencoder(5, F32, channels=channels, res_blocks=blocks)
    ours = AutoEncoder(save(tmp_path / "ae.safetensors", models.autoencoder_to_original(model)))
    scale, shift = 0.3611, 0.1159
    pictures, latents = rand(6, 2, 3, 48, 64).clamp(-1, 1), rand(7, 2, 16, 6, 4)
    with torch.no_grad():
        encoded = (model.encode(pictures).latent_dist.mode() - shift) * scale
        decoded = model.decode(latents / scale + shift).sample
    what = f"autoencoder {channels}, {blocks} blocks"
    check(f"{what}: latents", relative_error(ours.encode(pictures.numpy()), encoded.numpy()), COMPONENT)
    check(f"{what}: pictures", relative_error(ours.decode(latents.numpy()), decoded.numpy()), COMPONENT)


def test_drawn_latents_have_the_mean_and_spread_of_diffusers_distribution(tmp_path: Path) -> None:
    model = models.autoencoder(5, F32, channels=(32, 32, 32, 32), res_blocks=1)
    ours = AutoEncoder(save(tmp_path / "ae.safetensors", models.autoencoder_to_original(model)))
    picture = rand(6, 1, 3, 64, 64).clamp(-1, 1)
    with torch.no_grad():
        wanted = model.encode(picture).latent_dist
    drawn = ours.encode(picture.numpy(), seed=1)
    assert np.array_equal(drawn, ours.encode(picture.numpy(), seed=1))
    assert not np.array_equal(drawn, ours.encode(picture.numpy(), seed=2))
    standard = (drawn / 0.3611 + 0.1159 - wanted.mean.numpy()) / wanted.std.numpy()
    assert abs(standard.mean()) < 5 / math.sqrt(standard.size)
    assert abs(standard.std() - 1) < 5 / math.sqrt(2 * standard.size)


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 32), (1, 128)])
@pytest.mark.parametrize("variant", ["base", "lora", "merged"])
def test_the_transformer_agrees_with_diffusers(
    tmp_path: Path, variant: str, heads: int, head_dim: int, guidance: bool
) -> None:
    shape = {"heads": heads, "head_dim": head_dim, "double": 2, "single": 2, "context": 48, "pooled": 24}
    model = models.transformer(8, F32, guidance=guidance, **shape)
    base = models.transformer_to_original(model)
    lora_file = None
    if variant != "base":
        lora = models.lora(9, model.config, 4)
        lora_file = save(tmp_path / "dit_lora.safetensors", lora)
        # diffusers has no LoRA of this kind: it gets the sum.
        models.transformer_from_original(model, models.merged(base, lora))
    name = "flux1-dev" if guidance else "flux1-schnell"
    file = save(tmp_path / f"{name}.safetensors", base)
    ours = Transformer(file, lora=lora_file, merge_lora=variant == "merged")
    for pe, references in [("d", []), ("d", [(4, 6)]), ("d", [(6, 4), (4, 4)]), ("h", [(4, 4)]), ("w", [(4, 4)])]:
        latent, txt, vec = rand(10, 2, 16, 8, 6), rand(11, 2, 7, 48), rand(12, 2, 24)
        refs = [rand(13 + i, 2, 16, *size) for i, size in enumerate(references)]
        t, strength = torch.tensor([0.9, 0.3]), torch.tensor([4.0, 1.5])
        wanted = run.run_transformer(model, latent, refs, txt, vec, t, strength if guidance else None, pe)
        got = ours(
            latent.numpy(),
            txt=txt.numpy(),
            vec=vec.numpy(),
            t=t.tolist(),
            guidance=strength.tolist(),
            references=[r.numpy() for r in refs],
            pe=pe,
        )
        what = f"{heads}x{head_dim}, {name}, {variant}, {len(refs)} references, pe {pe}"
        check(what, relative_error(got, run.unpack(wanted, 8, 6).numpy()), COMPONENT)


@pytest.mark.parametrize("seed", [0, 3407, 2**32 + 5, 2**40])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80), (512, 512), (1024, 768)])
def test_noise_agrees_with_torchs_on_the_cpu(seed: int, height: int, width: int) -> None:
    wanted = torch.randn((1, 16, height // 8, width // 8), generator=torch.Generator("cpu").manual_seed(seed)).numpy()
    got = uno_rs.noise(seed, height, width, source="torch-cpu", dtype="float32")
    check(f"noise, seed {seed}, {width}x{height}", float(np.abs(got - wanted).max()), EXACT)


def test_noise_agrees_with_torchs_on_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    for seed, side in [(3407, 512), (2**33, 256)]:
        generator = torch.Generator("cuda").manual_seed(seed)
        for dtype in ("bfloat16", "float32"):
            generator.manual_seed(seed)
            shape = (1, 16, side // 8, side // 8)
            wanted = torch.randn(shape, generator=generator, device="cuda", dtype=getattr(torch, dtype)).float().cpu()
            got = uno_rs.noise(seed, side, side, source="torch-cuda", dtype=dtype)
            check(f"noise on CUDA, seed {seed}, {dtype}", relative_error(got, wanted.numpy()), COMPONENT)


@pytest.mark.parametrize("shift", [True, False])
def test_schedules_agree_with_torch_and_with_diffusers_scheduler(shift: bool) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    errors = []
    for steps in (1, 2, 4, 25, 50):
        for length in (16, 30, 1024, 4096):
            got = uno_rs.schedule(steps, length, shift=shift)
            errors.append(np.abs(got - np.array(run.schedule(steps, length, shift), np.float32)).max())
            scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=shift, base_shift=0.5, max_shift=1.15)
            # FLUX's pipeline passes these sigmas; diffusers appends the last 0.
            sigmas = np.linspace(1.0, 1 / steps, steps)
            mu = calculate_shift(length, 256, 4096, 0.5, 1.15) if shift else None
            scheduler.set_timesteps(sigmas=sigmas, mu=mu)
            errors.append(np.abs(got - scheduler.sigmas.numpy()).max())
    check(f"{len(errors)} schedules, shift {shift}", float(max(errors)), EXACT)


@pytest.mark.parametrize("pe", ["d", "h", "w", "o"])
def test_positions_agree_with_those_of_diffusers_and_the_paper(pe: str) -> None:
    from diffusers import FluxPipeline

    latent, references = (5, 3), [(2, 4), (3, 1)]
    got = uno_rs.unope_ids(latent, references, pe=pe, text_tokens=6)
    parts = [torch.zeros(6, 3), FluxPipeline._prepare_latent_image_ids(1, *latent, "cpu", F32)]
    wanted = torch.cat([*parts, *run.reference_ids(pe, latent, references)]).numpy()
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_tokens_are_those_of_transformers(prompt: str) -> None:
    import transformers

    t5 = transformers.T5Tokenizer.from_pretrained(TINY / "t5", extra_ids=100)
    wanted = t5(prompt, max_length=512, truncation=True, padding="max_length").input_ids
    assert T5Tokenizer(TINY / "t5").encode(prompt) == wanted
    clip = transformers.CLIPTokenizer.from_pretrained(TINY / "clip")
    known = clip(prompt, max_length=77, truncation=True).input_ids
    wanted = known + [clip.eos_token_id] * (77 - len(known))
    assert ClipTokenizer(TINY / "clip").encode(prompt) == wanted


def test_the_callbacks_latents_are_what_diffusers_pipeline_unpacks() -> None:
    from diffusers import FluxPipeline
    from uno_rs import UnoPipeline

    seen: list[np.ndarray] = []
    latents = UnoPipeline.from_pretrained(progress=False)(
        "a",
        height=32,
        width=48,
        num_inference_steps=2,
        output_type="latent",
        callback_on_step_end=lambda _pipe, _step, _time, tensors: seen.append(tensors["latents"]),
        progress=False,
    ).images
    unpacked = FluxPipeline._unpack_latents(torch.tensor(seen[-1]), 32, 48, 8)
    assert np.array_equal(unpacked.numpy(), latents)
