"""The page: queue, progress, pictures and history."""

import json
import re

from browser import MUG, ROBOT, add_references, cancel, finished, generate, generate_long, ready
from conftest import ROOT
from playwright.sync_api import expect

pytest_plugins = ["browser"]


def test_two_references_and_a_prompt_become_a_picture(server, open_page):
    page = open_page(server)
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#notice")).to_be_visible()
    add_references(page, MUG, ROBOT)
    page.get_by_role("button", name="Move robot.png left").click()
    # The small model may be done before a question from here arrives: the page itself takes notes.
    page.evaluate(
        """() => {
            window.seen = { title: new Set(), icon: new Set(), preview: new Set(), progress: new Set() };
            const note = () => {
                seen.title.add(document.title);
                seen.icon.add(document.getElementById("favicon").getAttribute("href").slice(0, 15));
                const preview = document.querySelector("#stage .picture[data-state=preview] img");
                if (preview) seen.preview.add(preview.src);
                const bar = document.querySelector("#stage .bar");
                if (bar) seen.progress.add(bar.getAttribute("aria-valuetext"));
            };
            new MutationObserver(note).observe(document, { subtree: true, childList: true, attributes: true });
        }"""
    )
    generate(page, "a robot and a mug on a beach", steps=100)
    finished(page, "a robot and a mug on a beach")
    seen = page.evaluate("Object.fromEntries(Object.entries(seen).map(([name, values]) => [name, [...values]]))")
    assert any(re.fullmatch(r"\d+ % · UNO", title) for title in seen["title"]), seen["title"]
    assert "data:image/png;" in seen["icon"]
    assert all(preview.startswith("data:image/png;base64,") for preview in seen["preview"])
    assert seen["preview"]
    assert any(re.fullmatch(r"\d+ %, Step \d+ of 100", progress) for progress in seen["progress"]), seen["progress"]
    expect(page.locator("#announcer")).to_have_text("Finished, 1 picture: a robot and a mug on a beach")
    expect(page).to_have_title("UNO")
    expect(page.locator("#favicon")).to_have_attribute("href", "icon.svg")
    img = page.locator("#stage .picture img")
    assert img.evaluate("img => img.decode().then(() => [img.naturalWidth, img.naturalHeight])") == [128, 128]
    expect(page.locator("#stage .thumbs img")).to_have_count(2)
    expect(page.locator("#welcome")).to_be_hidden()


def test_a_running_job_is_cancelled(server, open_page):
    page = open_page(server)
    generate_long(page, "a picture that nobody waits for")
    page.locator("#stage .picture[data-state=preview]").wait_for()
    cancel(page)
    expect(page.locator("#results .remark", has_text="Cancelled")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Cancelled: a picture that nobody waits for")


def test_jobs_wait_in_order_and_leave_the_queue_when_cancelled(server, open_page):
    page = open_page(server)
    generate_long(page, "the first")
    generate(page, "the second")
    generate(page, "the third")
    waiting = page.locator("#queue-list > li")
    expect(waiting).to_have_count(2)
    expect(waiting.nth(0)).to_contain_text("1 before it")
    expect(waiting.nth(1)).to_contain_text("2 before it")
    page.get_by_role("button", name="Cancel: the second").click()
    expect(waiting).to_have_count(1)
    expect(waiting.nth(0)).to_contain_text("1 before it")
    cancel(page)
    finished(page, "the third")
    expect(page.locator("#queue")).to_be_hidden()


def test_several_pictures_come_one_after_the_other(server, open_page):
    page = open_page(server)
    generate(page, "three mugs", steps=8, pictures=3)
    expect(page.locator("#stage .picture[data-state=finished]")).to_have_count(3)
    finished(page, "three mugs")
    with page.expect_download() as download:
        page.locator("#stage [data-action=download]").click()
    assert download.value.suggested_filename.endswith(".png")


def test_a_reload_midway_shows_the_running_job_again(server, open_page):
    page = open_page(server)
    generate_long(page, "a long way")
    page.locator("#stage .picture[data-state=preview]").wait_for()
    page.reload()
    ready(page)
    expect(page.locator("#stage .prompt")).to_have_text("a long way")
    page.locator("#stage.running .picture[data-state=preview]").wait_for()
    cancel(page)
    expect(page.locator("#stage.running")).to_have_count(0)


def test_two_tabs_show_the_same(server, open_page):
    one = open_page(server)
    other = one.context.new_page()
    other.goto(server.url)
    ready(other)
    generate_long(one, "seen in both")
    expect(other.locator("#stage.running .prompt")).to_have_text("seen in both")
    generate(other, "asked for in the other")
    expect(one.locator("#queue-list")).to_contain_text("asked for in the other")
    cancel(other)
    for page in (one, other):
        finished(page, "asked for in the other")
        expect(page.locator("#history-list .card")).to_have_count(1)
    one.locator("#stage [data-action=delete]").click()
    one.get_by_role("button", name="Delete", exact=True).and_(one.locator("#confirm-yes")).click()
    for page in (one, other):
        expect(page.locator(".prompt", has_text="asked for in the other")).to_have_count(0)


def test_settings_are_used_again_with_their_references(server, open_page):
    page = open_page(server)
    add_references(page, MUG, ROBOT)
    page.locator("#ratios label", has_text="4:3").click()
    page.click("#more > summary")
    page.fill("#guidance", "3.5")
    page.fill("#seed", "12345678901234567890")
    generate(page, "two on a beach", steps=3)
    finished(page, "two on a beach")
    expect(page.locator("#stage .settings")).to_contain_text("12345678901234567890")
    page.reload()
    ready(page)
    page.fill("#prompt", "something else")
    page.locator(".reference [aria-label^=Remove]").first.click()
    page.locator("#ratios label", has_text="1:1").click()
    page.click("#reset")
    expect(page.locator("#guidance")).to_have_value("4")
    page.locator("#stage [data-action=reuse]").click()
    expect(page.locator("#prompt")).to_have_value("two on a beach")
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator(".reference-note", has_text="80 × 80")).to_have_count(2)
    expect(page.locator("#size-value")).to_have_text("144 × 112")
    expect(page.locator("#guidance")).to_have_value("3.5")
    expect(page.locator("#num_steps")).to_have_value("3")
    expect(page.locator("#seed")).to_have_value("12345678901234567890")
    expect(page.locator("#ref_size")).to_have_value("")
    page.locator("#toast-undo").click()
    expect(page.locator("#prompt")).to_have_value("something else")
    expect(page.locator(".reference")).to_have_count(1)


def test_every_setting_of_a_job_is_shown_and_used_again_as_it_is(serve, open_page):
    lora = ROOT / "uno-models/assets/uno-tiny/dit_lora.safetensors"
    server = serve("--add_lora", f"style={lora}@0.8", "--lora_scale", "0.875", "--max_references", 3)
    references = [server.upload(path)["id"] for path in (MUG, ROBOT, MUG)]
    settings = {"prompt": "a mug", "references": references, "width": 64, "height": 48, "num_steps": 3}
    settings |= {"seed": 2**63 + 1, "guidance": 3.125, "ref_size": 48, "pe": "w", "lora_scale": 0.0625}
    settings |= {"memory": "least", "num_images": 2}
    settings["loras"] = [{"name": "style", "scale": -0.375}]
    server.ended(server.post("/api/jobs", settings))
    page = open_page(server)
    expect(page.locator("#lora_scale")).to_have_value("0.875")
    shown = page.locator("#stage .settings")
    for name, value in (
        ("Size", "64 × 48"),
        ("Steps", "3"),
        ("Guidance", "3.125"),
        ("First seed", str(2**63 + 1)),
        ("UNO strength", "0.0625"),
        ("style", "-0.375"),
        ("References", "48 px, columns only"),
        ("Memory", "least"),
    ):
        expect(shown.locator("div", has=page.locator("dt", has_text=name)).locator("dd")).to_have_text(value)
    # Small pictures of the references are as the job saw them.
    seen = page.locator("#stage .thumbs img").first
    assert seen.evaluate("img => img.decode().then(() => Math.max(img.naturalWidth, img.naturalHeight))") == 48
    page.locator("#stage [data-action=reuse]").click()
    expect(page.locator(".reference-note", has_text="48 × 48")).to_have_count(3)
    is_asked = lambda request: request.method == "POST" and request.url.endswith("/api/jobs")  # noqa: E731
    with page.expect_request(is_asked) as asked:
        page.click("#generate")
    assert json.loads(asked.value.post_data) == settings
    server.ended(server.get("/api/jobs")["jobs"][0])
    # A server that takes less says what it leaves out.
    page.close()
    server.stop()
    server.args = ["--max_references", "2", "--max_images", "1"]
    server.start()
    page = open_page(server)
    page.locator("#stage [data-action=reuse]").click()
    missing = "without what is not here: the LoRA style, 1 of 3 references, 2 pictures"
    expect(page.locator("#toast")).to_contain_text(missing)


def test_a_picture_opens_large_and_arrows_lead_to_the_others(server, open_page):
    page = open_page(server)
    for prompt in ("the oldest", "the middle one", "the newest"):
        generate(page, prompt)
        finished(page, prompt)
    page.locator("#stage .picture").click()
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    expect(viewer.locator(".prompt")).to_have_text("the newest")
    expect(page.locator("#viewer-previous")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(viewer.locator(".prompt")).to_have_text("the middle one")
    page.keyboard.press("ArrowRight")
    expect(viewer.locator(".prompt")).to_have_text("the oldest")
    page.keyboard.press("ArrowRight")
    expect(viewer.locator(".prompt")).to_have_text("the oldest")
    page.keyboard.press("ArrowLeft")
    expect(viewer.locator(".prompt")).to_have_text("the middle one")
    with page.expect_download() as download:
        viewer.locator("[data-action=download]").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator("#stage .picture")).to_be_focused()
    page.locator(".card .picture").first.click()
    viewer.locator("[data-action=image]").click()
    expect(viewer).to_be_hidden()
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(1)


def test_a_job_is_deleted_only_when_that_is_confirmed(server, open_page):
    page = open_page(server)
    generate(page, "not for long")
    finished(page, "not for long")
    page.locator("#stage [data-action=delete]").click()
    expect(page.locator("#confirm")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#stage .prompt")).to_have_text("not for long")
    expect(page.locator("#stage [data-action=delete]")).to_be_focused()
    page.locator("#stage [data-action=delete]").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Deleted.")
    page.reload()
    ready(page)
    expect(page.locator("#welcome")).to_be_visible()


def test_older_pictures_are_loaded_on_demand(server, open_page):
    page = open_page(server)
    for i in range(30):
        server.post("/api/jobs", {"prompt": f"number {i}", "num_steps": 1, "width": 16, "height": 16})
    finished(page, "number 29")
    page.reload()
    ready(page)
    cards = page.locator("#history-list .card")
    expect(cards).to_have_count(23)
    page.get_by_role("button", name="Load more").click()
    expect(cards).to_have_count(29)
    expect(page.get_by_role("button", name="Load more")).to_be_hidden()
    expect(cards.last).to_contain_text("number 0")


def test_a_full_queue_says_when_to_try_again(serve, open_page):
    server = serve("--queue", "1")
    page = open_page(server, allow=["status of 429"])
    generate_long(page, "the running one")
    generate(page, "the waiting one")
    expect(page.locator("#queue-list > li")).to_have_count(1)
    generate(page, "one too many")
    expect(page.locator("#error-general")).to_contain_text(re.compile(r"Try again in \d+ (s|min)"))
    expect(page.locator("#prompt")).to_have_value("one too many")
    page.get_by_role("button", name="Cancel: the waiting one").click()
    page.click("#generate")
    expect(page.locator("#error-general")).to_be_empty()
    expect(page.locator("#queue-list")).to_contain_text("one too many")


def test_a_lost_connection_is_shown_and_comes_back(serve, open_page):
    server = serve()
    page = open_page(server, allow=["net::ERR_", "status of 503"])
    generate(page, "before the stop")
    finished(page, "before the stop")
    server.stop()
    expect(page.locator("#connection")).to_be_visible()
    page.fill("#prompt", "while it is away")
    page.click("#generate")
    expect(page.locator("#error-general")).to_contain_text("The server does not answer.")
    server.start()
    expect(page.locator("#connection")).to_be_hidden()
    page.click("#generate")
    finished(page, "while it is away")
