"""The page in many tabs: one stream of events for all of a browser, whichever tab goes, hides or crashes."""

import re

import pytest
from browser import DESKTOP, MUG, PATIENCE, add_references, cancel, finished, generate, generate_long, ready, watch
from playwright.sync_api import Error, expect

pytest_plugins = ["browser"]

# Streams that end with their tab, and requests that a reload breaks off.
ENDED = ["net::ERR_ABORTED"]
WITHOUT_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })"


class Browser:
    """One profile with tabs, and the streams that they have open."""

    def __init__(self, chromium, server, script=None, allow=()):
        self.server = server
        self.context = chromium.new_context(viewport=DESKTOP)
        self.context.set_default_timeout(PATIENCE)
        if script:
            self.context.add_init_script(script)
        self.problems = watch(self.context, server.url, [*ENDED, *allow])
        # Requests for a stream that have not ended, each with its tab.
        self.begun = {}
        self.opened = 0
        self.context.on("request", self._begins)
        self.context.on("requestfailed", self._ends)
        self.context.on("requestfinished", self._ends)

    def _begins(self, request):
        if request.url.endswith("/api/events"):
            self.begun[request] = request.frame.page
            self.opened += 1

    def _ends(self, request):
        self.begun.pop(request, None)

    def tab(self):
        page = self.context.new_page()
        # Nothing is told of the requests of a tab that is closed or crashes.
        page.on("close", self._goes)
        page.on("crash", self._goes)
        page.goto(self.server.url)
        ready(page)
        return page

    def _goes(self, gone):
        self.begun = {request: page for request, page in self.begun.items() if page != gone}

    def streams(self, count):
        """The tabs that have a stream, once there are so many."""
        for _ in range(PATIENCE // 100):
            if len(self.begun) == count:
                return list(self.begun.values())
            # Playwright tells of requests while it waits for something.
            self.context.pages[-1].wait_for_timeout(100)
        raise TimeoutError(f"{len(self.begun)} streams, wanted {count}")

    def leader(self):
        """The tab that has the stream of all."""
        return self.streams(1)[0]


@pytest.fixture
def browse(chromium):
    """`browse(server)`: a profile of its own."""
    made = []

    def browse(server, **options):
        made.append(Browser(chromium, server, **options))
        return made[-1]

    yield browse
    for browser in made:
        browser.context.close()
    problems = [problem for browser in made for problem in browser.problems]
    assert not problems, "\n".join(problems)


def hide(page, is_hidden=True):
    """What a page sees when another tab comes before it; headless Chromium shows all."""
    page.evaluate(
        """(isHidden) => {
            const state = isHidden ? "hidden" : "visible";
            Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
            Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def follows(page, prompt):
    """The tab shows a running job: its progress, and what its picture looks like so far."""
    expect(page.locator("#stage.running .prompt")).to_have_text(prompt)
    expect(page.locator("#stage .picture[data-state=preview]").first).to_be_visible()
    before = page.locator("#stage .bar").get_attribute("aria-valuetext")
    expect(page.locator("#stage .bar")).not_to_have_attribute("aria-valuetext", before)


def test_eight_tabs_are_live_and_generate_works_in_each(server, browse):
    browser = browse(server)
    tabs = [browser.tab() for _ in range(8)]
    generate_long(tabs[0], "seen in all of them")
    for tab in tabs:
        follows(tab, "seen in all of them")
    for i, tab in enumerate(tabs):
        generate(tab, f"from tab {i}")
        expect(tab.locator("#queue-list")).to_contain_text(f"from tab {i}")
    cancel(tabs[5])
    for tab in tabs:
        finished(tab, "from tab 7")
        for i in range(7):
            expect(tab.locator("#history-list")).to_contain_text(f"from tab {i}")
        picture = tab.locator("#stage .picture img")
        assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") == 128
    assert browser.opened == len(browser.begun) == 1


def test_eight_tabs_upload_and_see_their_references(server, browse):
    browser = browse(server)
    tabs = [browser.tab() for _ in range(8)]
    for tab in tabs:
        tab.set_input_files("#file", [MUG, MUG, MUG])
    for tab in tabs:
        expect(tab.locator(".reference-note", has_text="cut")).to_have_count(3)
    generate(tabs[7], "three mugs")
    for tab in tabs:
        finished(tab, "three mugs")


def test_when_the_leader_is_closed_the_next_tab_goes_on(server, browse):
    browser = browse(server)
    tabs = [browser.tab() for _ in range(4)]
    generate_long(tabs[0], "a long one")
    for _ in range(3):
        leader = browser.leader()
        leader.close()
        tabs.remove(leader)
        for tab in tabs:
            follows(tab, "a long one")
    cancel(tabs[0])
    expect(tabs[0].locator("#results .remark", has_text="Cancelled")).to_be_visible()


def test_what_happens_between_two_leaders_is_not_lost(server, browse):
    browser = browse(server, allow=["net::ERR_FAILED"])
    tabs = [browser.tab() for _ in range(3)]
    jobs = [server.job(f"number {i}") for i in range(3)]
    for job in jobs:
        server.ended(job)
    for tab in tabs:
        finished(tab, "number 2")
    leader = browser.leader()
    tabs.remove(leader)
    # The next leader comes to nothing until all this has happened.
    browser.context.route("**/api/events", lambda route: route.abort())
    leader.close()
    expect(tabs[0].locator("#connection")).to_be_visible()
    server.ended(server.job("made in between"))
    server.client.delete(f"/api/jobs/{jobs[0]['id']}").raise_for_status()
    long = server.job("a long one", width=512, height=512, num_steps=100, num_images=4)
    browser.context.unroute("**/api/events")
    # Any tab may ask the leader to try again.
    tabs[1].locator("#connection-retry").click()
    for tab in tabs:
        expect(tab.locator("#connection")).to_be_hidden()
        follows(tab, "a long one")
        expect(tab.locator("#history-list")).to_contain_text("made in between")
        expect(tab.locator(".prompt", has_text="number 0")).to_have_count(0)
    server.post(f"/api/jobs/{long['id']}/cancel")


def test_when_the_leader_crashes_the_next_tab_goes_on(server, browse):
    browser = browse(server)
    # Pages that open one another share a process; these do not.
    tabs = [browser.tab() for _ in range(3)]
    generate_long(tabs[0], "outlives a crash")
    leader = browser.leader()
    tabs.remove(leader)
    with pytest.raises(Error):
        leader.goto("chrome://crash")
    for tab in tabs:
        follows(tab, "outlives a crash")
    cancel(tabs[0])


def test_a_hidden_leader_hands_over_and_stays_up_to_date(server, browse):
    browser = browse(server)
    tabs = [browser.tab() for _ in range(3)]
    leader = browser.leader()
    hide(leader)
    tabs.remove(leader)
    generate_long(tabs[0], "while it is hidden")
    assert browser.leader() in tabs
    follows(leader, "while it is hidden")
    cancel(tabs[1])
    for tab in (leader, *tabs):
        expect(tab.locator("#results .remark", has_text="Cancelled")).to_be_visible()


def test_hidden_tabs_follow_what_is_under_way_and_then_close_the_stream(server, browse):
    browser = browse(server)
    tabs = [browser.tab() for _ in range(3)]
    generate_long(tabs[0], "watched by its title")
    for tab in tabs:
        hide(tab)
    for tab in tabs:
        expect(tab).to_have_title(re.compile(r"\d+ % · UNO"))
    browser.streams(1)
    job = server.get("/api/jobs")["jobs"][0]
    server.post(f"/api/jobs/{job['id']}/cancel")
    for tab in tabs:
        expect(tab).to_have_title("Done · UNO")
    browser.streams(0)
    server.ended(server.job("nobody looks"))
    hide(tabs[2], False)
    finished(tabs[2], "nobody looks")
    assert browser.leader() == tabs[2]
    for tab in tabs[:2]:
        hide(tab, False)
        finished(tab, "nobody looks")


def test_two_profiles_have_a_stream_each(server, browse):
    first, second = browse(server), browse(server)
    tabs = [browser.tab() for browser in (first, second) for _ in range(2)]
    generate_long(tabs[0], "seen in both")
    for tab in tabs:
        follows(tab, "seen in both")
    first.streams(1), second.streams(1)
    first.context.pages[0].close()
    for tab in tabs[1:]:
        follows(tab, "seen in both")
    cancel(tabs[3])
    expect(tabs[1].locator("#results .remark", has_text="Cancelled")).to_be_visible()


def test_without_locks_each_tab_that_is_seen_has_a_stream(server, browse):
    browser = browse(server, script=WITHOUT_LOCKS)
    tabs = []
    for _ in range(8):
        for tab in tabs:
            hide(tab)
        browser.streams(0) if tabs else None
        tabs.append(browser.tab())
    browser.streams(1)
    generate_long(tabs[7], "seen in one of eight")
    follows(tabs[7], "seen in one of eight")
    add_references(tabs[7], MUG)
    hide(tabs[7])
    browser.streams(0)
    hide(tabs[0], False)
    follows(tabs[0], "seen in one of eight")
    cancel(tabs[0])
    hide(tabs[7], False)
    expect(tabs[7].locator("#results .remark", has_text="Cancelled")).to_be_visible()


def test_a_leader_that_is_not_heard_is_replaced(server, browse):
    browser = browse(server)
    tabs = [browser.tab() for _ in range(3)]
    silent = browser.leader()
    # As one that the browser has put to sleep: it has the lock, and says nothing.
    silent.evaluate("BroadcastChannel.prototype.postMessage = () => {}")
    generate_long(tabs[1], "without the first leader")
    for tab in tabs:
        follows(tab, "without the first leader")
    assert browser.leader() != silent
    cancel(tabs[2])
    for tab in tabs:
        expect(tab.locator("#results .remark", has_text="Cancelled")).to_be_visible()
