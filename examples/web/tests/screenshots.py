"""Makes the pictures of docs/serving.md: `python examples/web/tests/screenshots.py ADDRESS` of a server that runs.

The history of that server should be empty: what is shown is made here. Large pictures are made smaller by pngquant
(Debian's package of that name).
"""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

from browser import MUG, PHONE, ROBOT, add_references, finished, generate, ready
from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parents[3] / "docs/images"
DESKTOP = {"width": 1360, "height": 850}
MOST_BYTES = 300_000
# Prompts in words that uno-tiny knows.
MADE = [
    ("a purple house in the snow", [], "1:1"),
    ("a blue car with yellow stripes in the desert", [], "4:3"),
    ("a robot in a meadow", [ROBOT], "1:1"),
    ("a mug on a wooden table", [MUG], "3:4"),
    ("a mug to the left of a robot on a beach", [MUG, ROBOT], "1:1"),
]
RUNNING = "a mug on top of a robot in a city at night"


def make(page, prompt, references, ratio):
    while page.locator(".reference").count():
        page.locator(".reference [aria-label^=Remove]").first.click()
    if references:
        add_references(page, *references)
    page.locator("#ratios label", has_text=ratio).click()
    generate(page, prompt, steps=25)


def save(page, name):
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.locator("#toast").wait_for(state="hidden")
    page.wait_for_timeout(400)  # Colours change by transitions.
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    path = IMAGES / f"{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        subprocess.run(["pngquant", "--force", "--speed=1", f"--output={path}", "256", path], check=True)
    print(path, *picture.size, path.stat().st_size, "bytes")


def main(address):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        context = browser.new_context(viewport=DESKTOP)
        page = context.new_page()
        page.set_default_timeout(600_000)
        page.goto(address)
        ready(page)
        for prompt, references, ratio in MADE:
            make(page, prompt, references, ratio)
            finished(page, prompt)
        page.click("#more > summary")
        page.locator(".fields").evaluate("fields => fields.scrollTo(0, 0)")
        save(page, "web-light")
        page.emulate_media(color_scheme="dark")
        generate(page, RUNNING, steps=50, pictures=4)
        page.click("#more > summary")
        page.locator("#stage .picture[data-state=finished]").nth(1).wait_for()
        page.locator(".fields").evaluate("fields => fields.scrollTo(0, 0)")
        save(page, "web-dark")
        finished(page, RUNNING)
        phone = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
        page = phone.new_page()
        page.set_default_timeout(600_000)
        page.goto(address)
        ready(page)
        page.locator("#stage .picture img").first.evaluate("img => img.decode()")
        page.locator("#results").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('results').scrollIntoView({ behavior: 'instant' })")
        save(page, "web-phone")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
