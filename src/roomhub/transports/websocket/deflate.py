"""permessage-deflate (RFC 7692) without context takeover.

Every message stands alone, in both directions. So one compressor serves a whole lane and its frames
can go to any connection of that lane, and a reader holds zlib's state (7 to 40 KiB) only while a
compressed message is coming in. Inflating is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from functools import cache, partial

from wsproto.frame_protocol import CloseReason, ParseFailed

from .frames import INVALID_PAYLOAD, binary_frame, frame_header, text_frame

_TEXT_FIN_RSV1 = 0xC1
_BINARY_FIN_RSV1 = 0xC2

# What a flush ends with and a frame leaves out (section 7.2.1).
_FLUSH_TAIL = b"\x00\x00\xff\xff"
# The reader puts it back and adds an empty block that is marked as the last. zlib finds that one
# only after a whole message: one cut short would otherwise pass as a shorter message.
_END = _FLUSH_TAIL + b"\x01\x00\x00\xff\xff"

# Shorter text never gains: there is nothing in it to refer back to.
_WORTH_BYTES = 32

# Inflated bytes come in pieces of at most so many, so that a bomb is noticed while it is small.
_PIECE_BYTES = 1024


class Deflated:
    """Makes compressed frames for every connection of a lane.

    `window_bits`: 9 to 15, what was negotiated as `server_max_window_bits`; 12 is 4 KiB. `level` is
    zlib's. For one thread only.
    """

    __slots__ = ("_compressor",)

    def __init__(self, window_bits: int = 12, level: int = 6) -> None:
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)

    def frame(self, text: str) -> bytes:
        """Return a text message as one frame, compressed where that is shorter.

        Raises UnicodeEncodeError for a lone surrogate.
        """
        compressed = self._compress(text.encode())
        if compressed is None:
            return text_frame(text)
        return frame_header(_TEXT_FIN_RSV1, len(compressed)) + compressed

    def binary_frame(self, data: bytes) -> bytes:
        """Return a binary message as one frame, compressed where that is shorter."""
        compressed = self._compress(data)
        if compressed is None:
            return binary_frame(data)
        return frame_header(_BINARY_FIN_RSV1, len(compressed)) + compressed

    def _compress(self, payload: bytes) -> bytes | None:
        if len(payload) < _WORTH_BYTES:
            return None
        # A full flush makes the compressor forget the message, so that the next one does not refer
        # to it: a connection may not have had it.
        compressor = self._compressor
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH)
        length = len(compressed) - len(_FLUSH_TAIL)
        return compressed[:length] if length < len(payload) else None


class Inflater:
    """Inflates one message, never far past the most bytes that it may have."""

    __slots__ = ("_room", "_zlib")

    def __init__(self, window_bits: int, message_bytes: float) -> None:
        self._zlib = zlib.decompressobj(-window_bits)
        self._room = message_bytes

    def inflate(self, data: bytes, last: bool) -> Iterator[bytes]:
        """Yield what `data` inflates to; with `last` it is the message's end.

        At the first byte over `message_bytes` the caller stops asking. Data that is not deflate,
        or ends in the middle, raises ParseFailed with 1007, as wsproto and Node's ws do: RFC 7692
        names no code. Bad UTF-8 fails alike, so which is found first does not show.
        """
        rest = yield from self._inflate(data)
        # A sender may mark its last block as such, and then adds the zeros of an empty one (section
        # 7.2.3.4). Anything else there would be lost without a word.
        if rest.strip(b"\x00"):
            raise _bad_data()
        if last:
            yield from self._inflate(_END)
            if not self._zlib.eof:
                raise _bad_data()

    def _inflate(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Yield what `data` inflates to; return what of it follows the deflate stream's end."""
        inflater = self._zlib
        while not inflater.eof:
            most, later = 1, b""
            try:
                if self._room >= 1:
                    most = int(min(_PIECE_BYTES, self._room))
                    piece = inflater.decompress(data, most)
                else:
                    # One call can find a byte over the limit and bad data behind it, and then tells
                    # of the second only. So that the cuts of the reads do not matter, take first
                    # what zlib holds already, then single bytes.
                    piece = inflater.decompress(b"", 1)
                    later = data
                    if not piece:
                        piece, later = inflater.decompress(data[:1], 1), data[1:]
            except zlib.error:
                raise _bad_data() from None
            self._room -= len(piece)
            if piece:
                yield piece
            data = (inflater.unused_data if inflater.eof else inflater.unconsumed_tail) + later
            if not data and len(piece) < most:
                break
        return data


def _bad_data() -> ParseFailed:
    return ParseFailed(INVALID_PAYLOAD, CloseReason.INVALID_FRAME_PAYLOAD_DATA)


@cache
def bounded_inflater(window_bits: int = 15) -> Callable[[float], Inflater]:
    """Return what a `FrameReader` makes its inflaters with; the same object for all connections.

    `window_bits`: 9 to 15, what was negotiated as `client_max_window_bits`; 15 where nothing was.
    """
    return partial(Inflater, window_bits)
