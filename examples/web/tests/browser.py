"""Chromium for the tests of the page. Every page is watched: no errors on its console, no request to anywhere else."""

import base64
import os
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MUG, ROBOT, CAR, FISH, BALL = (ASSETS / f"{name}.png" for name in ("mug", "robot", "car", "fish", "ball"))
# Computing may take its time on a busy machine.
PATIENCE = 240_000
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def chromium():
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(path).exists():
        pytest.skip(f"no browser at {path}; install Debian's chromium, or name one with CHROMIUM")
    with sync_playwright() as playwright:
        # The sandbox needs rights that containers do not have.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """`open_page(server, allow=[...], viewport=..., scheme=..., phone=False)`: the page, in a context of its own.

    `allow` are patterns of console messages that the test provokes, such as a refused request.
    """
    contexts = []

    def open_page(server, allow=(), viewport=None, scheme="light", phone=False, wait=True, **options) -> Page:
        if phone:
            options |= {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
        viewport = viewport or (PHONE if phone else DESKTOP)
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True, **options)
        context.set_default_timeout(PATIENCE)
        problems = watch(context, server.url, allow)
        contexts.append((context, problems))
        page = context.new_page()
        page.goto(server.url)
        if wait:
            ready(page)
        return page

    yield open_page
    for context, _ in contexts:
        context.close()
    found = [problem for _, problems in contexts for problem in problems]
    assert not found, "\n".join(found)


def watch(context, url, allow):
    """Collects what must not happen in any page of a context."""
    problems = []

    def on_console(message):
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type in ("error", "warning") and not any(re.search(pattern, text) for pattern in allow):
            problems.append(f"console: {text}")

    def on_request(request):
        if not request.url.startswith((url.rstrip("/") + "/", "data:", "blob:")):
            problems.append(f"request to elsewhere: {request.url}")

    context.on("console", on_console)
    context.on("weberror", lambda error: problems.append(f"uncaught: {error.error}"))
    context.on("request", on_request)
    return problems


def ready(page: Page) -> None:
    """Waits until the page knows the model and its jobs."""
    expect(page.locator("#generate")).to_be_enabled()
    page.locator(
        "#welcome:not([hidden]), #stage:not([hidden]), #queue:not([hidden]), #history:not([hidden])"
    ).first.wait_for()


def add_references(page: Page, *paths: Path) -> None:
    """Picks files, and waits until each is shown as the model sees it."""
    before = page.locator(".reference").count()
    page.set_input_files("#file", paths)
    expect(page.locator(".reference")).to_have_count(before + len(paths))
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(before + len(paths))


def set_steps(page: Page, steps: int) -> None:
    if not page.locator("#more").evaluate("details => details.open"):
        page.click("#more > summary")
    page.fill("#num_steps", str(steps))


def generate(page: Page, prompt: str, steps: int = 2, pictures: int = 1) -> None:
    """Asks for pictures."""
    page.fill("#prompt", prompt)
    set_steps(page, steps)
    page.locator("#counts label", has_text=str(pictures)).click()
    page.click("#generate")


def choose_size(page: Page, side: int) -> None:
    page.locator("#ratios label", has_text="Custom").click()
    page.fill("#width", str(side))
    page.fill("#height", str(side))


def generate_long(page: Page, prompt: str) -> None:
    """Asks for pictures that take longer than a test looks at them, and waits until they are under way."""
    choose_size(page, 512)
    generate(page, prompt, steps=100, pictures=4)
    page.locator("#ratios label", has_text="1:1").click()
    expect(page.locator("#stage.running .prompt")).to_have_text(prompt)


def cancel(page: Page) -> None:
    """Cancels the running job."""
    page.locator("#stage").get_by_role("button", name="Cancel").click()


def finished(page: Page, prompt: str) -> None:
    """Waits until the stage shows the finished picture of a prompt."""
    expect(page.locator("#stage .prompt")).to_have_text(prompt)
    expect(page.locator("#stage .picture[data-state=finished]").first).to_be_visible()
    expect(page.locator("#stage [data-action=reuse]")).to_be_visible()


def give_files(page: Page, kind: str, *paths: Path, type: str = "image/png") -> None:
    """Files as a paste or a drop brings them."""
    files = [[path.name, base64.b64encode(path.read_bytes()).decode(), type] for path in paths]
    page.evaluate(
        """([kind, files]) => {
            const data = new DataTransfer();
            for (const [name, text, type] of files) {
                data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type }));
            }
            const event = (name) => name === "paste"
                ? new ClipboardEvent(name, { clipboardData: data, bubbles: true, cancelable: true })
                : new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
            const names = kind === "paste" ? ["paste"] : ["dragenter", "dragover", "drop"];
            for (const name of names) document.body.dispatchEvent(event(name));
        }""",
        [kind, files],
    )


def check_access(page: Page) -> None:
    """Asks axe for what a person with a disability would stumble over."""
    # Colours in the middle of a transition are nobody's.
    page.evaluate(
        """() => Promise.allSettled(
            document.getAnimations().filter((a) => a.effect.getTiming().iterations !== Infinity).map((a) => a.finished),
        ).then(() => null)"""
    )
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    assert results.violations_count == 0, results.generate_report()
