"""The binary part of uno_rs. Use it through `uno_rs`."""

import os
from typing import Any, Callable, Literal, Optional, Sequence, TypedDict, Union, final

import numpy as np
from typing_extensions import TypeAlias

_Path: TypeAlias = Union[str, "os.PathLike[str]"]
_Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
_Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
_OnEvent: TypeAlias = Optional[Callable[[str, dict[str, Any]], None]]

RawPicture: TypeAlias = tuple[str, int, int, int, bytes, bool]
Generated: TypeAlias = tuple[list[_Bytes], _Floats, list[str], list[str], float]

__version__: str
BACKENDS: list[str]

class UnoError(Exception): ...
class CheckpointError(UnoError): ...
class NonFiniteError(UnoError): ...

class LoadArguments(TypedDict):
    embedded: bool
    model_dir: Optional[_Path]
    model_type: Optional[str]
    dit: Optional[_Path]
    ae: Optional[_Path]
    t5: Optional[_Path]
    t5_tokenizer: Optional[_Path]
    clip: Optional[_Path]
    clip_tokenizer: Optional[_Path]
    lora: Optional[_Path]
    download: bool
    offline: bool
    token: Optional[str]
    cache_dir: Optional[_Path]
    device: str
    dtype: Optional[str]
    offload: bool
    lora_scale: float
    merge_lora: bool

class GenerateArguments(TypedDict):
    samples: list[tuple[str, int]]
    references: list[RawPicture]
    reference_records: list[tuple[_Path, str]]
    exif_orientation: bool
    width: int
    height: int
    num_steps: int
    guidance: float
    ref_size: Optional[int]
    pe: str
    noise: str
    noise_dtype: str
    schedule: str
    latents: Optional[_Floats]
    reference_seed: Optional[int]
    decode: bool

class ForwardArguments(TypedDict):
    latent: _Floats
    references: list[_Floats]
    txt: _Floats
    vec: _Floats
    t: list[float]
    guidance: list[float]
    pe: str

@final
class Pipeline:
    @staticmethod
    def load(arguments: LoadArguments, on_event: _OnEvent = None) -> Pipeline: ...
    def generate(self, arguments: GenerateArguments, on_event: _OnEvent = None) -> Generated: ...
    @property
    def model_type(self) -> str: ...
    @property
    def device(self) -> str: ...

@final
class T5Tokenizer:
    def __new__(cls, path: _Path) -> T5Tokenizer: ...
    def encode(self, text: str, max_length: int = 512) -> list[int]: ...

@final
class ClipTokenizer:
    def __new__(cls, path: _Path) -> ClipTokenizer: ...
    def encode(self, text: str, max_length: int = 77) -> list[int]: ...

@final
class TextEncoder:
    def __new__(cls, path: _Path, device: str = "cpu") -> TextEncoder: ...
    @property
    def kind(self) -> Literal["t5", "clip"]: ...
    def encode(self, ids: Sequence[int]) -> _Floats: ...

@final
class AutoEncoder:
    def __new__(cls, path: _Path, device: str = "cpu") -> AutoEncoder: ...
    def encode(self, pictures: _Floats, seed: Optional[int] = None) -> _Floats: ...
    def decode(self, latents: _Floats) -> _Floats: ...

@final
class Transformer:
    def __new__(
        cls,
        path: _Path,
        lora: Optional[_Path] = None,
        lora_scale: float = 1.0,
        merge_lora: bool = False,
        device: str = "cpu",
    ) -> Transformer: ...
    def forward(self, arguments: ForwardArguments) -> _Floats: ...

def preprocess(picture: RawPicture, long_side: Optional[int] = None) -> _Bytes: ...
def position_ids(
    latent: tuple[int, int], references: Sequence[tuple[int, int]], pe: str = "d", text_tokens: int = 0
) -> _Floats: ...
def timestep_schedule(steps: int, sequence_length: int, shift: bool = True) -> list[float]: ...
def initial_noise(
    seed: int,
    height: int,
    width: int,
    source: str = "torch-cuda",
    dtype: str = "bfloat16",
    channels: int = 16,
) -> _Floats: ...
def read_settings(path: _Path) -> str: ...
