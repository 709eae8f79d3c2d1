"""One WebSocket as its client sees it, without I/O: bytes in, messages out, and bytes to send.

    wire = Wire(address, subprotocol)
    send(wire.pull())                 # the request; ask again after each call below
    for item in wire.feed(received):  # b"" for the end of the stream
        ...                           # Opened, texts, at last one Ended

The random bytes of handshake and masks come from the operating system: they are no part of what a test decides.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from roomhub.client.backoff import Ended
from roomhub.transports.websocket.frames import (
    PONG,
    CloseReceived,
    Failed,
    FrameLimits,
    Ping,
    UnmaskedFrameReader,
    close_frame,
    masked,
    ping_frame,
    pong_frame,
    text_frame,
)
from roomhub.transports.websocket.opening import Address, Declined, Opened, Opening

__all__ = ["Item", "Wire"]

MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The longest message taken from a server: a roster of 100,000 users has half of that."""


Item: TypeAlias = str | Opened | Ended


class Wire:
    """The protocol state of one connection.

    Attributes:
        is_open: the handshake is done and neither side has closed.
        has_ended: the stream can be closed; nothing more comes of it.
        is_torn: set by a driver whose write was cut short: part of a frame is out, so nothing can follow it.
    """

    def __init__(self, address: Address, subprotocol: str) -> None:
        self.is_open: bool = False
        self.has_ended: bool = False
        self.is_torn: bool = False
        self._subprotocol = subprotocol
        self._opening: Opening | None = Opening(address, subprotocol, secrets.token_bytes(16))
        self._reader = UnmaskedFrameReader(FrameLimits(MESSAGE_BYTES, 65_536, binary=False))
        self._out = bytearray(self._opening.request)
        self._pong: bytes | None = None  # the newest ping's alone: RFC 6455 section 5.5.3 allows it

    def pull(self) -> bytes:
        """What is to be sent now."""
        if self._pong is not None:
            self._add(pong_frame(self._pong))
            self._pong = None
        out = bytes(self._out)
        self._out.clear()
        return out

    def say(self, text: str) -> None:
        """Send a message. Ignored where the connection is not open. Raises UnicodeEncodeError for a lone surrogate."""
        if self.is_open:
            self._add(text_frame(text))

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self.is_open:
            self._add(ping_frame())

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, once; ``Ended`` follows when the server has answered."""
        if self.is_open:
            self.is_open = False
            self._add(close_frame(code, reason))

    def feed(self, data: bytes) -> Iterator[Item]:
        """Yield what these bytes complete."""
        if self.has_ended:
            return
        if self._opening is not None:
            outcome = self._opening.feed(data)
            if outcome is None and data:
                return
            if not isinstance(outcome, Opened):
                yield self._declined(outcome or Declined(0, "the connection ended before the handshake did"))
                return
            self._opening = None
            if outcome.subprotocol != self._subprotocol:
                error = f"the server does not speak {self._subprotocol}"
                yield self._declined(Declined(101, error))
                return
            self.is_open = True
            yield outcome
            if not outcome.rest:
                return
            data = outcome.rest
        if not data:
            yield self._ended(None, "the connection broke")
            return
        yield from self._messages(self._reader.feed(data))

    def _messages(self, items: Sequence[object]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, str):
                if self.is_open:
                    yield item
            elif isinstance(item, Ping):
                if self.is_open:
                    self._pong = item.payload
            elif isinstance(item, CloseReceived):
                self.close(1000)
                yield self._ended(item.code, item.reason)
            elif isinstance(item, Failed):
                self.close(item.code, item.reason)
                yield self._ended(item.code, item.reason)
            else:
                assert item is PONG

    def _declined(self, declined: Declined) -> Ended:
        self.has_ended = True
        status = declined.status or None
        return Ended(None, declined.error, status, declined.retry_after_s)

    def _ended(self, code: int | None, reason: str) -> Ended:
        self.is_open = False
        self.has_ended = True
        self._pong = None
        return Ended(code, reason)

    def _add(self, frame: bytes) -> None:
        self._out += masked(frame, secrets.token_bytes(4))
