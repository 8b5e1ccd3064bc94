"""The page: references, prompt and settings."""

import re

from browser import BALL, CAR, FISH, MUG, ROBOT, add_references, finished, generate, give_files, ready, set_steps
from conftest import ROOT
from playwright.sync_api import expect

pytest_plugins = ["browser"]


def names(page):
    alts = page.locator(".reference-image").evaluate_all("images => images.map((image) => image.alt)")
    return [re.search(r", (\w+)\.png", alt)[1] for alt in alts]


def test_references_are_shown_as_the_model_sees_them(server, open_page):
    page = open_page(server)
    add_references(page, MUG)
    expect(page.locator(".reference-note")).to_contain_text("128 × 128")
    add_references(page, ROBOT)
    expect(page.locator(".reference-note").first).to_contain_text("80 × 80")
    expect(page.locator(".reference-note").first).to_contain_text("nothing cut")
    assert page.locator(".reference-image").evaluate_all("images => images.map((i) => i.naturalWidth)") == [80, 80]
    expect(page.locator("#references-count")).to_have_text("2 of 4")


def test_what_is_cut_off_a_reference_is_said(server, open_page, tmp_path):
    from PIL import Image

    wide = tmp_path / "wide.png"
    Image.new("RGB", (640, 360), "teal").save(wide)
    page = open_page(server)
    add_references(page, wide)
    # 128 x 72, of which 128 x 64 are left.
    expect(page.locator(".reference-note")).to_contain_text("128 × 64")
    expect(page.locator(".reference-note")).to_contain_text("11 % of the height cut")


def test_references_move_by_buttons_and_say_where_they_are(server, open_page):
    page = open_page(server)
    add_references(page, MUG, ROBOT, CAR)
    page.get_by_role("button", name="Move mug.png right").click()
    assert names(page) == ["robot", "mug", "car"]
    expect(page.locator("#announcer")).to_have_text("mug.png is now reference 2 of 3.")
    page.keyboard.press("Enter")
    assert names(page) == ["robot", "car", "mug"]
    # At the end there is no further right: the focus is on the way back.
    expect(page.get_by_role("button", name="Move mug.png left")).to_be_focused()
    page.keyboard.press("Enter")
    assert names(page) == ["robot", "mug", "car"]


def test_references_are_dragged(server, open_page):
    page = open_page(server)
    add_references(page, MUG, ROBOT, CAR)
    first, last = (page.locator(".reference-picture").nth(i).bounding_box() for i in (0, 2))
    page.mouse.move(first["x"] + 40, first["y"] + 40)
    page.mouse.down()
    page.mouse.move(last["x"] + 60, last["y"] + 60, steps=5)
    page.mouse.up()
    assert names(page) == ["robot", "car", "mug"]
    page.mouse.move(first["x"] + 40, first["y"] + 40)
    page.mouse.down()
    page.mouse.move(last["x"] + 60, last["y"] + 60, steps=5)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert names(page) == ["robot", "car", "mug"], "Escape leaves the order as it was"


def test_a_removed_reference_comes_back(server, open_page):
    page = open_page(server)
    add_references(page, MUG, ROBOT)
    page.get_by_role("button", name="Remove mug.png").click()
    expect(page.locator(".reference")).to_have_count(1)
    expect(page.get_by_role("button", name="Remove robot.png")).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".reference-note", has_text="80 × 80")).to_have_count(2)
    assert names(page) == ["mug", "robot"]


def test_references_are_pasted_and_dropped(server, open_page):
    page = open_page(server)
    give_files(page, "paste", MUG)
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(1)
    give_files(page, "drop", ROBOT, CAR)
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(3)
    assert names(page) == ["mug", "robot", "car"]
    expect(page.locator("#drop")).to_be_hidden()


def test_more_references_than_the_model_takes_are_named(server, open_page):
    page = open_page(server)
    page.set_input_files("#file", [MUG, ROBOT, CAR, FISH, BALL])
    expect(page.locator("#error-references")).to_have_text("At most 4 references: ball.png not added.")
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(4)


def test_a_file_that_is_no_picture_is_refused_with_the_servers_words(server, open_page, tmp_path):
    page = open_page(server, allow=["status of 4(00|15)"])
    notes, broken = tmp_path / "notes.txt", tmp_path / "broken.png"
    notes.write_text("not a picture")
    broken.write_bytes(MUG.read_bytes()[:200])
    page.set_input_files("#file", notes)
    expect(page.locator("#error-references")).to_contain_text("notes.txt: ")
    expect(page.locator(".reference")).to_have_count(0)
    page.set_input_files("#file", [broken, MUG])
    expect(page.locator("#error-references")).to_contain_text("broken.png: ")
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(1)


def test_sizes_follow_the_ratio(server, open_page):
    page = open_page(server)
    expect(page.locator("#size-value")).to_have_text("128 × 128")
    for ratio, size in [("4:3", "144 × 112"), ("3:4", "112 × 144"), ("16:9", "176 × 96"), ("9:16", "96 × 176")]:
        page.locator("#ratios label", has_text=re.compile(f"^{ratio}$")).click()
        expect(page.locator("#size-value")).to_have_text(size)
    page.locator("#ratios label", has_text="Custom").click()
    page.fill("#width", "160")
    page.fill("#height", "64")
    expect(page.locator("#size-value")).to_have_text("160 × 64")


def test_the_memory_plan_follows_the_settings(server, open_page):
    page = open_page(server)
    with page.expect_response(lambda r: "/api/plan" in r.url and "references=1" in r.url):
        add_references(page, MUG)
    page.click("#more > summary")
    expect(page.locator("#plan-summary")).to_contain_text("About")
    page.get_by_text("How the model is fitted into memory").click()
    expect(page.locator("#plan-text")).to_contain_text("peak")
    with page.expect_response(lambda r: "/api/plan" in r.url and "width=176" in r.url and "height=96" in r.url):
        page.locator("#ratios label", has_text="16:9").click()
    with page.expect_response(lambda r: "/api/plan" in r.url and "memory=least" in r.url):
        page.select_option("#memory", "least")


def test_what_the_server_refuses_is_shown_at_its_field(server, open_page):
    page = open_page(server, allow=["status of 400"])
    generate(page, "a mug", steps=0)
    expect(page.locator("#error-num_steps")).to_contain_text("num_steps")
    expect(page.locator("#num_steps")).to_be_focused()
    expect(page.locator("#num_steps")).to_have_attribute("aria-invalid", "true")
    page.fill("#num_steps", "2")
    expect(page.locator("#error-num_steps")).to_be_hidden()
    expect(page.locator("#num_steps")).not_to_have_attribute("aria-invalid", "true")
    # A field inside closed settings is opened for its error.
    page.fill("#num_steps", "100000")
    page.click("#more > summary")
    page.click("#generate")
    expect(page.locator("#error-num_steps")).to_be_visible()
    page.fill("#num_steps", "2")
    page.fill("#prompt", "mug " * 1001)
    page.click("#generate")
    expect(page.locator("#error-prompt")).to_contain_text("prompt")
    expect(page.locator("#prompt")).to_be_focused()


def test_values_that_cannot_be_sent_are_refused_here(server, open_page):
    page = open_page(server)
    page.click("#generate")
    expect(page.locator("#error-prompt")).to_have_text("Say what the picture should show.")
    page.fill("#prompt", "a mug")
    page.click("#more > summary")
    for field, value in [("seed", "-1"), ("seed", "one"), ("num_steps", ""), ("guidance", ""), ("ref_size", "1.5")]:
        page.fill(f"#{field}", value)
        page.click("#generate")
        expect(page.locator(f"#error-{field}")).to_be_visible()
        expect(page.locator(f"#{field}")).to_be_focused()
        page.fill(f"#{field}", "" if field in ("seed", "ref_size") else "4")


def test_a_seed_is_drawn_and_kept(server, open_page):
    page = open_page(server)
    page.click("#more > summary")
    expect(page.locator("#seed")).to_have_value("")
    page.get_by_role("button", name="Draw a seed").click()
    expect(page.locator("#seed")).to_have_value(re.compile(r"^\d+$"))
    page.fill("#seed", "")
    generate(page, "a mug with a random seed")
    finished(page, "a mug with a random seed")
    keep = page.get_by_role("button", name="Keep ")
    seed = re.search(r"\d+", keep.text_content())[0]
    expect(page.locator("#stage .settings")).to_contain_text(seed)
    keep.click()
    expect(page.locator("#seed")).to_have_value(seed)
    page.click("#generate")
    expect(page.locator("#history-list .card")).to_have_count(1)
    finished(page, "a mug with a random seed")
    expect(page.locator("#stage .settings")).to_contain_text(seed)


def test_an_unfinished_form_survives_a_reload(server, open_page):
    page = open_page(server)
    page.fill("#prompt", "a robot, not yet")
    add_references(page, MUG, ROBOT)
    page.locator("#ratios label", has_text="16:9").click()
    page.locator("#counts label", has_text="3").click()
    set_steps(page, 7)
    page.fill("#seed", "42")
    page.reload()
    ready(page)
    expect(page.locator("#prompt")).to_have_value("a robot, not yet")
    expect(page.locator(".reference-note", has_text="80 × 80")).to_have_count(2)
    assert names(page) == ["mug", "robot"]
    expect(page.locator("#size-value")).to_have_text("176 × 96")
    expect(page.locator("#counts label", has_text="3").locator("input")).to_be_checked()
    expect(page.locator("#num_steps")).to_have_value("7")
    expect(page.locator("#seed")).to_have_value("42")


def test_an_example_fills_the_form(server, open_page):
    page = open_page(server)
    page.get_by_role("button", name="Examples").click()
    example = page.locator("#examples .example").first
    prompt = example.text_content()
    references = example.locator("img").count()
    example.click()
    expect(page.locator("#prompt")).to_have_value(prompt)
    expect(page.locator(".reference-note", has_text="cut")).to_have_count(references)
    expect(page.locator("#examples")).to_be_hidden()


def test_what_does_not_fit_into_memory_is_said_before_it_is_asked_for(server, open_page):
    page = open_page(server)
    plan = {
        "memory": "auto",
        "budget_bytes": 6 << 30,
        "peak_bytes": None,
        "fits": False,
        "text": "denoising takes 9 GiB",
    }
    page.route("**/api/plan?**", lambda route: route.fulfill(json=plan))
    page.locator("#ratios label", has_text="16:9").click()
    expect(page.locator("#plan-warning")).to_have_text("This does not fit into memory: denoising takes 9 GiB")
    page.unroute("**/api/plan?**")
    page.locator("#ratios label", has_text="1:1").click()
    expect(page.locator("#plan-warning")).to_be_hidden()


def test_added_loras_have_their_scales(serve, open_page):
    lora = ROOT / "uno-models/assets/uno-tiny/dit_lora.safetensors"
    page = open_page(serve("--add_lora", f"style={lora}@0.8", "--add_lora", f"grain={lora}@0.5"))
    page.click("#more > summary")
    expect(page.get_by_label("style", exact=True)).to_have_value("0.8")
    page.get_by_label("grain", exact=True).fill("0")
    page.get_by_label("style, slider").fill("1.2")
    expect(page.get_by_label("style", exact=True)).to_have_value("1.2")
    with page.expect_request(lambda request: request.method == "POST" and request.url.endswith("/api/jobs")) as asked:
        generate(page, "a mug with style")
    assert asked.value.post_data_json["loras"] == [{"name": "style", "scale": 1.2}, {"name": "grain", "scale": 0}]
    page.get_by_label("grain", exact=True).fill("")
    page.click("#generate")
    expect(page.locator("#error-loras")).to_have_text("Give a number for the scale of grain.")
    expect(page.get_by_label("grain", exact=True)).to_be_focused()
