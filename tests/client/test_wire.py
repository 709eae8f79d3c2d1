"""The client's side of a WebSocket, in bytes: however they are cut, and whatever they are."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub.client.backoff import Ended
from roomhub.client.wire import Item, Wire
from roomhub.transports.websocket.frames import (
    PONG,
    CloseReceived,
    Failed,
    FrameLimits,
    FrameReader,
    Ping,
    UnmaskedFrameReader,
    binary_frame,
    close_frame,
    masked,
    ping_frame,
    pong_frame,
    text_frame,
)
from roomhub.transports.websocket.http11 import Request, parse_request
from roomhub.transports.websocket.negotiate import accept_token, select_subprotocol
from roomhub.transports.websocket.opening import Address, Opened, parse_url

LIMITS = FrameLimits(100_000, 64, binary=True)
LENGTHS = [0, 1, 125, 126, 127, 4_096, 65_535, 65_536, 99_000]
texts = st.text(max_size=300) | st.sampled_from(LENGTHS).map("x".__mul__)


def cut(data: bytes, positions: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(texts, max_size=6), st.lists(st.integers(0, 300_000), max_size=8), st.binary(min_size=4, max_size=4))
def test_each_side_reads_what_the_other_writes(messages: list[str], cuts: list[int], mask: bytes) -> None:
    frames = [text_frame(message) for message in messages]
    for reader, data in (
        (FrameReader(LIMITS), b"".join(masked(frame, mask) for frame in frames)),
        (UnmaskedFrameReader(LIMITS), b"".join(frames)),
    ):
        assert [item for piece in cut(data, cuts) for item in reader.feed(piece)] == messages
        assert not reader.unfinished


@given(st.lists(st.integers(0, 100), max_size=8))
def test_frames_of_all_kinds_in_the_clients_role(cuts: list[int]) -> None:
    data = b"".join(
        [
            ping_frame(b"a"), text_frame("one"), b"\x01\x02tw", ping_frame(b"b"), b"\x80\x01o", binary_frame(b"three"),
            pong_frame(b""), close_frame(1000, "bye"), b"whatever follows",
        ]
    )  # fmt: skip
    reader = UnmaskedFrameReader(LIMITS)
    assert [item for piece in cut(data, cuts) for item in reader.feed(piece)] == [
        Ping(b"a"), "one", Ping(b"b"), "two", b"three", PONG, CloseReceived(1000, "bye"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(text_frame("hello"), b"1234"), 1002), (masked(text_frame(""), b"1234"), 1002), (b"\xc1\x01x", 1002),
        (b"\x81\x02\xff\xff", 1007), (b"\x83\x00", 1002), (text_frame("x" * 100_001), 1009),
        (b"\x81\x7e\x00\x05hello", 1002),
        (b"\x81\x7f\x7f" + b"\xff" * 7, 1009), (b"\x00\x00", 1002), (b"\x88\x01x", 1002), (b"\x88\x02\x03\xe7", 1002),
    ],
)  # fmt: skip
def test_what_no_server_may_send(data: bytes, code: int) -> None:
    for pieces in ([data], cut(data, range(min(len(data), 300)))):
        reader = UnmaskedFrameReader(LIMITS)
        (failed,) = [item for piece in pieces for item in reader.feed(piece)]
        assert isinstance(failed, Failed)
        assert failed.code == code
        assert reader.ended


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_no_bytes_raise_and_cuts_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole, pieces = UnmaskedFrameReader(LIMITS), UnmaskedFrameReader(LIMITS)
    found = list(whole.feed(data))
    assert found == [item for piece in cut(data, cuts) for item in pieces.feed(piece)]


ADDRESS = parse_url("ws://chat.example/ws", "ann")


def answer(wire: Wire, *lines: str, status: str = "101 Switching Protocols", key: str | None = None) -> bytes:
    request = wire.pull().decode()
    key = key or request.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
    head = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_token(key)}"]
    return "\r\n".join([f"HTTP/1.1 {status}", *(lines or head), "", ""]).encode()


def opened() -> Wire:
    wire = Wire(ADDRESS, "x")
    data = answer(wire).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: x\r\n\r\n")
    assert list(wire.feed(data)) == [Opened("x", b"")]
    return wire


def test_the_request_is_one_that_our_server_takes() -> None:
    wire = Wire(parse_url("ws://127.0.0.1:8080/ws/lobby?a=ü", "ann & bob,+"), "roomhub.v1.json")
    request = parse_request(wire.pull(), max_headers=100)
    assert isinstance(request, Request)
    assert (request.segments, request.host) == (("ws", "lobby"), "127.0.0.1:8080")
    assert request.query == (("a", "ü"), ("username", "ann & bob,+"))
    assert select_subprotocol(request, ["roomhub.v1.json"]) == "roomhub.v1.json"


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("ws://x", Address("x", 80, False, "/ws"), "x"), ("wss://x/", Address("x", 443, True, "/ws"), "x"),
        ("ws://[::1]:8080/ws/a?b=c", Address("::1", 8080, False, "/ws/a?b=c"), "[::1]:8080"),
        ("wss://x:80/a%20b c", Address("x", 80, True, "/a%20b%20c"), "x:80"),
    ],
)  # fmt: skip
def test_urls(url: str, address: Address, authority: str) -> None:
    assert parse_url(url) == address
    assert address.authority == authority


@given(st.lists(st.integers(0, 400), max_size=6))
def test_frames_behind_the_handshake_are_not_lost(cuts: list[int]) -> None:
    wire = Wire(ADDRESS, "x")
    data = (
        answer(wire).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: x\r\n\r\n")
        + text_frame("one")
        + text_frame("two")
    )
    found: list[Item] = [item for piece in cut(data, cuts) if piece for item in wire.feed(piece)]
    assert isinstance(found[0], Opened)
    assert found[1:] == ["one", "two"]


@pytest.mark.parametrize(
    "lines",
    [
        ("Upgrade: websocket", "Connection: Upgrade"), ("Upgrade: h2c", "Connection: Upgrade"),
        ("Connection: Upgrade",),
        ("Upgrade: websocket", "Connection: close"),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_websocket(lines: tuple[str, ...]) -> None:
    wire = Wire(ADDRESS, "x")
    (end,) = wire.feed(answer(wire, *lines))
    assert isinstance(end, Ended)
    assert (end.status, wire.has_ended) == (101, True)


def test_an_answer_to_somebody_else_and_one_with_an_extension() -> None:
    for more in ("", "\r\nSec-WebSocket-Extensions: permessage-deflate", "\r\nSec-WebSocket-Protocol: other"):
        wire = Wire(ADDRESS, "x")
        data = answer(wire, key=None if more else "AAAAAAAAAAAAAAAAAAAAAA==").replace(
            b"\r\n\r\n", f"{more}\r\n\r\n".encode()
        )
        (end,) = wire.feed(data)
        assert isinstance(end, Ended)
        assert end.status == 101


@given(st.binary(max_size=100))
def test_no_answer_raises(data: bytes) -> None:
    wire = Wire(ADDRESS, "x")
    ends = [*wire.feed(data), *wire.feed(b"")] if data else [*wire.feed(b"")]
    assert isinstance(ends[-1], Ended)
    assert list(wire.feed(b"more")) == []


def test_a_refusal_of_any_size_costs_little() -> None:
    wire = Wire(ADDRESS, "x")
    wire.pull()
    found = list(wire.feed(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 5_000))
    assert found == [Ended(None, "HTTP 503", 503, 7.0)]
    wire = Wire(ADDRESS, "x")
    for _ in range(40):
        if found := list(wire.feed(b"HTTP/1.1 200 " + b"x" * 1_000)):
            break
    assert isinstance(found[0], Ended)


def test_pings_are_answered_with_the_newest_alone() -> None:
    wire = opened()
    assert list(wire.feed(ping_frame(b"1") + ping_frame(b"2"))) == []
    assert list(FrameReader(LIMITS).feed(wire.pull())) == [PONG]
    assert wire.pull() == b""


def test_a_close_is_answered_and_ends_it() -> None:
    wire = opened()
    assert list(wire.feed(close_frame(4100, "draining") + text_frame("late"))) == [Ended(4100, "draining")]
    assert list(FrameReader(LIMITS).feed(wire.pull())) == [CloseReceived(1000, "")]
    wire.say("too late")
    wire.ping()
    wire.close(1000)
    assert wire.pull() == b""


def test_what_comes_behind_our_own_close_is_not_told() -> None:
    wire = opened()
    wire.close(1000, "enough")
    assert list(wire.feed(text_frame("late") + ping_frame())) == []
    assert list(wire.feed(close_frame(1000))) == [Ended(1000, "")]


def test_masks_are_never_the_same() -> None:
    wire = opened()
    wire.say("x")
    wire.say("x")
    data = wire.pull()
    assert len(data) == 14
    assert data[2:6] != data[9:13]
