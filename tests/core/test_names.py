"""Names of rooms and users: what is allowed, and that a refusal says why without repeating the name."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub.core.names import room_fault, username_fault


@pytest.mark.parametrize("room", ["a", "general", "A-z_0.9~", "...", "a" * 64])
def test_room_of_unreserved_characters_is_fine(room: str) -> None:
    assert room_fault(room) is None


@pytest.mark.parametrize(
    ("room", "word"),
    [
        ("", "empty"),
        (".", "."),
        ("..", ".."),
        ("a" * 65, "64 bytes"),
        ("../x", "letters"),
        ("*", "letters"),
        ("a\r\nb", "letters"),
        ("a\n", "letters"),
        ("a b", "letters"),
        ("caf\u00e9", "letters"),
        ("a/b", "letters"),
        ("a\0", "letters"),
        ("a,b", "letters"),
    ],
)
def test_room_is_refused_with_a_reason(room: str, word: str) -> None:
    fault = room_fault(room)
    assert fault is not None
    assert word in fault


def test_room_bound_is_an_argument() -> None:
    assert room_fault("abc", max_bytes=2) is not None
    assert room_fault("a" * 10_000, max_bytes=float("inf")) is None


@pytest.mark.parametrize(
    "name", ["kevin", "Kevin O'Neil", "\u540d\u524d", "\U0001f600", "a" * 64, "\u00e9" * 32, '"', "<b>"]
)
@pytest.mark.parametrize("plain", [True, False])
def test_username_with_something_to_see_is_fine(name: str, plain: bool) -> None:
    assert username_fault(name, plain=plain) is None


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        ("a" * 65, "64 bytes"),
        ("\u00e9" * 33, "64 bytes"),
        ("a" * 4096, "64 bytes"),
        ("a\0b", "U+0000"),
        ("a\r\nb", "U+000D"),
        ("a\x7f", "U+007F"),
        ("a\x85", "U+0085"),
        ("\x1b[31m", "U+001B"),
        ("a\u202eb", "U+202E"),  # right-to-left override
        ("a\u2066b", "U+2066"),  # left-to-right isolate
        ("a\u200fb", "U+200F"),  # right-to-left mark
        ("a\u200bb", "U+200B"),  # zero-width space
        ("a\u200db", "U+200D"),  # zero-width joiner
        ("a\ufeffb", "U+FEFF"),  # byte order mark
        ("a\u00adb", "U+00AD"),  # soft hyphen
        ("a\u034fb", "U+034F"),  # grapheme joiner
        ("a\u3164b", "U+3164"),  # Hangul filler
        ("a\ufe0fb", "U+FE0F"),  # variation selector
        ("a\U000e0041", "U+E0041"),  # tag
        ("a\U000e0100", "U+E0100"),  # variation selector supplement
        ("a\u2028b", "U+2028"),
        ("a\u2029b", "U+2029"),
        ("a\ud800", "U+D800"),
        ("e\u0301", "NFC"),
        ("\u212a", "NFC"),  # KELVIN SIGN
        ("   ", "blank"),
        ("\u3000\u00a0", "blank"),
        ("\u2800", "blank"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_username_is_refused_with_a_reason(name: str, word: str, plain: bool) -> None:
    fault = username_fault(name, plain=plain)
    assert fault is not None
    assert word in fault


def test_username_with_a_comma_is_refused_for_plain_only() -> None:
    assert "comma" in (username_fault("a,b", plain=True) or "")
    assert username_fault("a,b", plain=False) is None


def test_username_bound_is_an_argument() -> None:
    assert username_fault("\u00e9", max_bytes=1, plain=True) is not None
    assert username_fault("a" * 1000, max_bytes=float("inf"), plain=True) is None


@given(st.text(), st.booleans())
def test_an_accepted_username_is_short_normal_and_encodable(name: str, plain: bool) -> None:
    if username_fault(name, plain=plain) is None:
        assert 1 <= len(name.encode()) <= 64
        assert unicodedata.is_normalized("NFC", name)
        assert name.isprintable() or any(unicodedata.category(c) in ("Zs", "Cn", "Co") for c in name)


@given(st.text(min_size=1))
def test_a_fault_is_printable_ascii(name: str) -> None:
    for fault in (room_fault(name), username_fault(name, plain=True)):
        assert fault is None or (fault.isascii() and fault.isprintable())
