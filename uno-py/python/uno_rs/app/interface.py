"""The page: its fields, and what happens when they are used."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from .._uno_rs import UnoError
from ..components import preprocess
from ..defaults import Defaults
from . import inputs, labels
from .preview import duration
from .work import Finished, Started, Step, Update, Waiting, Worker

#: The picture, its file, progress, settings and notices.
Shown = tuple[Any, Any, Any, Any, Any]

_EXAMPLES = Path(__file__).parent / "examples"
#: How often files are looked through, and when they are removed, in seconds.
_SWEEP = (3600, 24 * 3600)
#: On the page itself, since a generation that is cancelled cannot say it. Nothing is said where there was none.
_SAY_CANCELLED = "(shown) => shown ? '<p>Cancelled.</p>' : shown"
#: Progress is gone when there is an error. Gradio takes what is cancelled for one.
_CLEAR_PROGRESS = "(shown) => shown === '<p>Cancelled.</p>' ? shown : ''"


def build(worker: Worker, queue: int) -> gr.Blocks:
    """The page for a worker's pipeline; at most `queue` requests wait."""
    defaults, model = worker.pipeline.defaults, worker.pipeline.model_type
    limits = inputs.Limits.of(defaults)
    with gr.Blocks(title="UNO", analytics_enabled=False, delete_cache=_SWEEP) as app:
        gr.Markdown(f"# UNO\n\n{_about(model, worker.pipeline.device)}")
        with gr.Row():
            with gr.Column():
                fields = _fields(defaults, limits)
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary")
                    cancel = gr.Button("Cancel", variant="stop")
            with gr.Column():
                progress_shown = gr.HTML(elem_id="uno-progress")
                result = gr.Image(label=labels.RESULT, interactive=False, buttons=["download", "fullscreen"])
                download = gr.File(label=labels.DOWNLOAD, interactive=False)
                settings = gr.Textbox(label="Settings", interactive=False, visible=False)
                notices = gr.Textbox(label="Notices", interactive=False, visible=False)
        _examples(fields)
        uploads = result.GRADIO_CACHE

        async def gradio_generate(
            prompt: Any,
            width: Any,
            height: Any,
            guidance: Any,
            num_steps: Any,
            seed: Any,
            ref_long_side: Any,
            image_prompt1: Any,
            image_prompt2: Any,
            image_prompt3: Any,
            image_prompt4: Any,
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> AsyncIterator[Shown]:
            """Generates a picture of what the prompt says, with the subjects of the references."""
            pictures = (image_prompt1, image_prompt2, image_prompt3, image_prompt4)
            try:
                request = inputs.check(
                    limits, prompt, width, height, guidance, num_steps, seed, ref_long_side, pictures, uploads
                )
                async with aclosing(worker.run(request, uploads)) as updates:
                    async for update in updates:
                        yield _shown(update)
                        # After what is shown, which would hide it.
                        _tell(progress, update)
            except (OSError, TypeError, UnoError, ValueError) as error:
                raise _for_people(error) from error

        generating = gr.on(
            [generate.click, fields["prompt"].submit],
            gradio_generate,
            [fields[name] for name in _ORDER],
            [result, download, progress_shown, settings, notices],
            api_name="gradio_generate",
            preprocess=False,
            show_progress_on=progress_shown,
            concurrency_limit=1,
            trigger_mode="once",
        )
        generating.failure(None, progress_shown, progress_shown, js=_CLEAR_PROGRESS)
        cancel.click(None, cancels=[generating])
        cancel.click(None, progress_shown, progress_shown, js=_SAY_CANCELLED)
    # Without it requests could go round the queue.
    return app.queue(max_size=queue, api_open=False, default_concurrency_limit=1)


#: The fields that a generation takes, in the official app's order.
_ORDER = (
    "prompt", "width", "height", "guidance", "num_steps", "seed", "ref_long_side",
    "image_prompt1", "image_prompt2", "image_prompt3", "image_prompt4",
)  # fmt: skip
_PICTURES = _ORDER[-4:]


def _fields(defaults: Defaults, limits: inputs.Limits) -> dict[str, Any]:
    """All that is asked for, by the names of the official app."""
    single, several = defaults.ref_sizes
    fields: dict[str, Any] = {
        "prompt": gr.Textbox(
            label=labels.PROMPT, value="a mug on a beach", max_length=inputs.MAX_PROMPT, placeholder="What it shows"
        )
    }
    with gr.Row():
        for name, label in zip(_PICTURES, labels.REFERENCES):
            picture = gr.Image(
                label=label,
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                interactive=True,
                min_width=120,
                height=230,
            )
            fields[name] = _uploads_only(picture)
    fields["ref_long_side"] = gr.Number(
        -1,
        label=labels.REF_SIZE,
        info=f"-1: {single} for one, {several} for more; at least {limits.least_reference}",
        step=inputs.MULTIPLE,
    )
    _show_references(fields, defaults, limits)
    with gr.Row():
        for name, label, value in (("width", labels.WIDTH, defaults.width), ("height", labels.HEIGHT, defaults.height)):
            fields[name] = gr.Slider(limits.least, limits.most, value, step=inputs.MULTIPLE, label=label)
    gr.Markdown(
        f"The model was trained at {defaults.width}x{defaults.height} pixels. Sizes near that are the most reliable; "
        "larger ones have more detail, take longer, and fail more often."
    )
    with gr.Accordion("Advanced Options", open=False):
        with gr.Row():
            fields["num_steps"] = gr.Slider(1, inputs.MAX_STEPS, 25, step=1, label=labels.STEPS)
            fields["guidance"] = gr.Slider(
                inputs.MIN_GUIDANCE, inputs.MAX_GUIDANCE, defaults.guidance_scale, step=0.1, label=labels.GUIDANCE
            )
            fields["seed"] = gr.Number(-1, label=labels.SEED, step=1)
    return fields


def _uploads_only(picture: Any) -> Any:
    """Refuses addresses: Gradio would fetch them for a client, whatever their size."""
    move = picture.async_move_resource_to_block_cache

    async def move_upload(path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error(f"{picture.label}: got an address, wanted an uploaded file", print_exception=False)
        return await move(path)

    picture.async_move_resource_to_block_cache = move_upload
    return picture


def _show_references(fields: dict[str, Any], defaults: Defaults, limits: inputs.Limits) -> None:
    """A gallery of the references as the model sees them."""
    gallery = gr.Gallery(
        label="References as the model sees them",
        columns=4,
        height=190,
        object_fit="contain",
        interactive=False,
        format="png",
        buttons=[],
        visible=False,
        elem_id="uno-references",
    )

    def references(ref_long_side: Any, *pictures: Any) -> Any:
        """The references as the model sees them: scaled and cropped."""
        try:
            ref_size = inputs.check_ref_size(limits, ref_long_side)
            upright = inputs.open_references(pictures, gallery.GRADIO_CACHE)
            given = [place for place, picture in enumerate(pictures, 1) if picture is not None]
            seen = [preprocess(picture, long_side=ref_size or defaults.ref_size(len(upright))) for picture in upright]
        except (OSError, TypeError, ValueError) as error:
            raise _for_people(error) from error
        shown = [(array, f"{place}: {array.shape[1]}x{array.shape[0]}") for place, array in zip(given, seen)]
        return gr.Gallery(value=shown, visible=bool(shown))

    names = ("ref_long_side", *_PICTURES)
    gr.on(
        [fields[name].change for name in names],
        references,
        [fields[name] for name in names],
        gallery,
        api_name="references",
        preprocess=False,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=2,
    )


def _examples(fields: dict[str, Any]) -> None:
    robot, teapot, mug = (str(_EXAMPLES / f"{name}.png") for name in ("robot", "teapot", "mug"))
    case = gr.Textbox(visible=False, label="Case For:")
    names = ("prompt", "image_prompt1", "image_prompt2", "image_prompt3", "image_prompt4", "seed", "ref_long_side")
    gr.Examples(
        [
            ["Many2One", "a robot to the left of a teapot in a meadow", robot, teapot, None, None, 3407, -1],
            ["One2One", "a mug on a beach", mug, None, None, None, 3407, -1],
        ],
        [case, *(fields[name] for name in names)],
        cache_examples=False,
    )


def _shown(update: Update) -> Shown:
    same = gr.skip()
    if isinstance(update, Finished):
        path = str(update.path)
        notices = "\n".join(update.notices)
        return path, path, "", gr.Textbox(_summary(update), visible=True), gr.Textbox(notices, visible=bool(notices))
    progress = f'<p class="uno-said" role="status">{html.escape(_words(update))}</p>'
    if isinstance(update, Step):
        if update.preview is not None:
            progress += f'<img src="{update.preview}" alt="what the picture looks like so far">'
        return same, same, progress, same, same
    return None, None, progress, gr.Textbox("", visible=False), gr.Textbox("", visible=False)


def _tell(progress: Any, update: Update) -> None:
    if isinstance(update, Step):
        progress((update.done, update.total), desc=_words(update), unit="steps")
    elif not isinstance(update, Finished):
        progress(None, desc=_words(update))


def _words(update: Waiting | Started | Step) -> str:
    if isinstance(update, Waiting):
        return "Waiting for the end of a step"
    if isinstance(update, Started):
        return "Reading the prompt and the references"
    left = "" if update.left is None else f", about {duration(update.left)} left"
    return f"Step {update.done} of {update.total}{left}"


def _summary(finished: Finished) -> str:
    settings = finished.settings
    parts = [
        f"seed {settings['seed']}",
        f"{settings['width']}x{settings['height']}",
        f"{settings['num_steps']} steps",
        f"guidance {settings['guidance']:g}",
    ]
    parts += [f"reference {r['width']}x{r['height']}" for r in settings["references"]]
    return ", ".join([*parts, f"made in {duration(finished.seconds)}"])


def _for_people(error: Exception) -> gr.Error:
    """The message in a window that stays; Gradio takes it as HTML."""
    return gr.Error(html.escape(str(error), quote=False), duration=None, print_exception=False)


def _about(model: str, device: str) -> str:
    if model == "embedded":
        about = (
            "This is uno-tiny, the small model inside the package, for trying things out. Start with `--model` or "
            "`--download` for UNO on FLUX.1."
        )
    elif model.startswith("flux-dev"):
        about = (
            "FLUX.1-dev is for non-commercial use, and its [licence]"
            "(https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md) says what may be done with it."
        )
    else:
        about = "Subject-driven image generation."
    return f"{about} Model: {model}, device: {device}."
