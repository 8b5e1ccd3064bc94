"""Makes the pictures of docs/serving.md: `python examples/web/tests/screenshots.py ADDRESS`, with a server that runs there.

The history of that server should be empty: what is shown is made here.
"""

import sys
from io import BytesIO
from pathlib import Path

from browser import MUG, PHONE, ROBOT, add_references, finished, generate, ready
from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parents[3] / "docs/images"
DESKTOP = {"width": 1440, "height": 900}
MOST_BYTES = 300_000
MADE = [
    ("a robot in a city at night", [ROBOT], "4:3"),
    ("a mug on a table", [MUG], "1:1"),
    ("a robot and a mug in a meadow", [ROBOT, MUG], "16:9"),
    ("a mug next to a robot on a beach", [MUG, ROBOT], "1:1"),
]


def make(page, prompt, references, ratio):
    while page.locator(".reference").count():
        page.locator(".reference [aria-label^=Remove]").first.click()
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
        picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
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
        generate(page, "a robot on a beach", steps=50, pictures=4)
        page.click("#more > summary")
        page.locator("#stage .picture[data-state=finished]").nth(1).wait_for()
        page.locator(".fields").evaluate("fields => fields.scrollTo(0, 0)")
        save(page, "web-dark")
        finished(page, "a robot on a beach")
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
