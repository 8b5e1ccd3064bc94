"""The pipeline: pictures and a prompt in, pictures out."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from . import _uno_rs
from .defaults import Defaults
from .output import UnoOutput
from .pictures import raw, record
from .progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from ._types import GenerateArguments, Generated, Path
    from .pictures import PictureLike

    #: As in diffusers: called with the pipeline, the step (from 0), its time and {"latents": ...} after each step.
    Callback = Callable[["UnoPipeline", int, float, dict[str, Any]], dict[str, Any] | None]

#: The repository whose name stands for UNO on FLUX.1-dev; the other parts have repositories of their own.
UNO_REPO = "bytedance-research/UNO"


class UnoPipeline:
    """UNO, loaded. Make one with `from_pretrained` or `from_files`; several threads may use it at once."""

    def __init__(self, core: _uno_rs.Pipeline) -> None:
        self._core = core

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: Path | None = None,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        memory: str | None = "auto",
        offload: bool = False,
        plan_size: tuple[int, int] | None = None,
        plan_references: int = 1,
        plan_batch: int = 1,
        lora_scale: float = 1.0,
        loras: Sequence[Path | tuple[Path, float]] = (),
        merge_lora: bool | None = False,
        int8: bool = False,
        model_type: str | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        cache_dir: Path | None = None,
        progress: bool = True,
    ) -> UnoPipeline:
        """Loads a model folder, or `"bytedance-research/UNO"` and what it needs of FLUX.1 from the Hugging Face hub.

        Without either it is uno-tiny, the small model inside the package: eight kinds of subjects in six scenes.

        `device` is cpu, cuda, cuda:1, vulkan, wgpu, metal, rocm or auto, as far as they are built in (`uno_rs.BACKENDS`).
        `dtype` is float32, bfloat16 or float16; by default what suits the device. `model_type` is flux-dev,
        flux-dev-fp8 or flux-schnell; by default what the files are. FLUX.1-dev's licence is non-commercial.

        `memory` is the most to use: a size such as "6GiB", "auto" (what is free), "least", or None to plan nothing.
        What stays in memory and what is streamed from disk follows from it, is said before anything is loaded, and is
        `memory_plan` afterwards. The plan is for pictures of `plan_size` (width, height; 512 x 512 unless given, 128 x
        128 for the model inside the package), `plan_references` references and `plan_batch` pictures at once. `offload`
        is memory="least".

        `lora_scale` is the factor on UNO's LoRA; 0 is plain FLUX. `loras` are further ones (XLabs, kohya, diffusers or
        PEFT keys, for the text encoders too), each a file or the folder that PEFT or diffusers saved, or that with its
        factor: ("style.safetensors", 0.8). With `merge_lora` all are merged into the transformer's weights (faster
        steps, more memory); None leaves that to the plan. `int8` multiplies in 8-bit
        integers, with a transformer stored as Q8_0: faster, and an approximation.

        Raises CheckpointError, FileNotFoundError or OSError for files that are missing, wrong or refused by the hub;
        ValueError for other arguments, and where the model cannot fit into `memory`: with the numbers and what would.
        """
        download = False
        folder = None
        if path_or_repo is not None:
            if os.path.isdir(path_or_repo):
                folder = path_or_repo
            elif os.fspath(path_or_repo).lower() == UNO_REPO.lower():
                download = not local_files_only
            else:
                raise FileNotFoundError(
                    f"{os.fspath(path_or_repo)}: is no folder, and not the repository {UNO_REPO}; wanted one of the two"
                )
        return cls._load(
            progress,
            embedded=path_or_repo is None,
            model_dir=folder,
            model_type=model_type,
            download=download,
            offline=local_files_only,
            token=token,
            cache_dir=cache_dir,
            device=device,
            dtype=dtype,
            memory=memory,
            offload=offload,
            plan_size=plan_size,
            plan_references=plan_references,
            plan_batch=plan_batch,
            lora_scale=lora_scale,
            loras=_loras(loras),
            merge_lora=merge_lora,
            int8=int8,
        )

    @classmethod
    def from_files(
        cls,
        *,
        dit: Path | None = None,
        ae: Path | None = None,
        t5: Path | None = None,
        clip: Path | None = None,
        lora: Path | None = None,
        t5_tokenizer: Path | None = None,
        clip_tokenizer: Path | None = None,
        model_type: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        memory: str | None = "auto",
        offload: bool = False,
        plan_size: tuple[int, int] | None = None,
        plan_references: int = 1,
        plan_batch: int = 1,
        lora_scale: float = 1.0,
        loras: Sequence[Path | tuple[Path, float]] = (),
        merge_lora: bool | None = False,
        int8: bool = False,
        progress: bool = True,
    ) -> UnoPipeline:
        """Loads single files.

        What is not given comes from the environment variables AE, FLUX_DEV, FLUX_SCHNELL, T5, CLIP and LORA, or from
        the hub cache; nothing is downloaded. The other arguments and errors are those of `from_pretrained`.
        """
        return cls._load(
            progress,
            dit=dit,
            ae=ae,
            t5=t5,
            clip=clip,
            lora=lora,
            t5_tokenizer=t5_tokenizer,
            clip_tokenizer=clip_tokenizer,
            model_type=model_type,
            device=device,
            dtype=dtype,
            memory=memory,
            offload=offload,
            plan_size=plan_size,
            plan_references=plan_references,
            plan_batch=plan_batch,
            lora_scale=lora_scale,
            loras=_loras(loras),
            merge_lora=merge_lora,
            int8=int8,
        )

    @classmethod
    def _load(cls, progress: bool, **given: Any) -> UnoPipeline:
        arguments: dict[str, Any] = {
            "embedded": False,
            "download": False,
            "offline": False,
            **dict.fromkeys(
                ("model_dir", "model_type", "dit", "ae", "t5", "t5_tokenizer", "clip", "clip_tokenizer", "lora")
            ),
            **dict.fromkeys(("token", "cache_dir")),
            **given,
        }
        with Progress(progress) as bar:
            return cls(_uno_rs.Pipeline.load(arguments, bar.on_event))  # type: ignore[arg-type]

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        reference_images: Sequence[PictureLike] | PictureLike | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 3407,
        num_images_per_prompt: int = 1,
        latents: np.ndarray | None = None,
        pe: str = "d",
        ref_size: int | None = None,
        noise: str = "torch-cuda",
        noise_dtype: str = "bfloat16",
        schedule: str = "uno",
        reference_seed: int | None = None,
        exif_orientation: bool = True,
        first_block_cache: float | None = None,
        reference_cache: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        progress: bool = True,
    ) -> UnoOutput:
        """Generates pictures.

        `prompt` is one or several; each gets `num_images_per_prompt` pictures, with seeds `seed`, `seed + 1` ..., or
        those of a sequence with one seed per picture. All are computed together, each as it would be alone. What is not
        given is as in the official program: 512 x 512 pixels, guidance 4; 128 x 128 for the model inside the package.
        `reference_images` are PIL images, uint8 or 0-to-1 float arrays, or paths, and the same for all. Height and
        width are rounded down to multiples of 16. `latents` is the initial noise `[n, 16, H / 8, W / 8]` in place of
        drawn noise.

        `pe` places references (d, h, w, o), `ref_size` is their longer side (512 for one, 320 for more; 128 and 80 for
        the model inside the package). `noise` is
        torch-cuda or torch-cpu, `noise_dtype` bfloat16 or float32, `schedule` uno or flux. With `reference_seed`
        reference latents are drawn, without they are the mean.

        `first_block_cache` and `reference_cache` save time and change the picture. With the first, steps whose first
        block adds nearly what it added before (within this part, 0.05 to 0.15) skip all other blocks; with the second,
        the references' tokens are computed only at every so many steps.

        `output_type` is "pil", "np" (float32 `[n, H, W, 3]` in 0 to 1) or "latent" (`[n, C, H / 8, W / 8]`).

        `callback_on_step_end(pipeline, step, time, {"latents": packed latents})` is called after each step; what it
        raises stops the work and comes out unchanged, and so does Ctrl-C. It may return None or the dictionary as it
        got it; the latents are read-only.

        Raises ValueError for what cannot be done (before any work), NonFiniteError for NaN on the way.
        """
        if output_type not in ("pil", "np", "latent"):
            raise ValueError(f'output_type: got {output_type!r}, wanted "pil", "np" or "latent"')
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts) * num_images_per_prompt
        if not prompts or num_images_per_prompt < 1:
            raise ValueError(
                "got no picture to make, wanted at least one prompt and num_images_per_prompt of at least 1"
            )
        samples = [
            (text, value)
            for (text, value) in zip(
                (text for text in prompts for _ in range(num_images_per_prompt)),
                _seeds(seed, count, num_images_per_prompt),
            )
        ]
        if latents is not None:
            import numpy as np

            latents = np.asarray(latents, dtype=np.float32)
        references = _pictures(reference_images)
        raw_references = [
            raw(picture, exif_orientation=exif_orientation, name=f"reference image {i}")
            for i, picture in enumerate(references)
        ]
        arguments: GenerateArguments = {
            "samples": samples,
            "references": raw_references,
            "reference_records": [record(given, taken) for given, taken in zip(references, raw_references)],
            "exif_orientation": exif_orientation,
            "width": width,
            "height": height,
            "num_steps": num_inference_steps,
            "guidance": guidance_scale,
            "ref_size": ref_size,
            "pe": pe,
            "noise": noise,
            "noise_dtype": noise_dtype,
            "schedule": schedule,
            "latents": latents,
            "reference_seed": reference_seed,
            "first_block_cache": first_block_cache,
            "reference_cache": reference_cache,
            "decode": output_type != "latent",
        }
        with Progress(progress) as bar:

            def on_event(kind: str, payload: dict[str, Any]) -> None:
                bar.on_event(kind, payload)
                if kind == "step" and callback_on_step_end is not None:
                    latents = payload["latents"]
                    # A change in place would go unnoticed.
                    latents.flags.writeable = False
                    given = {"latents": latents}
                    returned = callback_on_step_end(self, payload["step"] - 1, payload["time"], given)
                    if any(answer.get("latents", latents) is not latents for answer in (given, returned or {})):
                        raise ValueError("callback_on_step_end returned other latents; changing them is not supported")

            generated = self._core.generate(arguments, on_event)
        return _output(generated, output_type)

    def preview(self, latents: np.ndarray, *, height: int | None = None, width: int | None = None) -> np.ndarray:
        """What latents look like without the decoder, uint8 `[H / 8, W / 8, 3]`: colours and places, no details.

        `latents` are those of one picture: `[1, C, H / 8, W / 8]`, or packed as a callback gets them, `[1, tokens, 4 *
        C]`, with the height and width of the picture as it is made. The first call takes longer: it fits the map from
        latents to colours to the model.

        Raises ValueError for other shapes.
        """
        import numpy as np

        latents = np.asarray(latents, dtype=np.float32)
        if latents.ndim == 3:
            latents = _unpacked(latents, height, width)
        return self._core.preview(latents)

    @property
    def defaults(self) -> Defaults:
        """The settings that the model was made for; what a call does not give."""
        side, ref_sizes, guidance = self._core.defaults
        return Defaults(width=side, height=side, guidance_scale=guidance, ref_sizes=ref_sizes)

    @property
    def model_type(self) -> str:
        """flux-dev, flux-dev-fp8, flux-schnell or embedded."""
        return self._core.model_type

    @property
    def memory_plan(self) -> str | None:
        """How the model was fitted into memory: what stays, what is streamed, and the expected peak of each stage."""
        return self._core.memory_plan

    @property
    def device(self) -> str:
        """The device that was opened (cpu, cuda, cuda:1 ...), whatever name it was asked for by."""
        return self._core.device

    def __repr__(self) -> str:
        return f"Uno{self._core!r}"


def _loras(given: Sequence[Path | tuple[Path, float]]) -> list[tuple[Path, float]]:
    """Each file with its factor."""
    if isinstance(given, (str, os.PathLike)):
        raise TypeError("loras: got one path, wanted a list of paths or of (path, factor)")
    return [(entry[0], entry[1]) if isinstance(entry, tuple) else (entry, 1.0) for entry in given]


def _pictures(given: Any) -> list[Any]:
    import PIL.Image

    if given is None:
        return []
    single = isinstance(given, (str, os.PathLike, PIL.Image.Image)) or hasattr(given, "__array_interface__")
    return [given] if single else list(given)


def _unpacked(latents: np.ndarray, height: int | None, width: int | None) -> np.ndarray:
    """`[1, tokens, 4 * C]` to `[1, C, H / 8, W / 8]`: each token holds 2x2 places."""
    if height is None or width is None:
        raise ValueError(f"latents: got packed ones of shape {latents.shape} without height and width, wanted both")
    n, tokens, features = latents.shape
    rows, columns = height // 16, width // 16
    if n != 1 or tokens != rows * columns or tokens == 0 or features % 4 != 0:
        raise ValueError(
            f"latents: got shape {latents.shape} for a picture of {width}x{height}, wanted (1, {rows * columns}, 4 * C)"
        )
    places = latents.reshape(1, rows, columns, features // 4, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return places.reshape(1, features // 4, 2 * rows, 2 * columns)


def _seeds(seed: int | Sequence[int], count: int, per_prompt: int) -> list[int]:
    """One seed per picture; each prompt begins again at the first, as in the official program."""
    # `index` takes numpy's integers too, and refuses floats.
    if isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0:
        seeds = [operator.index(value) for value in cast("Sequence[int]", seed)]
        if len(seeds) != count:
            raise ValueError(f"seed: got {len(seeds)} seeds for {count} pictures, wanted one each, or one number")
    else:
        first = operator.index(seed)
        seeds = [first + i % per_prompt for i in range(count)]
    for value in seeds:
        if not 0 <= value < 1 << 64:
            raise ValueError(f"seed: got {value}, wanted 0 to 2^64 - 1")
    return seeds


def _output(generated: Generated, output_type: str) -> UnoOutput:
    import json

    pictures, latents, settings, notices, seconds = generated
    images: Any
    if output_type == "latent":
        images = latents
    elif output_type == "np":
        import numpy as np

        images = np.stack(pictures).astype(np.float32) / 255.0
    else:
        import PIL.Image

        images = [PIL.Image.fromarray(picture) for picture in pictures]
    return UnoOutput(images, [json.loads(text) for text in settings], notices, seconds)
