"""The binary part of uno_rs. Use it through `uno_rs`."""

from collections.abc import Sequence
from typing import Literal, final

from ._types import (
    Bytes,
    EvaluateArguments,
    Floats,
    ForwardArguments,
    GenerateArguments,
    Generated,
    LoadArguments,
    OnEvent,
    Path,
    RawPicture,
)

__all__ = [
    "BACKENDS",
    "AutoEncoder",
    "CheckpointError",
    "ClipTokenizer",
    "NonFiniteError",
    "Pipeline",
    "Scorer",
    "T5Tokenizer",
    "TextEncoder",
    "Transformer",
    "UnoError",
    "__version__",
    "initial_noise",
    "position_ids",
    "preprocess",
    "read_settings",
    "refuse_partial",
    "synthesize",
    "timestep_schedule",
    "train_lora",
    "unreadable",
]

__version__: str
BACKENDS: list[str]

class UnoError(Exception): ...
class CheckpointError(UnoError): ...
class NonFiniteError(UnoError): ...

@final
class Pipeline:
    @staticmethod
    def load(arguments: LoadArguments, on_event: OnEvent = None) -> Pipeline: ...
    def generate(self, arguments: GenerateArguments, on_event: OnEvent = None) -> Generated: ...
    def preview(self, latents: Floats) -> Bytes: ...
    @property
    def defaults(self) -> tuple[int, tuple[int, int], float]: ...
    @property
    def model_type(self) -> str: ...
    @property
    def memory_plan(self) -> str | None: ...
    @property
    def device(self) -> str: ...

@final
class T5Tokenizer:
    def __new__(cls, path: Path) -> T5Tokenizer: ...
    def encode(self, text: str, max_length: int = 512) -> list[int]: ...

@final
class ClipTokenizer:
    def __new__(cls, path: Path) -> ClipTokenizer: ...
    def encode(self, text: str, max_length: int = 77) -> list[int]: ...

@final
class TextEncoder:
    def __new__(cls, path: Path, device: str = "cpu") -> TextEncoder: ...
    @property
    def kind(self) -> Literal["t5", "clip"]: ...
    def encode(self, ids: Sequence[int]) -> Floats: ...

@final
class AutoEncoder:
    def __new__(cls, path: Path, device: str = "cpu") -> AutoEncoder: ...
    def encode(self, pictures: Floats, seed: int | None = None) -> Floats: ...
    def decode(self, latents: Floats) -> Floats: ...

@final
class Transformer:
    def __new__(
        cls,
        path: Path,
        lora: Path | None = None,
        lora_scale: float = 1.0,
        merge_lora: bool = False,
        device: str = "cpu",
    ) -> Transformer: ...
    def forward(self, arguments: ForwardArguments) -> Floats: ...

@final
class Scorer:
    def __new__(
        cls,
        dino: Path,
        clip: Path,
        clip_tokenizer: Path | None = None,
        views: str = "given",
        device: str = "cpu",
    ) -> Scorer: ...
    def score(self, picture: RawPicture, prompt: str, references: Sequence[Path]) -> str: ...
    def protocol(self) -> str: ...
    def evaluate(self, arguments: EvaluateArguments, on_event: OnEvent = None) -> str | None: ...

def preprocess(picture: RawPicture, long_side: int | None = None) -> Bytes: ...
def position_ids(
    latent: tuple[int, int], references: Sequence[tuple[int, int]], pe: str = "d", text_tokens: int = 0
) -> Floats: ...
def timestep_schedule(steps: int, sequence_length: int, shift: bool = True) -> list[float]: ...
def initial_noise(
    seed: int,
    height: int,
    width: int,
    source: str = "torch-cuda",
    dtype: str = "bfloat16",
    channels: int = 16,
) -> Floats: ...
def read_settings(path: Path) -> str: ...
def refuse_partial(name: str, data: bytes) -> None: ...
def unreadable(data: bytes) -> str | None: ...
def synthesize(
    config: Path,
    stages: list[str],
    shard: str = "0/1",
    count: int | None = None,
    write_results: bool = True,
    on_event: OnEvent = None,
) -> tuple[str | None, list[tuple[str, str]]]: ...
def train_lora(
    config: Path, resume: Path | None = None, output: Path | None = None, on_event: OnEvent = None
) -> tuple[Path, bool]: ...
