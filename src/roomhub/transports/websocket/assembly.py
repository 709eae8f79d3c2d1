"""Messages out of frames: the careful way of reading, through wsproto's ``FrameDecoder``.

wsproto parses and unmasks; ``Assembly`` makes messages of its frames and holds the limits. wsproto's own layer above
``FrameDecoder`` is not used: it inflates without bound, loses track of a compressed message at a ping, bounds neither
messages nor fragments, and refuses close code 1014.
"""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, assert_never, final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

__all__ = [
    "CLOSE_CODES",
    "INVALID_PAYLOAD",
    "PONG",
    "Assembly",
    "CloseReceived",
    "Failed",
    "FrameLimits",
    "Item",
    "MessageInflater",
    "Ping",
    "Pong",
]

# wsproto gets what was read in pieces: it makes about five copies of what it works on, and the peak
# while inflating is to stay under `message_bytes` + 64 KiB, of which zlib itself takes 42.
_PIECE_BYTES = 4096
_INFLATED_PIECE_BYTES = 1024
# A message in progress is kept in blocks: one growing array would be up to an eighth too large.
_BLOCK_BYTES = 8192

INVALID_PAYLOAD = "invalid payload data"
_Utf8Decoder = getincrementaldecoder("utf-8")

# Those that a Close frame may carry, either way: section 7.4, and IANA's registry for 1012 to 1014.
# 1004, 1005, 1006 and 1015 are reserved, the rest up to 2999 is unassigned.
CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)))


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


class _CompressedFrames(Extension):
    """Lets RSV1 through on data frames (RFC 7692, section 6); `Assembly` does the rest.

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


class Assembly:
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

    def __init__(
        self,
        limits: FrameLimits,
        make_inflater: Callable[[float], MessageInflater] | None,
        *,
        from_server: bool = False,
    ) -> None:
        self._limits = limits
        self._make_inflater = make_inflater
        self._decoder = FrameDecoder(from_server, [_COMPRESSED_FRAMES] if make_inflater else [])
        self.closed: bool = False
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
        most = _INFLATED_PIECE_BYTES if self._make_inflater else _PIECE_BYTES
        while at < len(data):
            piece = data[at : at + most]
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
            raise ParseFailed(INVALID_PAYLOAD, CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None

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
    if len(payload) < 2 or code not in CLOSE_CODES:
        raise ParseFailed("a close code that may not be sent")
    try:
        return CloseReceived(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ParseFailed(INVALID_PAYLOAD, CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None
