"""What is said in a room, and where it stands in the room's log."""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

__all__ = [
    "CHAT",
    "DM",
    "ONLINE_USERS",
    "PASSING",
    "PRESENCE",
    "USER_JOINED",
    "USER_LEFT",
    "Kind",
    "Message",
    "Notice",
    "Position",
    "Record",
]

Kind: TypeAlias = Literal["chat", "user_joined", "user_left", "online_users", "dm", "presence", "passing"]
# Strings, not an Enum: an Enum's ``.value`` costs more than the rest of rendering a short message.
CHAT: Final = "chat"
USER_JOINED: Final = "user_joined"
USER_LEFT: Final = "user_left"
ONLINE_USERS: Final = "online_users"
DM: Final = "dm"
PRESENCE: Final = "presence"
"""Who came and went, in v1's words: the message's ``notice``."""
PASSING: Final = "passing"
"""What only who is here and keeps up gets, typing for instance: the message's ``notice``."""

Notice: TypeAlias = tuple[str, Mapping[str, Any]]
"""A message of v1 that is no chat: its type and its fields."""


class Position(NamedTuple):
    """The place of a chat message in its room.

    Attributes:
        epoch: names one life of the room's log; offsets of different epochs do not compare.
        offset: 1 for the first message of an epoch, then rising by one.
    """

    epoch: str
    offset: int


Record: TypeAlias = tuple[str, str, str, int, int, int, float, str]
"""A logged message: (user, username, content, offset, ts_ms, what it counts in bytes, when in monotonic s, to whom).

A plain tuple of strings and numbers, since the garbage collector stops tracking those: 200,000 objects held in logs
would make every full collection a pause of 50 ms.
"""


class Message:
    """One message of a room. Treat it as immutable: every member's frame is made from the same object.

    Attributes:
        kind: what it is; the wire's ``type``.
        room: the room's name.
        user: the identity key of who said it, ``""`` for nobody.
        username: the name as that person spells it.
        content: the text.
        offset: its place in the room's epoch, 0 for what has none (all but chat and dm).
        ts_ms: Unix milliseconds, never falling within a room.
        epoch: the room's, of what has an offset.
        to: the user that a dm is for.
        notice: what it is in v1, of what only v1 has words for.
    """

    __slots__ = ("content", "epoch", "kind", "notice", "offset", "room", "to", "ts_ms", "user", "username")

    def __init__(
        self,
        kind: Kind,
        room: str,
        user: str,
        username: str,
        content: str,
        offset: int = 0,
        ts_ms: int = 0,
        *,
        epoch: str = "",
        to: str = "",
        notice: Notice | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.room: str = room
        self.user: str = user
        self.username: str = username
        self.content: str = content
        self.offset: int = offset
        self.ts_ms: int = ts_ms
        self.epoch: str = epoch
        self.to: str = to
        self.notice: Notice | None = notice

    def __repr__(self) -> str:
        return (
            f"Message({self.kind!r}, room={self.room!r}, user={self.user!r}, username={self.username!r}, "
            f"content={self.content!r}, offset={self.offset}, ts_ms={self.ts_ms})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Message.__slots__)
