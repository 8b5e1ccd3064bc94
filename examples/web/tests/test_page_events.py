"""The page: its reader of server-sent events, against the cases of the HTML standard, in pieces of every size."""

import pytest

pytest_plugins = ["browser"]


def read(page, pieces):
    return page.evaluate(
        """async (pieces) => {
            const { EventStreamParser } = await import("/events.js");
            const parser = new EventStreamParser();
            return pieces.flatMap((piece) => parser.push(piece)).map(({ type, data }) => [type, data]);
        }""",
        pieces,
    )


CASES = [
    ("data: one\n\n", [["message", "one"]]),
    ("event: job\ndata: {}\n\n", [["job", "{}"]]),
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [["message", "YHOO\n+2\n10"]]),
    (
        ": a comment\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n",
        [["message", "first"], ["message", "second"]],
    ),
    ("data\n\ndata\ndata\n\ndata:", [["message", ""], ["message", "\n"]]),
    ("data:test\n\ndata: test\n\n", [["message", "test"], ["message", "test"]]),
    ("event: nothing\n\ndata: x\n\n", [["message", "x"]]),
    ("data: a:b: c\n\n", [["message", "a:b: c"]]),
    ("unknown: x\nretry: 10\ndata: y\n\n", [["message", "y"]]),
    ("data: never ended", []),
    ("data: über 🙂\n\n", [["message", "über 🙂"]]),
]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_streams_are_read_in_pieces_of_every_size(server, open_page, ending):
    page = open_page(server)
    for text, events in CASES:
        text = text.replace("\n", ending)
        for size in (1, 2, 3, 7, len(text)):
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            assert read(page, pieces) == events, f"{text!r} in pieces of {size}"


def test_an_event_does_not_wait_for_the_byte_after_it(server, open_page):
    page = open_page(server)
    assert read(page, ["data: now\r\r"]) == [["message", "now"]]
    assert read(page, ["data: now\r\n\r", ""]) == [["message", "now"]]
