"""Subject-driven image generation: UNO on FLUX.1, in Rust, without torch.

>>> from uno_rs import UnoPipeline
>>> pipeline = UnoPipeline.from_pretrained("models/uno")                           # doctest: +SKIP
>>> pipeline("The figurine on a beach", reference_images=["figurine.png"]).images  # doctest: +SKIP

`UnoPipeline` is what most people need. The components (tokenizers, `TextEncoder`, `AutoEncoder`, `Transformer`) and
functions (`preprocess`, `unope_ids`, `schedule`, `noise`) take and give numpy arrays. `train_lora` trains, as a
configuration file says; `Scorer` measures pictures as DreamBench does, `synthesize` makes
training data.
"""

from ._uno_rs import (
    BACKENDS,
    AutoEncoder,
    CheckpointError,
    ClipTokenizer,
    NonFiniteError,
    T5Tokenizer,
    TextEncoder,
    UnoError,
    __version__,
)
from .components import Transformer, noise, preprocess, schedule, unope_ids
from .defaults import Defaults
from .evaluation import Scorer
from .output import UnoOutput, read_settings
from .pipeline import UnoPipeline
from .synthesis import STAGES, SynthesisResult, synthesize
from .training import TrainResult, train_lora

__all__ = [
    "BACKENDS",
    "AutoEncoder",
    "CheckpointError",
    "ClipTokenizer",
    "Defaults",
    "NonFiniteError",
    "STAGES",
    "Scorer",
    "SynthesisResult",
    "T5Tokenizer",
    "TextEncoder",
    "TrainResult",
    "Transformer",
    "UnoError",
    "UnoOutput",
    "UnoPipeline",
    "__version__",
    "noise",
    "preprocess",
    "read_settings",
    "schedule",
    "synthesize",
    "train_lora",
    "unope_ids",
]
