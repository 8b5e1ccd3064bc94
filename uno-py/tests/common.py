"""Golden values and small tools that several tests use."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from uno_rs import UnoPipeline

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "examples" / "assets"

#: Largest relative L2 error of one component in float32.
COMPONENT = 1e-4
#: Largest difference of schedules and noise.
EXACT = 1e-6


def golden() -> Path | None:
    """Folder with values of the official implementation: `UNO_GOLDEN`, else `../shared/golden`."""
    folder = Path(os.environ.get("UNO_GOLDEN") or ROOT.parent / "shared" / "golden")
    if folder.is_dir():
        return folder
    if os.environ.get("UNO_REQUIRE_GOLDEN"):
        raise FileNotFoundError(f"UNO_REQUIRE_GOLDEN is set, but {folder} is no folder")
    return None


def sets() -> list[Path]:
    """All sets of values, official ones and those that the repository carries. Each holds `model/` and `cases/`."""
    roots = [ROOT / "tests" / "fixtures", golden()]
    found = [path for root in roots if root and root.is_dir() for path in [root, *sorted(root.iterdir())]]
    return [path for path in found if (path / "model").is_dir() and (path / "cases").is_dir()]


def each(pattern: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: every file of that name in every set; without one, a visible skip."""
    files = [(folder, file) for folder in sets() for file in sorted(folder.glob(pattern))]
    if not files:
        skip = pytest.mark.skip(reason=f"no golden values {pattern} (set UNO_GOLDEN)")
        return [pytest.param(None, None, marks=skip, id="none")]
    return [pytest.param(folder, file, id=f"{folder.name}-{file.stem}") for folder, file in files]


def read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a case file; bfloat16 as float32."""
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw = data[8 + length + first : 8 + length + last]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
            values = np.frombuffer(raw, kinds[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors, metadata


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """L2 norm of the difference over the L2 norm of the wanted values."""
    assert got.shape == wanted.shape
    wanted = wanted.astype(np.float64)
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), np.finfo(float).tiny))


def check(what: str, error: float, tolerance: float) -> None:
    """Prints what was compared and fails if the error is above the tolerance, or no number."""
    print(f"{what}: error {error:.2e} (at most {tolerance:.0e})")
    assert error <= tolerance, f"{what}: error {error:e} is above {tolerance:e}"


def pack(latents: np.ndarray) -> np.ndarray:
    """`[n, C, h, w]` to tokens `[n, h / 2 * w / 2, C * 4]`."""
    n, c, h, w = latents.shape
    patches = latents.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, h // 2 * (w // 2), c * 4)


def pixels(result: Any) -> list[np.ndarray]:
    """Pictures of a result as arrays."""
    return [np.asarray(image) for image in result.images]


def dit_path(folder: Path) -> Path:
    """The transformer of a set, whichever variant it is."""
    return next(file for file in sorted((folder / "model").glob("flux1-*.safetensors")))


def lora_path(folder: Path) -> Path | None:
    """UNO's LoRA of a set, if it has one."""
    file = folder / "model" / "dit_lora.safetensors"
    return file if file.exists() else None


def load_set(folder: Path, **options: Any) -> UnoPipeline:
    """The pipeline of a set."""
    options.setdefault("lora_scale", 1.0 if lora_path(folder) else 0.0)
    return UnoPipeline.from_pretrained(folder / "model", progress=False, **options)
