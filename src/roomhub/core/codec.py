"""Dialects: what a room's messages look like as text, and what a peer's text means.

A *codec* is one dialect. A *lane* is a codec and a framing, that is, everything which changes the bytes on the wire.
Clients in the same lane get the same bytes, so each message is encoded and framed once a lane and never once a member.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Any, Protocol, TypeAlias, cast

from roomhub.core.message import Message
from roomhub.core.requests import Chat, Request

__all__ = [
    "Chunk",
    "Codec",
    "Frame",
    "Lane",
    "PlainCodec",
    "TalkingCodec",
    "text_lane",
    "wire_bytes",
]

Frame: TypeAlias = bytes | str
"""One framed message: bytes for a socket, text where the transport frames by itself."""
Chunk: TypeAlias = bytes | tuple[str, ...]
"""What one pull gives: frames joined into what the transport writes at once. Falsy when there is nothing."""


def wire_bytes(data: Frame | Chunk) -> int:
    """How many bytes it is on the wire: of text, its UTF-8.

    Raises:
        UnicodeEncodeError: text with a lone surrogate, which has none.
    """
    if isinstance(data, bytes):
        return len(data)
    if isinstance(data, str):
        return len(data) if data.isascii() else len(data.encode())
    return sum(map(wire_bytes, data))


class Codec(Protocol):
    """One dialect. Both methods are pure, and ``decode`` never raises for what a peer sent."""

    @property
    def name(self) -> str:
        """The WebSocket subprotocol, or ``"plain"``."""
        ...

    def decode(self, text: str) -> Request:
        """What a peer means by one text message. Its texts must have UTF-8; JSON, say, can spell a lone surrogate."""
        ...

    def encode(self, message: Message) -> str:
        """The message's text in this dialect, or ``""`` where the dialect has no word for its kind."""
        ...


class TalkingCodec(Codec, Protocol):
    """A dialect in which requests are answered: its clients say hello and get replies, as v1 has it."""

    def notice(self, kind: str, fields: Mapping[str, Any]) -> str:
        """A message of this type with these fields; what ``items`` made goes in as it is."""
        ...

    def items(self, items: Sequence[Mapping[str, Any]]) -> str:
        """A list, rendered once for many messages."""
        ...


class PlainCodec:
    """The wire of the Go tutorial: text in is content as it is, JSON of exactly four string keys out."""

    __slots__ = ()
    name = "plain"

    def decode(self, text: str) -> Request:
        return Chat(None, text)

    def encode(self, message: Message) -> str:
        if message.notice is not None:
            return ""
        tail = _plain_tail(message.room, message.username)
        return f'{{"type":"{message.kind}","content":{quote(message.content)}{tail}'


@lru_cache(maxsize=8192)
def _plain_tail(room: str, username: str) -> str:
    # The half of a frame that a member's messages share; rendering it each time was 9 % of the inbound path.
    return f',"room":{quote(room)},"username":{quote(username)}}}'


class Lane:
    """A codec and a framing. Lanes are compared by identity: make one and share it.

    Attributes:
        talker: the codec, if its clients are answered (``TalkingCodec``).

    Args:
        codec: the dialect.
        frame: one encoded message to one frame.
        join: frames to the chunk that one write takes; of no frames, something falsy.
        direct: frames what goes to one client alone; ``frame`` unless given (compressing for one does not pay).
        v1: whether the ``v1_`` limits apply.
    """

    __slots__ = ("codec", "direct", "empty", "frame", "join", "nothing", "talker", "v1")

    def __init__(
        self,
        codec: Codec,
        frame: Callable[[str], Frame],
        join: Callable[[Sequence[Frame]], Chunk],
        *,
        direct: Callable[[str], Frame] | None = None,
        v1: bool = False,
    ) -> None:
        self.codec: Codec = codec
        self.talker: TalkingCodec | None = cast(TalkingCodec, codec) if hasattr(codec, "notice") else None
        self.frame: Callable[[str], Frame] = frame
        self.join: Callable[[Sequence[Frame]], Chunk] = join
        self.direct: Callable[[str], Frame] = direct or frame
        self.v1: bool = v1
        self.nothing: Chunk = join(())
        self.empty: Frame = b"" if isinstance(self.nothing, bytes) else ""

    def __repr__(self) -> str:
        return f"<Lane {self.codec.name}>"


def _same(text: str) -> Frame:
    return text


def _texts(frames: Sequence[Frame]) -> Chunk:
    return tuple(frame for frame in frames if isinstance(frame, str) and frame)


def text_lane(codec: Codec, *, v1: bool = False) -> Lane:
    """A lane whose chunks are tuples of message texts: for transports that frame by themselves, and for tests."""
    return Lane(codec, _same, _texts, v1=v1)
