"""The Gradio app in Chromium: it is usable, and asks nobody but its own server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_server import PATIENCE, AppServer
from common import ASSETS
from uno_rs import read_settings

pytest.importorskip("gradio", reason="gradio is not installed (pip install uno-rs[app])")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    """The app with the small model."""
    with AppServer() as running:
        yield running


@pytest.fixture
def page(server: AppServer) -> Iterator[Any]:
    """The loaded page. It fails if anything is asked of another server, or something goes wrong on the page."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}; install Debian's chromium, or name one with CHROMIUM")
    problems: list[str] = []

    def on_request(request: Any) -> None:
        if not request.url.startswith((server.url, "data:", "blob:")):
            problems.append(f"request to elsewhere: {request.url}")

    with api.sync_playwright() as playwright:
        # The sandbox needs rights that containers do not have.
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        context = browser.new_context(accept_downloads=True)
        context.set_default_timeout(PATIENCE * 1000)
        context.on("request", on_request)
        context.on("weberror", lambda error: problems.append(f"uncaught: {error.error}"))
        page = context.new_page()
        page.goto(server.url)
        page.get_by_role("button", name="Generate").wait_for()
        page.wait_for_load_state("networkidle")
        yield page
        browser.close()
    assert not problems, "\n".join(problems)


def set_steps(page: Any, steps: int) -> None:
    page.get_by_text("Advanced Options").click()
    page.get_by_label("number input for Number of steps").fill(str(steps))


def test_the_page_has_the_official_labels_and_loads_nothing_from_elsewhere(page: Any) -> None:
    for label in ("Prompt", "Ref Img1", "Ref Img4", "Long side of Ref Images", "Generated Image"):
        assert page.get_by_text(label, exact=True).first.is_visible(), label
    assert "uno-tiny" in page.content()
    assert "Download full-resolution" in page.content()


def test_an_example_fills_the_fields_and_is_generated_and_downloaded(page: Any, tmp_path: Path) -> None:
    page.get_by_text("a robot to the left of a teapot in a meadow").click()
    page.locator("#uno-references img").nth(1).wait_for()
    set_steps(page, 2)
    page.get_by_role("button", name="Generate").click()
    page.locator("label:has-text('Settings') textarea, label:has-text('Settings') input").wait_for()
    with page.expect_download() as caught:
        page.locator("a[download*='uno-3407']").first.click()
    path = tmp_path / "download.png"
    caught.value.save_as(path)
    settings = read_settings(path)
    assert settings["prompt"] == "a robot to the left of a teapot in a meadow"
    assert (settings["seed"], len(settings["references"])) == (3407, 2)


def test_an_example_with_fewer_references_removes_the_others(page: Any) -> None:
    page.get_by_text("a robot to the left of a teapot in a meadow").click()
    page.locator("#uno-references img").nth(1).wait_for()
    page.get_by_text("a mug on a beach", exact=True).last.click()
    page.wait_for_function("document.querySelectorAll('#uno-references button img').length === 1")


def test_cancel_ends_a_generation_and_says_so(page: Any) -> None:
    set_steps(page, 50)
    for label in ("Generation Width", "Generation Height"):
        page.get_by_label(f"number input for {label}").fill("512")
    page.get_by_role("button", name="Generate").click()
    page.locator("#uno-progress .uno-said").wait_for(state="attached")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#uno-progress", has_text="Cancelled.").wait_for()
    page.wait_for_timeout(1500)
    assert page.locator("#uno-progress", has_text="Cancelled.").count() == 1
    assert page.locator("#uno-progress img").count() == 0
    assert page.locator("a[download*='uno-']").count() == 0


def test_a_refusal_is_shown_as_text(page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "<img src=x onerror=alert(1)>.png"
    broken.write_bytes((ASSETS / "robot.png").read_bytes()[:3000])
    page.locator("input[type=file]").first.set_input_files(broken)
    page.get_by_text("Ref Img1: is damaged").first.wait_for()
