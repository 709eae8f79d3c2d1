"""FrameReader and the writers: rows 23 to 37 of the bad inputs, and the fast path against wsproto."""

from __future__ import annotations

import itertools
import math
import struct
import tracemalloc
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as WebsocketsOpcode
from websockets.protocol import CLIENT, OPEN
from websockets.protocol import Protocol as WebsocketsProtocol
from wsproto.connection import SERVER, Connection, ConnectionState
from wsproto.events import CloseConnection, Message
from wsproto.events import Ping as WsprotoPing
from wsproto.events import Pong as WsprotoPong

from roomhub.transports.websocket.deflate import Deflated, bounded_inflater
from roomhub.transports.websocket.frames import (
    PONG,
    CloseReceived,
    Failed,
    FrameLimits,
    FrameReader,
    Item,
    Ping,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING_, PONG_ = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40
MASK = b"\x12\x34\x56\x78"

PLAIN = FrameLimits(message_bytes=512, fragments=64, binary=False)
WIDE = FrameLimits(message_bytes=1 << 20, fragments=64, binary=True)
NO_LIMITS = FrameLimits(message_bytes=math.inf, fragments=math.inf, binary=True)


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    return bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask)))


def header(first: int, length: int, *, mask: bool = True) -> bytes:
    bit = 0x80 if mask else 0
    if length < 126:
        return bytes((first, bit | length))
    if length < 0x10000:
        return struct.pack("!BBH", first, bit | 126, length)
    return struct.pack("!BBQ", first, bit | 127, length)


def frame(first: int, payload: bytes = b"", mask: bytes = MASK) -> bytes:
    return header(first, len(payload)) + mask + masked(payload, mask)


def text(message: str) -> bytes:
    return frame(FIN | TEXT, message.encode())


def fragments(parts: Sequence[bytes], opcode: int = TEXT) -> list[bytes]:
    return [
        frame((opcode if i == 0 else CONTINUATION) | (FIN if i == len(parts) - 1 else 0), part)
        for i, part in enumerate(parts)
    ]


def cuts_of(data: bytes, positions: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in positions), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def read(reader: FrameReader, reads: Iterable[bytes]) -> list[Item]:
    return [item for data in reads for item in reader.feed(data)]


def read_all(data: bytes, limits: FrameLimits = PLAIN, *, deflate: bool = False) -> list[Item]:
    """Read in one go and byte by byte; both must say the same."""
    inflater = bounded_inflater() if deflate else None
    whole = read(FrameReader(limits, inflater), [data])
    assert read(FrameReader(limits, inflater), cuts_of(data, range(len(data)))) == whole
    return whole


def failure(items: Sequence[Item]) -> int:
    assert items
    end = items[-1]
    assert isinstance(end, Failed)
    assert end.reason
    assert len(end.reason.encode()) <= 123
    assert not any(isinstance(item, (Failed, CloseReceived)) for item in items[:-1])
    return end.code


# --- what a healthy client sends ---


@pytest.mark.parametrize("length", [0, 1, 3, 4, 125, 126, 127, 511, 512, 513, 4096, 65535, 65536])
def test_text_message_of_every_length_encoding(length: int) -> None:
    message = ("abcdefg" * (length // 7 + 1))[:length]
    assert FrameReader(WIDE).feed(text(message)) in ((message,), [message])
    assert read(FrameReader(WIDE), cuts_of(text(message), range(7, 30))) == [message]


def test_whole_text_frames_of_one_read_need_no_wsproto() -> None:
    class Direct(FrameReader):
        __slots__ = ()

        def _read_carefully(self, data: bytes, at: int, items: list[Item], *, until_idle: bool) -> int:
            raise AssertionError("read through wsproto")

    frames = text("a") + text("") + text("b" * 126) + text("c" * 5000)
    assert Direct(WIDE).feed(frames * 10) == ["a", "", "b" * 126, "c" * 5000] * 10


def test_messages_pipelined_in_one_read_come_in_order() -> None:
    stream = text("a") + frame(FIN | PING_, b"p") + text("é" * 100) + frame(FIN | BINARY, b"\xff")
    assert read_all(stream, WIDE) == ["a", Ping(b"p"), "é" * 100, b"\xff"]


def test_fragments_make_one_message_with_controls_between_them() -> None:
    first, second, third = fragments(["€".encode()[:1], "€".encode()[1:], b"!"])
    stream = first + frame(FIN | PING_, b"?") + second + frame(FIN | PONG_) + third + text("next")
    assert read_all(stream) == [Ping(b"?"), PONG, "€!", "next"]


def test_fragmented_binary_message() -> None:
    assert read_all(b"".join(fragments([b"\xff", b"", b"\x00"], BINARY)), WIDE) == [b"\xff\x00"]


def test_unfinished_is_true_while_a_frame_or_a_message_is_incomplete() -> None:
    reader = FrameReader(PLAIN)
    first, last = fragments([b"a", b"b"])
    seen = []
    for data in (text("x"), first, frame(FIN | PING_), last[:1], last[1:], text("y")[:-1]):
        reader.feed(data)
        seen.append(reader.unfinished)
    assert seen == [False, True, True, True, False, True]
    assert list(reader.feed(text("y")[-1:])) == ["y"]
    assert not reader.unfinished
    assert not reader.ended


def test_reading_is_direct_again_after_a_frame_cut_by_a_read() -> None:
    reader = FrameReader(PLAIN)
    frames = text("one") + text("two") + text("three")
    assert [*reader.feed(frames[:4]), *reader.feed(frames[4:])] == ["one", "two", "three"]
    assert not reader.unfinished
    assert reader.feed(text("four")) == ("four",)


def test_empty_read_says_nothing() -> None:
    reader = FrameReader(PLAIN)
    assert not reader.feed(b"")
    reader.feed(b"\x81")
    assert not reader.feed(b"")
    assert reader.unfinished


@pytest.mark.parametrize(("length", "first_read"), [(1000, 132), (70_000, 133)])
def test_extended_length_is_not_taken_for_a_short_one(length: int, first_read: int) -> None:
    # The marker 126 or 127 would be just the length of this read.
    data = text("a" * length)
    assert read(FrameReader(WIDE), [data[:first_read], data[first_read:]]) == ["a" * length]


# --- the rows of bad-inputs.md ---


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING_, PONG_])
def test_row_23_unmasked_frame_is_1002(opcode: int) -> None:
    assert failure(read_all(text("a") + header(FIN | opcode, 2, mask=False) + b"xy", WIDE)) == 1002


@pytest.mark.parametrize("bits", [0x40, 0x20, 0x10, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING_, PONG_])
def test_row_24_reserved_bit_is_1002(bits: int, opcode: int) -> None:
    assert failure(read_all(frame(FIN | bits | opcode, b"\x03\xe8"), WIDE)) == 1002


@pytest.mark.parametrize("bits", [0x20, 0x10])
def test_row_24_other_reserved_bits_are_1002_with_deflate_too(bits: int) -> None:
    assert failure(read_all(frame(FIN | bits | TEXT, b"a"), WIDE, deflate=True)) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING_, PONG_])
def test_row_24_compressed_control_frame_is_1002(opcode: int) -> None:
    assert failure(read_all(frame(FIN | RSV1 | opcode, b""), WIDE, deflate=True)) == 1002


def test_row_24_compressed_continuation_is_1002() -> None:
    stream = frame(TEXT, b"a") + frame(FIN | RSV1 | CONTINUATION, b"b")
    assert failure(read_all(stream, WIDE, deflate=True)) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_row_24_unknown_opcode_is_1002(opcode: int) -> None:
    assert failure(read_all(frame(FIN | opcode, b"ab"), WIDE)) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING_, PONG_])
def test_row_25_control_frame_over_125_bytes_or_fragmented_is_1002(opcode: int) -> None:
    assert failure(read_all(frame(FIN | opcode, b"\x03\xe8" + b"a" * 124), WIDE)) == 1002
    assert failure(read_all(frame(opcode, b"\x03\xe8"), WIDE)) == 1002


def test_control_frames_of_125_bytes_are_taken() -> None:
    assert read_all(frame(FIN | PING_, b"a" * 125)) == [Ping(b"a" * 125)]
    closing = frame(FIN | CLOSE, b"\x03\xe8" + b"a" * 123)
    assert read_all(closing) == [CloseReceived(1000, "a" * 123)]


@pytest.mark.parametrize(
    ("length", "deflate"),
    # What inflates to 512 bytes may be a little longer than that.
    [(513, False), *itertools.product((65535, 65536, 1 << 62, (1 << 63) - 1), (False, True))],
)
def test_row_26_declared_length_over_the_limit_is_1009_from_the_header(length: int, deflate: bool) -> None:
    first = FIN | TEXT | (RSV1 if deflate else 0)
    reader = FrameReader(PLAIN, bounded_inflater() if deflate else None)
    tracemalloc.start()
    try:
        items = reader.feed(header(first, length) + MASK)
        assert tracemalloc.get_traced_memory()[1] < 60_000
    finally:
        tracemalloc.stop()
    assert failure(items) == 1009
    assert reader.ended
    assert not reader.unfinished


def test_row_26_limit_itself_is_taken() -> None:
    assert read_all(text("a" * 512)) == ["a" * 512]
    assert read_all(frame(FIN | BINARY, b"a" * 512), FrameLimits(512, 1, True)) == [b"a" * 512]
    tiny = FrameLimits(message_bytes=10, fragments=1, binary=False)
    assert read_all(text("a" * 10), tiny) == ["a" * 10]
    assert failure(read_all(text("a" * 11), tiny)) == 1009


def test_row_27_fragments_whose_sum_is_over_the_limit_are_1009() -> None:
    assert read_all(b"".join(fragments([b"a" * 256, b"b" * 256]))) == ["a" * 256 + "b" * 256]
    assert failure(read_all(b"".join(fragments([b"a" * 256, b"b" * 257])))) == 1009


def test_row_28_fragment_65_is_1009() -> None:
    assert read_all(b"".join(fragments([b"a"] * 64))) == ["a" * 64]
    assert failure(read_all(b"".join(fragments([b"a"] * 65)))) == 1009


def test_row_28_ten_thousand_empty_fragments_stop_at_the_65th() -> None:
    reader = FrameReader(PLAIN)
    assert failure(reader.feed(frame(TEXT) + frame(CONTINUATION) * 10_000)) == 1009
    each = b"".join(fragments([b"a"] * 40))
    assert read_all(each + each) == ["a" * 40] * 2  # counted by message
    many = b"".join(fragments([b""] * 10_000))
    assert read(FrameReader(NO_LIMITS), [many]) == [""]


BAD_UTF8 = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\x80"]


@pytest.mark.parametrize("bad", [*BAD_UTF8, b"\xe2\x82"])
def test_row_31_invalid_utf8_is_1007(bad: bytes) -> None:
    assert failure(read_all(frame(FIN | TEXT, b"ok" + bad))) == 1007
    assert failure(read_all(b"".join(fragments([bytes((byte,)) for byte in b"ok" + bad])))) == 1007
    assert failure(read_all(frame(FIN | TEXT, b"a" * 200 + bad) + text("x"))) == 1007


@pytest.mark.parametrize(
    "bad",
    # CPython needs all three bytes of a surrogate to be sure.
    [b"\xff", b"\xc0", b"\xe0\x80", b"\xed\xa0\x80", b"\xf4\x90", b"\xf5", b"\xce\xba\xce\xff"],
)
def test_row_31_fails_at_the_bad_byte_and_not_at_the_message_s_end(bad: bytes) -> None:
    unfinished = frame(TEXT, b"ab" + bad)
    assert failure(read_all(unfinished)) == 1007
    partial = frame(FIN | TEXT, b"ab" + bad + b"rest")[: 6 + 2 + len(bad)]
    assert failure(read_all(partial)) == 1007


def test_row_32_binary_where_unsupported_is_1003() -> None:
    assert failure(read_all(header(FIN | BINARY, 100) + MASK)) == 1003
    assert failure(read_all(frame(BINARY, b""))) == 1003


def test_row_33_pings_are_all_told_for_the_transport_to_coalesce() -> None:
    flood = b"".join(frame(FIN | PING_, b"%d" % i) for i in range(1000))
    assert read_all(flood) == [Ping(b"%d" % i) for i in range(1000)]


def test_row_34_pong_flood_makes_no_object_per_pong() -> None:
    flood = frame(FIN | PONG_, b"x" * 10) * 4000
    reader = FrameReader(PLAIN)
    tracemalloc.start()
    try:
        items = reader.feed(flood)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(item is PONG for item in items)
    assert len(items) == 4000
    # The list itself, and what works on one piece.
    assert peak < 8 * 4000 * 1.2 + 40_000


def test_row_36_data_after_a_close_is_ignored() -> None:
    reader = FrameReader(PLAIN)
    goodbye = frame(FIN | CLOSE, b"\x03\xe9bye")
    items = reader.feed(text("a") + goodbye + text("b") + goodbye)
    assert list(items) == ["a", CloseReceived(1001, "bye")]
    assert reader.ended
    assert not reader.unfinished
    for data in (text("c"), b"\xff" * 10, b"\x81", goodbye):
        assert not reader.feed(data)
        assert not reader.unfinished


@pytest.mark.parametrize("bad", [text("a")[:1] + b"\x01a", frame(FIN | TEXT, b"\xff")])
def test_row_36_data_after_a_failure_is_ignored(bad: bytes) -> None:
    reader = FrameReader(PLAIN)
    failure(reader.feed(bad))
    assert reader.ended
    assert not reader.feed(text("c"))
    assert not reader.feed(b"\x81")
    assert not reader.unfinished


def test_close_in_the_middle_of_a_message_ends_it() -> None:
    stream = frame(TEXT, b"a") + frame(FIN | CLOSE) + frame(FIN | CONTINUATION, b"b")
    assert read_all(stream) == [CloseReceived(None, "")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_row_37_close_code_that_may_not_be_sent_is_1002(code: int) -> None:
    assert failure(read_all(frame(FIN | CLOSE, code.to_bytes(2, "big")))) == 1002


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_code_that_may_be_sent_is_told(code: int) -> None:
    assert read_all(frame(FIN | CLOSE, code.to_bytes(2, "big"))) == [CloseReceived(code, "")]


def test_row_37_close_body_of_one_byte_is_1002() -> None:
    assert failure(read_all(frame(FIN | CLOSE, b"\x03"))) == 1002


def test_close_reason_that_is_not_utf8_is_1007() -> None:
    assert failure(read_all(frame(FIN | CLOSE, b"\x03\xe8\xff"))) == 1007


@pytest.mark.parametrize("length", [b"\xfe\x00\x7d", b"\xff" + bytes(6) + b"\xff\xff", b"\xff\x80" + bytes(7)])
def test_length_not_encoded_shortest_or_with_its_top_bit_set_is_1002(length: bytes) -> None:
    assert failure(read_all(b"\x81" + length + MASK + bytes(125), NO_LIMITS)) == 1002


def test_fragments_out_of_order_are_1002() -> None:
    assert failure(read_all(frame(FIN | CONTINUATION, b"a"))) == 1002
    assert failure(read_all(frame(TEXT, b"a") + text("b"))) == 1002
    assert failure(read_all(b"".join(fragments([b"a", b"b"])) + frame(CONTINUATION))) == 1002


# --- memory ---


def test_reader_at_rest_is_one_small_object() -> None:
    inflater = bounded_inflater()
    readers: list[FrameReader] = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            reader = FrameReader(PLAIN, inflater)
            reader.feed(text("a"))
            reader.feed(frame(FIN | PING_))
            reader.feed(text("a" * 100)[:50])
            reader.feed(text("a" * 100)[50:])
            readers.append(reader)
        each = (tracemalloc.get_traced_memory()[0] - before) / 1000
    finally:
        tracemalloc.stop()
    assert each < 100


def test_one_byte_at_a_time_takes_no_more_room_than_the_message() -> None:
    message = "é" * 20_000
    reader = FrameReader(WIDE)
    data = text(message)
    *reads, last = cuts_of(data, range(len(data)))
    tracemalloc.start()
    try:
        for byte in reads:
            assert not reader.feed(byte)
        assert tracemalloc.get_traced_memory()[1] < 40_000 + 24_000
    finally:
        tracemalloc.stop()
    assert reader.feed(last) == [message]


# --- the fast path is the same as wsproto, on every stream and every way of cutting it ---


class ThroughWsproto(FrameReader):
    """The same reader with its fast path turned off."""

    __slots__ = ()

    def feed(self, data: bytes) -> Sequence[Item]:
        items: list[Item] = []
        if data and not self.ended:
            self._read_carefully(data, 0, items, until_idle=False)
        return items


_deflated = Deflated()


def compressed(message: str) -> bytes:
    """A compressed message as a client sends it, where it gets shorter."""
    made = _deflated.frame(message)
    at = 2 if made[1] < 126 else 4
    return frame(made[0], made[at:])


masks = st.binary(min_size=4, max_size=4)
messages = st.text(max_size=40) | st.text("aé€", min_size=100, max_size=220)
controls = st.one_of(
    st.builds(frame, st.just(FIN | PING_), st.binary(max_size=10), masks),
    st.builds(frame, st.just(FIN | PONG_), st.binary(max_size=10), masks),
)
closes = st.builds(
    lambda code, reason: frame(FIN | CLOSE, code.to_bytes(2, "big") + reason),
    st.sampled_from([999, 1000, 1001, 1005, 1011, 1016, 3000, 4999, 5000]),
    st.sampled_from([b"", b"bye", b"\xff"]),
)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    opcode = draw(st.sampled_from([TEXT, TEXT, BINARY]))
    payload = draw(messages.map(str.encode) | st.binary(max_size=20))
    parts = cuts_of(payload, draw(st.lists(st.integers(0, 300), max_size=6)))
    out = b""
    for part in fragments(parts, opcode):
        out += draw(st.just(b"") | controls) + part
    return out


@st.composite
def fragmented_compressed(draw: st.DrawFn) -> bytes:
    made = _deflated.frame(draw(st.text("ab€", min_size=60, max_size=300)))
    payload = made[2 if made[1] < 126 else 4 :]
    parts = cuts_of(payload, draw(st.lists(st.integers(0, 100), max_size=4)))
    out = b""
    for i, part in enumerate(parts):
        first = (made[0] & ~FIN if i == 0 else 0) | (FIN if i == len(parts) - 1 else 0)
        out += frame(first, part) + draw(st.just(b"") | controls)
    return out


plain_parts = st.one_of(
    st.builds(frame, st.just(FIN | TEXT), messages.map(str.encode), masks),
    st.builds(frame, st.just(FIN | TEXT), messages.map(str.encode), masks),
    st.builds(frame, st.just(FIN | BINARY), st.binary(max_size=20), masks),
    controls,
    fragmented(),
)
bad_parts = st.one_of(
    closes,
    st.builds(frame, st.integers(0, 255), st.binary(max_size=140), masks),
    st.builds(frame, st.just(FIN | TEXT), st.binary(min_size=1, max_size=8), masks),
    st.builds(
        lambda first, length: header(first, length) + MASK,
        st.integers(0, 255),
        st.integers(0, 1 << 62),
    ),
    st.builds(lambda length: b"\x81\xfe" + length.to_bytes(2, "big") + MASK, st.integers(0, 130)),
    st.binary(max_size=20),
)
deflate_parts = st.one_of(st.builds(compressed, messages), fragmented_compressed())


@st.composite
def streams(draw: st.DrawFn, *, deflate: bool) -> list[bytes]:
    """What a peer sends, about a frame or a fragmented message an item."""
    good = plain_parts | deflate_parts if deflate else plain_parts
    parts = draw(st.lists(good, max_size=6))
    parts += draw(st.lists(bad_parts | good, max_size=2))
    broken = draw(st.booleans())
    if parts and broken:
        which = draw(st.integers(0, len(parts) - 1))
        data = bytearray(parts[which])
        if data:
            data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
        parts[which] = bytes(data)
    return parts


cut_positions = st.lists(st.integers(0, 2000), max_size=8)
all_limits = st.sampled_from(
    [
        FrameLimits(message_bytes=150, fragments=3, binary=True),
        FrameLimits(message_bytes=20, fragments=64, binary=False),
        NO_LIMITS,
    ]
)


@settings(max_examples=600, deadline=None)
@given(
    st.booleans().flatmap(lambda on: st.tuples(st.just(on), streams(deflate=on))),
    cut_positions,
    all_limits,
)
def test_fast_path_and_wsproto_give_the_same_items_however_the_stream_is_cut(
    stream: tuple[bool, list[bytes]], positions: list[int], limits: FrameLimits
) -> None:
    deflate, parts = stream
    data = b"".join(parts)
    inflater = bounded_inflater() if deflate else None
    reference = ThroughWsproto(limits, inflater)
    expected = read(reference, [data])
    for reads in (parts, [data], cuts_of(data, positions), cuts_of(data, range(len(data)))):
        reader = FrameReader(limits, inflater)
        assert read(reader, reads) == expected
        assert (reader.ended, reader.unfinished) == (reference.ended, reference.unfinished)
        slow = ThroughWsproto(limits, inflater)
        assert read(slow, reads) == expected


@settings(max_examples=400, deadline=None)
@given(streams(deflate=False), cut_positions)
def test_reader_says_what_wsproto_itself_says(parts: list[bytes], positions: list[int]) -> None:
    # The zeros give a pending header its payload, where wsproto finds a fragment out of order; we
    # find it in the header. After a whole frame they are an unmasked one to both.
    data = b"".join(parts) + bytes(16)
    assert read(FrameReader(NO_LIMITS), cuts_of(data, positions)) == _wsproto_items(data)


def _wsproto_items(data: bytes) -> list[object]:
    connection = Connection(SERVER)
    connection.receive_data(data)
    items: list[object] = []
    parts: list[str | bytes] = []
    for event in connection.events():
        match event:
            case WsprotoPing():
                items.append(Ping(bytes(event.payload)))
            case WsprotoPong():
                items.append(PONG)
            case CloseConnection() if connection.state is ConnectionState.REMOTE_CLOSING:
                code = None if event.code == 1005 else event.code
                items.append(CloseReceived(code, event.reason or ""))
            case CloseConnection():
                items.append(_AnyFailure(event.code))
            case Message():
                parts.append(event.data)
                if event.message_finished and event.frame_finished:
                    items.append(parts[0][:0].join(parts))  # type: ignore[arg-type]
                    parts = []
    return items


class _AnyFailure:
    """Equal to a Failed of this code: the wording is ours."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failed) and other.code == self.code

    def __repr__(self) -> str:
        return f"Failed({self.code}, ...)"

    __hash__ = None  # type: ignore[assignment]


# --- writers ---


def test_frames_have_the_shortest_length_encoding() -> None:
    assert text_frame("é") == b"\x81\x02\xc3\xa9"
    for length, start in [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f" + bytes(5) + b"\x01\x00\x00"),
    ]:
        assert text_frame("x" * length) == start + b"x" * length
        assert binary_frame(b"x" * length) == b"\x82" + start[1:] + b"x" * length
    assert ping_frame() == b"\x89\x00"
    assert pong_frame(b"abc") == b"\x8a\x03abc"


def test_lone_surrogate_is_the_caller_s_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        text_frame("\ud800")


def test_control_frame_over_125_bytes_is_the_caller_s_error() -> None:
    assert len(ping_frame(b"x" * 125)) == 127
    for write in (ping_frame, pong_frame):
        with pytest.raises(ValueError, match="125 bytes"):
            write(b"x" * 126)


def test_close_frame() -> None:
    assert close_frame(None) == b"\x88\x00"
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(4201, "slow") == b"\x88\x06\x10\x69slow"
    assert close_frame(1000, "\ud800") == b"\x88\x03\x03\xe8?"


def test_close_reason_is_cut_between_characters() -> None:
    assert close_frame(1000, "€" * 50)[4:] == ("€" * 41).encode()
    assert close_frame(1000, "a" + "€" * 50)[4:] == ("a" + "€" * 40).encode()
    assert len(close_frame(1000, "a" * 200)) == 127


@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 2000, 5000])
def test_close_code_that_may_not_be_sent_is_the_caller_s_error(code: int) -> None:
    with pytest.raises(ValueError, match="may not be sent"):
        close_frame(code)


def test_close_reason_without_a_code_is_the_caller_s_error() -> None:
    with pytest.raises(ValueError, match="needs a close code"):
        close_frame(None, "why")


# --- a client that no one here wrote ---


def websockets_client(*, deflate: bool = False) -> WebsocketsProtocol:
    client = WebsocketsProtocol(CLIENT, state=OPEN, max_size=None)
    if deflate:
        client.extensions = [PerMessageDeflate(True, True, 12, 15)]
    return client


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("length", [0, 5, 125, 126, 5000, 70_000])
def test_websockets_client_is_read(deflate: bool, length: int) -> None:
    client = websockets_client(deflate=deflate)
    message = ("Grüße, " * 10_000)[:length]
    client.send_text(message.encode())
    client.send_text(message[:50].encode(), fin=False)
    client.send_ping(b"?")
    client.send_continuation(message[50:].encode(), fin=True)
    client.send_binary(message.encode())
    client.send_pong(b"")
    client.send_close(1001, "bye")
    data = b"".join(client.data_to_send())
    expected = [message, Ping(b"?"), message, message.encode(), PONG, CloseReceived(1001, "bye")]
    inflater = bounded_inflater() if deflate else None
    assert read(FrameReader(WIDE, inflater), [data]) == expected
    assert read(FrameReader(WIDE, inflater), cuts_of(data, range(0, len(data), 7))) == expected


@pytest.mark.parametrize("deflate", [False, True])
def test_websockets_client_reads_what_is_written(deflate: bool) -> None:
    client = websockets_client(deflate=deflate)
    texts = ["", "hi", "é" * 100, "Grüße, " * 2000, "x" * 70_000]
    write = Deflated().frame if deflate else text_frame
    frames = [*map(write, texts), binary_frame(b"\xff"), ping_frame(b"p"), pong_frame(b"q")]
    client.receive_data(b"".join([*frames, close_frame(4201, "slow")]))
    events = [event for event in client.events_received() if isinstance(event, Frame)]
    assert [bytes(event.data).decode() for event in events[: len(texts)]] == texts
    assert [(event.opcode, bytes(event.data)) for event in events[len(texts) :]] == [
        (WebsocketsOpcode.BINARY, b"\xff"),
        (WebsocketsOpcode.PING, b"p"),
        (WebsocketsOpcode.PONG, b"q"),
        (WebsocketsOpcode.CLOSE, (4201).to_bytes(2, "big") + b"slow"),
    ]
