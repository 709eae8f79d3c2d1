"""WebSocket frames after the handshake, the server's side, without I/O (RFC 6455, sections 5 to 8).

Reading has two ways that give the same items for every byte stream, however it is cut:

- directly: whole masked text frames, unfragmented, no RSV bit, while nothing is half read. That is
  nearly every message of a chat, and it costs about 1 µs.
- through wsproto's `FrameDecoder`, which parses and unmasks everything else; `_Assembly` makes
  messages of its frames and holds the limits. It exists only while a frame or a message is
  unfinished, so a reader at rest is one small object.

What a peer sends never raises: it ends the stream with a `Failed` item that says how to close.

wsproto's own layer above `FrameDecoder` is not used: it inflates without bound, loses track of a
compressed message at a ping, bounds neither messages nor fragments, and refuses close code 1014.
"""

from __future__ import annotations

import struct
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, assert_never, final

from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
    XorMaskerSimple,
)

_TEXT_FIN = 0x80 | Opcode.TEXT
_MASKED = 0x80
_MASK_BYTES = 4
_SHORT_BYTES = 125  # the longest payload whose length stands in the second byte, section 5.2

# Up to here XOR of two big integers unmasks faster, above it wsproto's translate tables do
# (64 bytes: 0.36 against 0.71 µs; 512: 1.2 both; 4 KiB: 7.6 against 4.8).
_XOR_INT_BYTES = 512

# wsproto gets what was read in pieces of this size: it makes about five copies of what it works on.
_PIECE_BYTES = 2048
# A message in progress is kept in blocks: one growing array would be up to an eighth too large.
_BLOCK_BYTES = 4096

_NOT_UTF8 = "text is not UTF-8"
_Utf8Decoder = getincrementaldecoder("utf-8")

# Those that a Close frame may carry, either way: section 7.4, and IANA's registry for 1012 to 1014.
# 1004, 1005, 1006 and 1015 are reserved, the rest up to 2999 is unassigned.
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)))


@dataclass(slots=True)
class FrameLimits:
    """What a reader takes from its peer. One object serves many connections; do not change it.

    `message_bytes`: the longest message, in bytes of payload after inflating; past it 1009.
    `fragments`: the most frames one message may come in; past it 1009. Both may be `inf`.
    `binary`: whether binary messages are taken; if not, 1003.
    """

    message_bytes: float
    fragments: float
    binary: bool


@dataclass(slots=True)
class Ping:
    """A ping, to be answered with `pong_frame(payload)` (section 5.5.2)."""

    payload: bytes


@final
class Pong:
    """A pong. What it carries is not kept, so all of them are the one object `PONG`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "PONG"


PONG: Final[Pong] = Pong()


@dataclass(slots=True)
class CloseReceived:
    """The peer's Close frame; `code` is None where it named none. Nothing follows it."""

    code: int | None
    reason: str


@dataclass(slots=True)
class Failed:
    """The peer broke the protocol or a limit: close with this code. Nothing follows it."""

    code: int
    reason: str


Item: TypeAlias = str | bytes | Ping | Pong | CloseReceived | Failed


class MessageInflater(Protocol):
    """Inflates one compressed message; made with the most bytes that the message may have."""

    def inflate(self, data: bytes, last: bool) -> Iterator[bytes]:
        """Yield what `data` inflates to, in small pieces; `last` comes with the message's end.

        The caller stops asking once the message is over its limit. Raises ParseFailed for bad data.
        """
        ...


class FrameReader:
    """Turns the bytes of one connection into messages, control frames and at most one end.

    `inflater` makes a message's inflater where permessage-deflate was negotiated (`deflate.py` has
    one to share between connections); without it a compressed frame is an RSV bit, so 1002.
    """

    __slots__ = ("_assembly", "_direct", "_inflater", "_limits")

    def __init__(self, limits: FrameLimits, inflater: Callable[[float], MessageInflater] | None = None) -> None:
        self._limits = limits
        self._inflater = inflater
        self._assembly: _Assembly | None = None
        # True while there is no assembly and the stream has not ended.
        self._direct = True

    @property
    def unfinished(self) -> bool:
        """A frame or a message has begun and is not complete.

        The transport times this (`message_timeout_s`). It is the same message for as long as no
        `feed` returned a `str` or `bytes`; control frames between its fragments do not count.
        """
        return self._assembly is not None

    @property
    def ended(self) -> bool:
        """A `CloseReceived` or `Failed` was returned; whatever is fed from now on is ignored."""
        return not self._direct and self._assembly is None

    def feed(self, data: bytes) -> Sequence[Item]:
        """Take what was read from the connection and return what it completes, oldest first.

        A text message is a `str`, a binary one `bytes`. A `CloseReceived` or a `Failed` is the last
        item ever: later calls return nothing. Never raises for what a peer sent.
        """
        if (
            self._direct
            and len(data) > 5
            and data[0] == _TEXT_FIN
            # An unmasked frame gives a negative length here, an extended length one over 125.
            and (length := data[1] - _MASKED) == len(data) - 6
            and length <= _SHORT_BYTES
            and length <= self._limits.message_bytes
        ):
            try:
                return (_unmask(data[6:], data[2:6]).decode(),)
            except UnicodeDecodeError:
                return (self._not_utf8(),)

        items: list[Item] = []
        at = 0
        if self._assembly is not None:
            at = self._read_carefully(data, at, items, until_idle=True)
        if self._direct:
            at = self._read_texts(data, at, items)
        # What stopped the direct reading takes the rest of the read with it: changing over for each
        # frame would let a peer that alternates pings and texts make us copy the rest every time.
        if self._direct and at < len(data):
            self._read_carefully(data, at, items, until_idle=False)
        return items

    def _read_texts(self, data: bytes, at: int, items: list[Item]) -> int:
        """Read whole text frames from `at` on; return where the first of another kind starts."""
        end = len(data)
        message_bytes = self._limits.message_bytes
        while end - at >= 6 and data[at] == _TEXT_FIN:
            length = data[at + 1] - _MASKED
            mask_at = at + 2
            if length == 126:
                length = int.from_bytes(data[mask_at : mask_at + 2], "big")
                mask_at += 2
                if length <= _SHORT_BYTES:  # not the shortest encoding: wsproto will refuse it
                    break
            elif not 0 <= length <= _SHORT_BYTES:
                break
            start = mask_at + _MASK_BYTES
            if start + length > end or length > message_bytes:
                break
            at = start + length
            try:
                items.append(_unmask(data[start:at], data[mask_at:start]).decode())
            except UnicodeDecodeError:
                items.append(self._not_utf8())
                break
        return at

    def _read_carefully(self, data: bytes, at: int, items: list[Item], *, until_idle: bool) -> int:
        """Read from `at` on through wsproto, to the end or until nothing is half read any more."""
        assembly = self._assembly
        if assembly is None:
            assembly = self._assembly = _Assembly(self._limits, self._inflater)
            self._direct = False
        try:
            at = assembly.read(data, at, items, until_idle)
        except ParseFailed as error:
            items.append(Failed(int(error.code), str(error)))
            self._assembly = None
        else:
            if assembly.closed:
                self._assembly = None
            elif assembly.idle:
                self._assembly = None
                self._direct = True
        return at

    def _not_utf8(self) -> Failed:
        self._direct = False
        return Failed(CloseReason.INVALID_FRAME_PAYLOAD_DATA.value, _NOT_UTF8)


class _CompressedFrames(Extension):
    """Lets RSV1 through on data frames (RFC 7692, section 6); `_Assembly` does the rest.

    It has no state, so one serves all decoders.
    """

    name = "permessage-deflate"

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> RsvBits:
        return RsvBits(not opcode.iscontrol(), False, False)


_COMPRESSED_FRAMES = _CompressedFrames()


class _Assembly:
    """A frame decoder of wsproto's, and the message that its frames are making.

    Text is checked as it comes, so that a bad byte fails the connection when it is read, not when
    its message is complete (section 8.1). The bytes are kept and decoded at the end: no other form
    takes as little room where a peer sends one byte at a time.
    """

    __slots__ = (
        "_blocks",
        "_decoder",
        "_fragments",
        "_inflater",
        "_limits",
        "_make_inflater",
        "_opcode",
        "_size",
        "_tail",
        "_utf8",
        "_wire_bytes",
        "closed",
    )

    def __init__(self, limits: FrameLimits, make_inflater: Callable[[float], MessageInflater] | None) -> None:
        self._limits = limits
        self._make_inflater = make_inflater
        self._decoder = FrameDecoder(False, [_COMPRESSED_FRAMES] if make_inflater else [])
        self.closed = False
        self._opcode: Opcode | None = None  # of the message in progress, None between messages
        self._blocks: list[bytes] = []
        self._tail = bytearray()  # what came after the last whole block
        self._size = 0
        self._utf8: IncrementalDecoder | None = None
        self._inflater: MessageInflater | None = None
        self._fragments = 0
        self._wire_bytes = 0

    @property
    def idle(self) -> bool:
        """No frame and no message has begun."""
        return self._opcode is None and self._decoder.header is None and not self._decoder.buffer

    def read(self, data: bytes, at: int, items: list[Item], until_idle: bool) -> int:
        """Read `data` from `at` on; return how far it was used. Raises ParseFailed."""
        decoder = self._decoder
        while at < len(data):
            piece = data[at : at + _PIECE_BYTES]
            decoder.receive_bytes(piece)
            at += len(piece)
            while self._read_frame(items):
                if self.closed:
                    return len(data)
                if until_idle and self._opcode is None and decoder.header is None:
                    # What wsproto has not used is the end of this piece: before it, a frame was
                    # waiting for bytes.
                    unused = len(decoder.buffer)
                    decoder.buffer.buffer.clear()
                    return at - unused
        return at

    def _read_frame(self, items: list[Item]) -> bool:
        """Read a frame, or the part of it that is here; False when there is nothing to read."""
        decoder = self._decoder
        if decoder.header is None:
            if not decoder.parse_header():
                return False
            self._begin_frame()
        frame = decoder.process_buffer()
        if frame is None:
            return False
        payload = frame.payload
        assert isinstance(payload, bytes)
        match frame.opcode:
            case Opcode.PING:
                items.append(Ping(payload))
            case Opcode.PONG:
                items.append(PONG)
            case Opcode.CLOSE:
                items.append(_parse_close(payload))
                self.closed = True
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONTINUATION:
                last = frame.frame_finished and frame.message_finished
                self._add_payload(payload, last)
                if last:
                    items.append(self._finish_message())
            case _:
                assert_never(frame.opcode)
        return True

    def _begin_frame(self) -> None:
        """Judge a frame by its header, before any of its payload is kept."""
        header = self._decoder.header
        assert header is not None
        if header.opcode.iscontrol():
            return  # wsproto has held it to section 5.5
        if (header.opcode is Opcode.CONTINUATION) is (self._opcode is None):
            raise ParseFailed("a fragment out of order")
        if self._opcode is None:
            self._begin_message(header.opcode, compressed=header.rsv.rsv1)
        elif header.rsv.rsv1:
            raise ParseFailed("RSV1 on a continuation")  # RFC 7692, section 6.1
        self._fragments += 1
        if self._fragments > self._limits.fragments:
            raise ParseFailed("too many fragments", CloseReason.MESSAGE_TOO_BIG)
        self._wire_bytes += header.payload_len
        bound = self._limits.message_bytes
        if self._inflater is not None:
            # Data that does not compress grows a little, and each flush adds five bytes.
            bound = bound * 1.125 + 1024
        if self._wire_bytes > bound:
            raise ParseFailed("message too big", CloseReason.MESSAGE_TOO_BIG)

    def _begin_message(self, opcode: Opcode, compressed: bool) -> None:
        if opcode is Opcode.TEXT:
            self._utf8 = _Utf8Decoder()
        elif self._limits.binary:
            self._utf8 = None
        else:
            raise ParseFailed("binary is not supported", CloseReason.UNSUPPORTED_DATA)
        self._opcode = opcode
        self._fragments = self._wire_bytes = self._size = 0
        if compressed and self._make_inflater is not None:
            self._inflater = self._make_inflater(self._limits.message_bytes)

    def _add_payload(self, payload: bytes, last: bool) -> None:
        if self._inflater is None:
            self._add_bytes(payload)
        else:
            for piece in self._inflater.inflate(payload, last):
                self._add_bytes(piece)
        if last and self._utf8 is not None:
            self._check_utf8(b"", last=True)

    def _add_bytes(self, data: bytes) -> None:
        # Only an inflated message can be over here, the others are judged by their headers. What
        # still fits is checked first, so that the code does not depend on how the bytes were cut.
        room = self._limits.message_bytes - self._size
        over = len(data) > room
        if over:
            data = data[: int(room)]
        if self._utf8 is not None:
            self._check_utf8(data, last=False)
        if over:
            raise ParseFailed("message too big", CloseReason.MESSAGE_TOO_BIG)
        self._size += len(data)
        self._tail += data
        if len(self._tail) >= _BLOCK_BYTES:
            self._blocks.append(bytes(self._tail))
            self._tail = bytearray()

    def _check_utf8(self, data: bytes, last: bool) -> None:
        assert self._utf8 is not None
        try:
            self._utf8.decode(data, last)
        except UnicodeDecodeError:
            raise ParseFailed(_NOT_UTF8, CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None

    def _finish_message(self) -> str | bytes:
        message = b"".join((*self._blocks, self._tail))
        binary = self._opcode is Opcode.BINARY
        self._opcode = self._utf8 = self._inflater = None
        self._blocks = []
        self._tail = bytearray()
        return message if binary else message.decode()


def _parse_close(payload: bytes) -> CloseReceived:
    """Read the body of a Close frame (sections 5.5.1 and 7.4). Raises ParseFailed."""
    if not payload:
        return CloseReceived(None, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or code not in _CLOSE_CODES:
        raise ParseFailed("a close code that may not be sent")
    try:
        return CloseReceived(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ParseFailed("close reason is not UTF-8", CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None


def _unmask(payload: bytes, mask: bytes) -> bytes | bytearray:
    """Undo the client's masking (section 5.3)."""
    length = len(payload)
    if length > _XOR_INT_BYTES:
        return XorMaskerSimple(mask).process(bytearray(payload))
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")


def frame_header(first: int, length: int) -> bytes:
    """Return an unmasked frame's header; `first` is FIN, RSV and opcode (section 5.2)."""
    if length <= _SHORT_BYTES:
        return bytes((first, length))
    if length < 0x10000:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


_SHORT_TEXT_HEADERS = tuple(frame_header(_TEXT_FIN, length) for length in range(_SHORT_BYTES + 1))


def text_frame(text: str) -> bytes:
    """Return a text message as one frame. Raises UnicodeEncodeError for a lone surrogate."""
    payload = text.encode()
    length = len(payload)
    if length <= _SHORT_BYTES:
        return _SHORT_TEXT_HEADERS[length] + payload
    return frame_header(_TEXT_FIN, length) + payload


def binary_frame(data: bytes) -> bytes:
    """Return a binary message as one frame."""
    return frame_header(0x80 | Opcode.BINARY, len(data)) + data


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping. Raises ValueError for a payload over 125 bytes (section 5.5)."""
    return _control_frame(Opcode.PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping with this payload. Raises ValueError for one over 125 bytes."""
    return _control_frame(Opcode.PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a Close frame; without a code it has no body.

    The reason is cut to the 123 bytes of UTF-8 that fit, between characters; a lone surrogate
    becomes `?`, for a close must not fail. Raises ValueError for a code that may not be sent
    (section 7.4) and for a reason without a code.
    """
    if code is None:
        if reason:
            raise ValueError("a close reason needs a close code")
        return _control_frame(Opcode.CLOSE, b"")
    if code not in _CLOSE_CODES:
        raise ValueError(f"close code {code} may not be sent")
    encoded = reason.encode(errors="replace")[: _SHORT_BYTES - 2]
    body = code.to_bytes(2, "big") + encoded.decode(errors="ignore").encode()
    return _control_frame(Opcode.CLOSE, body)


def _control_frame(opcode: Opcode, payload: bytes) -> bytes:
    if len(payload) > _SHORT_BYTES:
        raise ValueError("a control frame carries at most 125 bytes")
    return frame_header(0x80 | opcode, len(payload)) + payload


join_frames: Callable[[Sequence[bytes]], bytes] = b"".join
"""Frames as one run of bytes for the socket."""
