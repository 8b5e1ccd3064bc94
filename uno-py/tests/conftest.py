"""What all tests share."""

from __future__ import annotations

import pytest
from uno_rs import UnoPipeline

#: Variables that name model files; a developer's own must not change what is tested.
VARIABLES = ("AE", "FLUX_DEV", "FLUX_DEV_FP8", "FLUX_SCHNELL", "T5", "CLIP", "LORA", "HF_HUB_CACHE", "HF_TOKEN")


@pytest.fixture(autouse=True)
def _no_models_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", f"{tmp_path}/no-hub")


@pytest.fixture(scope="session")
def pipeline() -> UnoPipeline:
    """The small model inside the package."""
    return UnoPipeline.from_pretrained(progress=False)
