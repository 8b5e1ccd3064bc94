"""The page: by keyboard alone, on a phone, in the dark, with a token, and as axe sees it."""

import pytest
from browser import (
    MUG,
    ROBOT,
    add_references,
    cancel,
    check_access,
    choose_size,
    finished,
    generate,
    generate_long,
    ready,
    set_steps,
)
from playwright.sync_api import expect

pytest_plugins = ["browser"]


def no_sideways_scrolling(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_picture_is_made_by_keyboard_alone(server, open_page):
    page = open_page(server)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a mug on a beach")

    def tab_to(selector, most=25):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        pytest.fail(f"Tab does not lead to {selector}")

    tab_to("#file")
    tab_to("[name=ratio]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#size-value")).to_have_text("144 × 112")
    tab_to("#more > summary")
    page.keyboard.press("Enter")
    tab_to("#num_steps")
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    page.keyboard.press("Control+Enter")
    finished(page, "a mug on a beach")
    page.locator("#generate").focus()
    tab_to("#stage .picture")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#stage .picture")).to_be_focused()
    tab_to("#stage [data-action=delete]")
    page.keyboard.press("Enter")
    expect(page.locator("#confirm-no")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#welcome")).to_be_visible()
    assert page.evaluate("document.activeElement !== document.body"), "the focus is not lost"


def test_the_focus_survives_the_end_of_a_job(server, open_page):
    page = open_page(server)
    generate_long(page, "a mug")
    page.locator("#stage [data-action=cancel]").focus()
    server.post(f"/api/jobs/{server.get('/api/jobs')['jobs'][0]['id']}/cancel")
    expect(page.locator("#results .remark", has_text="Cancelled")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('#results') !== null")


def test_the_focus_stays_on_cancel_while_pictures_come(server, open_page):
    page = open_page(server)
    choose_size(page, 256)
    generate(page, "four mugs", steps=50, pictures=4)
    page.locator("#stage [data-action=cancel]").focus()
    page.locator("#stage .picture[data-state=finished]").nth(1).wait_for()
    expect(page.locator("#stage [data-action=cancel]")).to_be_focused()


@pytest.mark.parametrize("width", [320, 360, 768, 1024, 1920])
def test_nothing_scrolls_sideways(server, open_page, width):
    page = open_page(server, viewport={"width": width, "height": 740})
    assert no_sideways_scrolling(page)
    add_references(page, MUG, ROBOT)
    page.fill("#prompt", "a-word-without-any-space-in-it" * 12)
    set_steps(page, 2)
    page.locator("#ratios label", has_text="Custom").click()
    page.click("#generate")
    expect(page.locator("#stage .picture[data-state=finished]")).to_be_visible()
    assert no_sideways_scrolling(page)
    generate_long(page, "running")
    generate(page, "waiting " * 40)
    expect(page.locator("#queue-list > li")).to_have_count(1)
    assert no_sideways_scrolling(page)
    page.locator(".card .picture").first.click()
    assert no_sideways_scrolling(page)


def test_on_a_phone_the_button_is_at_hand_and_targets_are_large(server, open_page):
    page = open_page(server, phone=True)
    expect(page.locator("#generate")).to_be_in_viewport()
    add_references(page, MUG, ROBOT)
    generate(page, "a mug and a robot")
    expect(page.locator("#stage")).to_be_in_viewport()
    finished(page, "a mug and a robot")
    expect(page.locator("#generate")).to_be_in_viewport()
    # The page scrolls smoothly: the link leads back once the pictures are there.
    expect(page.locator("#jump")).to_have_text("Prompt")
    page.locator("#jump").click()
    expect(page.locator("#prompt")).to_be_in_viewport()
    small = page.evaluate(
        """() => [...document.querySelectorAll(
                "button, summary, .segment, .add, select, textarea, input[type=number], input[type=text]")]
            .filter((e) => e.checkVisibility() && !e.closest("dialog:not([open])"))
            .map((e) => [e.id || e.className || e.textContent, e.getBoundingClientRect()])
            .filter(([, box]) => box.width < 44 || box.height < 44)
            .map(([name, box]) => `${name} ${box.width}x${box.height}`)"""
    )
    assert not small
    assert no_sideways_scrolling(page)


def test_dark_colours_follow_the_system_and_the_switch(server, open_page):
    page = open_page(server, scheme="dark")

    def lightness():
        return page.evaluate("parseInt(/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0])")

    switch = page.get_by_role("button", name="Dark colours")
    assert lightness() < 64
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    assert lightness() > 192
    expect(switch).to_have_attribute("aria-pressed", "false")
    page.reload()
    ready(page)
    assert lightness() > 192, "the choice is kept"


def test_the_token_is_asked_for_and_kept(serve, open_page):
    server = serve("--token", "open-sesame")
    page = open_page(server, allow=["status of 401"], wait=False)
    dialog = page.locator("#token")
    expect(dialog).to_be_visible()
    expect(page.locator("#token-input")).to_be_focused()
    check_access(page)
    page.fill("#token-input", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-error")).to_have_text("The server refused this token.")
    page.keyboard.press("Escape")
    expect(page.locator("#connection")).to_contain_text("This server wants a token.")
    page.get_by_role("button", name="Enter the token").click()
    page.fill("#token-input", "open-sesame")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    ready(page)
    add_references(page, MUG)
    generate(page, "behind a token")
    finished(page, "behind a token")
    assert page.locator("#stage .picture img").evaluate("img => img.decode().then(() => img.naturalWidth)") == 128
    with page.expect_download() as download:
        page.locator("#stage [data-action=download]").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    page.reload()
    ready(page)
    expect(dialog).to_be_hidden()
    assert page.evaluate("sessionStorage.getItem('uno.token')") == '"open-sesame"'
    assert page.evaluate("Object.keys(localStorage).length") == 0


def test_motion_is_reduced_where_that_is_asked_for(server, open_page):
    page = open_page(server, reduced_motion="reduce")
    generate_long(page, "a calm mug")
    page.locator("#stage .bar").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(server, open_page, scheme):
    page = open_page(server, scheme=scheme)
    page.locator("#examples-list .example").first.wait_for()
    check_access(page)
    add_references(page, MUG, ROBOT)
    set_steps(page, 2)
    page.locator("#ratios label", has_text="Custom").click()
    page.click("#generate")
    expect(page.locator("#error-prompt")).to_be_visible()
    check_access(page)
    for prompt in ("a mug and a robot", "a robot"):
        generate(page, prompt)
        finished(page, prompt)
    generate_long(page, "a long one")
    generate(page, "one that waits")
    expect(page.locator("#queue-list > li")).to_have_count(1)
    page.locator("#stage .bar").wait_for()
    check_access(page)
    cancel(page)
    finished(page, "one that waits")
    page.locator("#stage .picture").click()
    expect(page.locator("#viewer")).to_be_visible()
    check_access(page)
    page.keyboard.press("Escape")
    page.locator("#stage [data-action=delete]").click()
    check_access(page)
    page.keyboard.press("Escape")
    page.locator("#examples-open").click()
    check_access(page)
