"""permessage-deflate: frames that stand alone, and inflating that cannot be made to take memory."""

from __future__ import annotations

import math
import os
import random
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomhub.transports.websocket.deflate import Deflated, bounded_inflater
from roomhub.transports.websocket.frames import (
    Failed,
    FrameLimits,
    FrameReader,
    Item,
    Ping,
    text_frame,
)
from tests.transports.websocket.test_frames import (
    CONTINUATION,
    FIN,
    PING_,
    RSV1,
    TEXT,
    WIDE,
    compressed,
    cuts_of,
    frame,
    read,
    text,
)

LINE = '{"type":"chat","room":"general","from":"alice","text":"hello there, hello everybody"}'


def deflate(payload: bytes, window_bits: int = 15, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def reader(limits: FrameLimits = WIDE, window_bits: int = 15) -> FrameReader:
    return FrameReader(limits, bounded_inflater(window_bits))


def read_all(data: bytes, limits: FrameLimits = WIDE) -> list[Item]:
    whole = read(reader(limits), [data])
    assert read(reader(limits), cuts_of(data, range(len(data)))) == whole
    return whole


def failure(items: Sequence[Item]) -> int:
    assert len(items) == 1
    assert isinstance(items[0], Failed)
    return items[0].code


# --- writing ---


def inflated(made: bytes) -> str:
    """What a client that has seen no other message makes of a frame."""
    if made[0] == FIN | TEXT:
        return made[2 if made[1] < 126 else 4 if made[1] == 126 else 10 :].decode()
    assert made[0] == FIN | RSV1 | TEXT
    payload = made[2 if made[1] < 126 else 4 if made[1] == 126 else 10 :]
    return zlib.decompressobj(-12).decompress(payload + b"\x00\x00\xff\xff").decode()


def test_each_frame_of_one_compressor_stands_alone() -> None:
    deflated = Deflated()
    first, second = deflated.frame(LINE), deflated.frame(LINE)
    assert first == second
    assert len(first) < len(text_frame(LINE))
    assert inflated(second) == LINE


def test_what_does_not_gain_goes_as_it_is() -> None:
    deflated = Deflated()
    noise = "".join(map(chr, random.Random(0).choices(range(33, 127), k=200)))
    for message in ("", "hi", "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"):
        assert deflated.frame(message) == text_frame(message)
    assert inflated(deflated.frame(noise)) == noise
    assert inflated(deflated.frame(LINE)) == LINE


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text() | st.text("ab€", min_size=30, max_size=20_000), max_size=5))
def test_every_text_comes_back(texts: list[str]) -> None:
    deflated = Deflated()
    for message in texts:
        assert inflated(deflated.frame(message)) == message


def test_lone_surrogate_is_the_caller_s_error_and_spoils_nothing() -> None:
    deflated = Deflated()
    with pytest.raises(UnicodeEncodeError):
        deflated.frame("x" * 100 + "\ud800")
    assert inflated(deflated.frame(LINE)) == LINE


# --- reading ---


@pytest.mark.parametrize("window_bits", [9, 12, 15])
def test_compressed_message_is_read(window_bits: int) -> None:
    message = LINE * 500
    stream = frame(FIN | RSV1 | TEXT, deflate(message.encode(), window_bits))
    assert list(reader(window_bits=window_bits).feed(stream * 2)) == [message, message]


def test_plain_and_compressed_messages_may_alternate() -> None:
    assert read_all(text("a") + compressed(LINE) + text("b") + compressed(LINE)) == [
        "a",
        LINE,
        "b",
        LINE,
    ]


def test_binary_message() -> None:
    assert read_all(frame(FIN | RSV1 | 2, deflate(b"\xff" * 1000))) == [b"\xff" * 1000]


def test_empty_message_and_empty_last_fragment() -> None:
    assert read_all(frame(FIN | RSV1 | TEXT, deflate(b""))) == [""]
    stream = frame(RSV1 | TEXT, deflate(LINE.encode())) + frame(FIN | CONTINUATION)
    assert read_all(stream) == [LINE]


def test_row_35_ping_between_compressed_fragments_leaves_the_message_intact() -> None:
    payload = deflate(LINE.encode())
    stream = (
        frame(RSV1 | TEXT, payload[:20])
        + frame(FIN | PING_, b"?")
        + frame(CONTINUATION, payload[20:30])
        + frame(FIN | PING_, b"!")
        + frame(FIN | CONTINUATION, payload[30:])
    )
    assert read_all(stream + compressed(LINE)) == [Ping(b"?"), Ping(b"!"), LINE, LINE]


def test_last_block_may_be_marked_as_such() -> None:
    # "Hello" of RFC 7692, section 7.2.3.4, with the zero that follows such a block, and without.
    hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00"
    assert read_all(frame(FIN | RSV1 | TEXT, hello + b"\x00")) == ["Hello"]
    assert read_all(frame(FIN | RSV1 | TEXT, hello)) == ["Hello"]
    stream = frame(RSV1 | TEXT, hello) + frame(FIN | CONTINUATION, b"\x00")
    assert read_all(stream) == ["Hello"]
    assert failure(read_all(frame(FIN | RSV1 | TEXT, hello + b"\x00lost"))) == 1007


@pytest.mark.parametrize("payload", [b"\xff" * 10, b"\x07abc", deflate(LINE.encode())[:-4], b"\x02"])
def test_data_that_cannot_be_inflated_is_1007(payload: bytes) -> None:
    assert failure(read_all(frame(FIN | RSV1 | TEXT, payload))) == 1007


def test_invalid_utf8_in_a_compressed_message_is_1007() -> None:
    assert failure(read_all(frame(FIN | RSV1 | TEXT, deflate(b"a" * 50 + b"\xed\xa0\x80")))) == 1007
    assert failure(read_all(frame(RSV1 | TEXT, deflate(b"a" * 50 + b"\xff")))) == 1007
    assert failure(read_all(frame(FIN | RSV1 | TEXT, deflate(b"a" * 50 + b"\xe2\x82")))) == 1007


def test_limit_counts_inflated_bytes() -> None:
    limits = FrameLimits(message_bytes=10_000, fragments=64, binary=True)
    just = frame(FIN | RSV1 | TEXT, deflate(b"a" * 10_000))
    over = frame(FIN | RSV1 | TEXT, deflate(b"a" * 10_001))
    assert read_all(just, limits) == ["a" * 10_000]
    assert failure(read_all(over, limits)) == 1009
    # Bad text before the limit counts first, however the bytes were cut; bad text behind it never.
    assert failure(read_all(frame(FIN | RSV1 | TEXT, deflate(b"\xff" * 20_000)), limits)) == 1007
    late = deflate(b"a" * 9_999 + "€".encode() + b"\xff" * 20_000)
    assert failure(read_all(frame(FIN | RSV1 | TEXT, late), limits)) == 1009
    empty = FrameLimits(message_bytes=0, fragments=1, binary=False)
    assert failure(read_all(frame(FIN | RSV1 | TEXT, deflate(b"a")), empty)) == 1009


def test_byte_over_the_limit_with_bad_data_right_behind_it_fails_the_same_however_cut() -> None:
    limits = FrameLimits(message_bytes=20, fragments=64, binary=True)
    good = deflate(b"abcdefghijklmnopqrstuvwxyz")
    for at in range(len(good)):
        for byte in range(256):
            payload = good[:at] + bytes((byte,)) + good[at + 1 :]
            items = read_all(frame(FIN | RSV1 | 2, payload), limits)  # the same, however cut
            assert isinstance(items[0], bytes) or failure(items) in (1007, 1009)


def test_data_that_does_not_compress_may_be_sent_up_to_the_limit() -> None:
    limits = FrameLimits(message_bytes=512, fragments=64, binary=True)
    noise = os.urandom(512)
    payload = deflate(noise, level=0)
    assert len(payload) > 512
    assert read_all(frame(FIN | RSV1 | 2, payload), limits) == [noise]


def test_unlimited_message_is_inflated_whole() -> None:
    limits = FrameLimits(math.inf, math.inf, True)
    stream = frame(FIN | RSV1 | 2, deflate(bytes(1 << 20)))
    assert list(reader(limits).feed(stream)) == [bytes(1 << 20)]


@pytest.mark.parametrize("limit", [512, 65_536, 1 << 20])
@pytest.mark.parametrize("opcode", [TEXT, 2])
@pytest.mark.parametrize("fragmented", [False, True])
def test_row_30_bomb_is_1009_and_takes_little_memory(limit: int, opcode: int, fragmented: bool) -> None:
    # For all but the last limit it is the longest that gets past the header. It inflates 1,000-fold.
    wire_bytes = min(int(limit * 1.125) + 1000, 75_000)
    payload = deflate(bytes(wire_bytes * 1100))[:wire_bytes]
    if fragmented:
        stream = frame(RSV1 | opcode, payload[:50]) + frame(FIN | CONTINUATION, payload[50:])
    else:
        stream = frame(FIN | RSV1 | opcode, payload)
    bounded = reader(FrameLimits(limit, 64, True))
    tracemalloc.start()
    try:
        items = bounded.feed(stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(items) == 1009
    assert peak < limit + 64 * 1024


def test_row_30_big_frame_of_the_experiment_is_1009_from_its_header() -> None:
    payload = deflate(bytes(105_000_000))
    assert 100_000 < len(payload) < 110_000
    assert failure(reader(FrameLimits(65_536, 64, True)).feed(frame(FIN | RSV1 | TEXT, payload))) == 1009
