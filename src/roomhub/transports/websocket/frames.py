"""WebSocket frames after the handshake, for both sides, without I/O (RFC 6455, sections 5 to 8).

`FrameReader` reads what clients send, which is masked; `UnmaskedFrameReader` what servers send. The functions make
frames as a server sends them, and `masked` makes a client's of any of them.

Reading has two ways that give the same items for every byte stream, however it is cut:

- directly: whole masked text, ping and pong frames, unfragmented, no RSV bit, while nothing is half
  read. That is nearly every frame of a chat, and it costs about 1 µs.
- through `assembly.py` and wsproto, for everything else. An `Assembly` exists only while a frame or a
  message is unfinished, so a reader at rest is one small object.

What a peer sends never raises: it ends the stream with a `Failed` item that says how to close.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed, XorMaskerSimple

from roomhub.transports.websocket.assembly import (
    CLOSE_CODES,
    INVALID_PAYLOAD,
    PONG,
    Assembly,
    CloseReceived,
    Failed,
    FrameLimits,
    Item,
    MessageInflater,
    Ping,
    Pong,
)

__all__ = [
    "INVALID_PAYLOAD",
    "PONG",
    "CloseReceived",
    "Failed",
    "FrameLimits",
    "FrameReader",
    "Item",
    "MessageInflater",
    "Ping",
    "Pong",
    "UnmaskedFrameReader",
    "binary_frame",
    "close_frame",
    "frame_header",
    "masked",
    "ping_frame",
    "pong_frame",
    "text_frame",
]

_TEXT_FIN = 0x80 | Opcode.TEXT
_PING_FIN = 0x80 | Opcode.PING
_PONG_FIN = 0x80 | Opcode.PONG
_MASKED = 0x80
_MASK_BYTES = 4
_SHORT_BYTES = 125  # the longest payload whose length stands in the second byte, section 5.2

# Up to here XOR of two big integers unmasks faster, above it wsproto's translate tables do
# (64 bytes: 0.36 against 0.71 µs; 512: 1.2 both; 4 KiB: 7.6 against 4.8).
_XOR_INT_BYTES = 512


class FrameReader:
    """Turns the bytes of one connection into messages, control frames and at most one end.

    `inflater` makes a message's inflater where permessage-deflate was negotiated (`deflate.py` has
    one to share between connections); without it a compressed frame is an RSV bit, so 1002.
    """

    __slots__ = ("_assembly", "_direct", "_inflater", "_limits")

    def __init__(self, limits: FrameLimits, inflater: Callable[[float], MessageInflater] | None = None) -> None:
        self._limits = limits
        self._inflater = inflater
        self._assembly: Assembly | None = None
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
        return self._read(data)

    def _read(self, data: bytes) -> Sequence[Item]:
        items: list[Item] = []
        at = 0
        if self._assembly is not None:
            at = self._read_carefully(data, at, items, until_idle=True)
        if self._direct:
            at = self._read_directly(data, at, items)
        # What stopped the direct reading takes the rest of the read with it: changing over for each
        # frame would let a peer that alternates fragments and texts make us copy the rest every time.
        if self._direct and at < len(data):
            self._read_carefully(data, at, items, until_idle=False)
        return items

    def _read_directly(self, data: bytes, at: int, items: list[Item]) -> int:
        """Read whole text, ping and pong frames from `at` on; return where another kind starts."""
        end = len(data)
        message_bytes = self._limits.message_bytes
        while end - at >= 6:
            first = data[at]
            length = data[at + 1] - _MASKED
            mask_at = at + 2
            if first != _TEXT_FIN:
                if first not in (_PING_FIN, _PONG_FIN):
                    break
                start = mask_at + _MASK_BYTES
                if not 0 <= length <= _SHORT_BYTES or start + length > end:
                    break
                at = start + length
                items.append(PONG if first == _PONG_FIN else Ping(bytes(_unmask(data[start:at], data[mask_at:start]))))
                continue
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
            assembly = self._assembly = self._assemble()
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

    def _assemble(self) -> Assembly:
        return Assembly(self._limits, self._inflater)

    def _not_utf8(self) -> Failed:
        self._direct = False
        return Failed(CloseReason.INVALID_FRAME_PAYLOAD_DATA.value, INVALID_PAYLOAD)


class UnmaskedFrameReader(FrameReader):
    """The same for the bytes that a server sends: its frames have no mask, and one that has is 1002 (section 5.1)."""

    __slots__ = ()

    def feed(self, data: bytes) -> Sequence[Item]:
        return self._read(data)

    def _read_directly(self, data: bytes, at: int, items: list[Item]) -> int:
        """Read whole text frames of up to 64 KiB from `at` on; return where another kind starts."""
        end = len(data)
        message_bytes = self._limits.message_bytes
        while end - at >= 2 and data[at] == _TEXT_FIN:
            length, start = data[at + 1], at + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[at + 2 : start], "big")
                if length <= _SHORT_BYTES:  # cut, or not the shortest encoding: wsproto will see
                    break
            elif length > _SHORT_BYTES:
                break
            if start + length > end or length > message_bytes:
                break
            at = start + length
            try:
                items.append(data[start:at].decode())
            except UnicodeDecodeError:
                items.append(self._not_utf8())
                break
        return at

    def _assemble(self) -> Assembly:
        return Assembly(self._limits, self._inflater, from_server=True)


def _unmask(payload: bytes, mask: bytes) -> bytes | bytearray:
    """Undo the client's masking, which is to mask it again (section 5.3)."""
    length = len(payload)
    if length > _XOR_INT_BYTES:
        return XorMaskerSimple(mask).process(bytearray(payload))
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")


def masked(frame: bytes, mask: bytes) -> bytes:
    """Return a frame of the functions below as a client has to send it.

    `mask` is 4 bytes that nobody can foretell, new for each frame (section 5.3).
    """
    start = 2 + {126: 2, 127: 8}.get(frame[1], 0)
    return b"".join((frame[:1], bytes((frame[1] | _MASKED,)), frame[2:start], mask, _unmask(frame[start:], mask)))


def frame_header(first: int, length: int) -> bytes:
    """Return an unmasked frame's header; `first` is FIN, RSV and opcode (section 5.2)."""
    if length <= _SHORT_BYTES:
        return bytes((first, length))
    if length < 0x10000:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


_TEXT_HEADERS = tuple(frame_header(_TEXT_FIN, length) for length in range(1024))  # of nearly all that is said


def text_frame(text: str) -> bytes:
    """Return a text message as one frame. Raises UnicodeEncodeError for a lone surrogate."""
    payload = text.encode()
    length = len(payload)
    if length < len(_TEXT_HEADERS):
        return _TEXT_HEADERS[length] + payload
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
    if code not in CLOSE_CODES:
        raise ValueError(f"close code {code} may not be sent")
    encoded = reason.encode(errors="replace")[: _SHORT_BYTES - 2]
    body = code.to_bytes(2, "big") + encoded.decode(errors="ignore").encode()
    return _control_frame(Opcode.CLOSE, body)


def _control_frame(opcode: Opcode, payload: bytes) -> bytes:
    if len(payload) > _SHORT_BYTES:
        raise ValueError("a control frame carries at most 125 bytes")
    return frame_header(0x80 | opcode, len(payload)) + payload
