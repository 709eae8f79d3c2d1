"""The line that is being typed, without a terminal."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub.terminal.durations import seconds_of, spoken
from roomhub.terminal.editor import END, INTERRUPT, Editor, Input
from roomhub.terminal.text import clean, clock_of, colour_of, width_of

UP, DOWN, LEFT, RIGHT, HOME, DELETE = b"\x1b[A", b"\x1b[B", b"\x1b[D", b"\x1b[C", b"\x1b[H", b"\x1b[3~"


def typed(*keys: bytes) -> tuple[str, int, list[Input]]:
    editor = Editor()
    found = [item for key in keys for item in editor.feed(key)]
    return editor.text, editor.cursor, found


@pytest.mark.parametrize(
    ("keys", "text", "cursor"),
    [
        ((b"abc",), "abc", 3), ((b"abc", LEFT, b"x"), "abxc", 3), ((b"abc", HOME, b"x"), "xabc", 1),
        ((b"abc", b"\x01", b"\x05", b"x"), "abcx", 4), ((b"abc", b"\x7f"), "ab", 2), ((b"\x7f",), "", 0),
        ((b"abc", HOME, DELETE), "bc", 0), ((b"abc", LEFT, b"\x15"), "c", 0), ((b"abc", HOME, RIGHT, b"\x0b"), "a", 1),
        ((b"ab cd ", b"\x17"), "ab ", 3), ((b"ab", b"\x17"), "", 0), ((b"a", b"\x02\x02\x06\x06\x06"), "a", 1),
        ("ä🙂".encode(), "ä🙂", 2), ((b"a\tb\x00\x07",), "ab", 2), ((b"a", b"\x1bxb"), "ab", 2),
        ((b"\x1b[99;5u", b"a"), "a", 1),
    ],
)  # fmt: skip
def test_keys_edit_the_line(keys: tuple[bytes, ...] | bytes, text: str, cursor: int) -> None:
    given_keys = (keys,) if isinstance(keys, bytes) else keys
    assert typed(*given_keys)[:2] == (text, cursor)


def test_enter_gives_the_line_and_signs_are_signs() -> None:
    assert typed(b"one\rtwo\nthr")[2] == ["one", "two"]
    assert typed(b"\x04")[2] == [END]
    assert typed(b"a", b"\x04")[2] == [], "there is a line"
    assert typed(b"a\x03")[2] == [INTERRUPT]


def test_earlier_lines_come_back_and_the_draft_is_kept() -> None:
    editor = Editor()
    editor.feed(b"one\rtwo\rdraft")
    seen = []
    for key in (UP, UP, UP, DOWN, DOWN, DOWN):
        editor.feed(key)
        seen.append(editor.text)
    assert seen == ["two", "one", "one", "two", "draft", "draft"]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_cuts_do_not_matter_and_nothing_raises(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Editor(), Editor()
    found = whole.feed(data)
    edges = [0, *sorted(cuts), len(data)]
    found_in_pieces = [item for a, b in pairwise(edges) for item in pieces.feed(data[a:b])]
    assert (found, whole.text, whole.cursor) == (found_in_pieces, pieces.text, pieces.cursor)


@given(st.text(max_size=80), st.integers(0, 80), st.integers(20, 60))
def test_the_picture_fits_and_has_the_cursor_in_it(text: str, left: int, columns: int) -> None:
    editor = Editor()
    editor.feed(text.encode(errors="replace"))
    editor.feed(LEFT * left)
    row, column = editor.picture("lobby> ", columns)
    assert sum(map(width_of, row)) < columns + 1
    assert 7 <= column < columns
    assert row.startswith("lobby> ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"), ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"), ("\x9b31m", "\ufffd31m"),
        ("a\r\nb\nc", "a ↵ b ↵ c"),
        ("a\tb", "a b"), ("\u202egnirts", "gnirts"), ("\ud800", "\ufffd"), ("\x07\x00\x7f", "\ufffd\ufffd\ufffd"),
        ("👨\u200d👩", "👨\u200d👩"), ("\u2028", "\ufffd"), ("\r", "\ufffd"), ("\u200b\ufeff", ""),
    ],
)  # fmt: skip
def test_what_others_wrote_stays_text(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text())
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    shown = clean(text)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)
    shown.encode()


@pytest.mark.parametrize("when_s", [-(10.0**300), 1e300, float("inf"), float("nan")])
def test_a_time_that_is_none_is_shown_as_such(when_s: float) -> None:
    assert clock_of(when_s) == "--:--"
    assert len(clock_of(0)) == 5


def test_a_colour_is_a_users_own() -> None:
    assert colour_of("ann") == colour_of("ann")
    assert len({colour_of(f"user-{number}") for number in range(100)}) == 12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1s"), (60, "60s"), (119, "2m"), (600, "10m"), (7_199.9, "2h"), (172_799, "2d"), (604_800, "7d")],
)
def test_a_time_is_told_as_a_person_would_type_it(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
    assert seconds_of(text) is not None
