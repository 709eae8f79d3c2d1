"""The plain dialect's text, and lanes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub.core.codec import PlainCodec, text_lane, wire_bytes
from roomhub.core.message import CHAT, ONLINE_USERS, USER_JOINED, USER_LEFT, Kind, Message
from roomhub.core.requests import Chat
from tests.core.playbook import BYTES, TEXT, frames

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KINDS: tuple[Kind, ...] = (CHAT, USER_JOINED, USER_LEFT, ONLINE_USERS)


@given(st.sampled_from(KINDS), TEXTS, TEXTS, TEXTS)
def test_a_plain_frame_is_one_object_of_exactly_four_strings(kind: Kind, room: str, name: str, content: str) -> None:
    text = PlainCodec().encode(Message(kind, room, "key", name, content, 7, 8))
    seen = json.loads(text)
    assert list(seen) == ["type", "content", "room", "username"]
    assert seen == {"type": kind, "content": content, "room": room, "username": name}
    assert "\n" not in text


def test_the_seed_s_own_frame() -> None:
    text = PlainCodec().encode(Message(CHAT, "lobby", "ann", "Ann", 'a "b" é 😀'))
    assert text == '{"type":"chat","content":"a \\"b\\" é 😀","room":"lobby","username":"Ann"}'


@pytest.mark.parametrize("text", ["hi", "", '{"type":"join","room":"x"}', "[" * 100_000, "\x00"])
def test_plain_text_is_content_as_it_is(text: str) -> None:
    request = PlainCodec().decode(text)
    assert isinstance(request, Chat)
    assert (request.room, request.content) == (None, text)


def test_a_text_lane_s_chunk_is_a_tuple_of_texts() -> None:
    lane = text_lane(PlainCodec())
    assert lane.join(["a", "", "b"]) == ("a", "b")
    assert lane.join([]) == ()
    assert lane.empty == ""
    assert lane.frame("a") == lane.direct("a") == "a"
    assert not lane.v1


def test_a_lane_of_bytes() -> None:
    assert BYTES.empty == b""
    assert list(frames(BYTES.join([BYTES.frame("a"), BYTES.frame("é,")]))) == ["a", "é,"]


def test_lanes_are_compared_by_identity() -> None:
    assert text_lane(PlainCodec()) != TEXT


def test_text_is_counted_in_bytes_of_utf_8() -> None:
    assert wire_bytes("abc") == 3
    assert wire_bytes("é😀") == 6
    assert wire_bytes(b"abc") == 3
    assert wire_bytes(("a", "é")) == 3
    assert wire_bytes(()) == 0
    with pytest.raises(UnicodeEncodeError):
        wire_bytes("\ud800")
