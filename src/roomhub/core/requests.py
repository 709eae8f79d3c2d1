"""What a peer wants: the values that a codec makes of its messages."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from roomhub.core.message import Position
from roomhub.core.protocol import ModAction

__all__ = [
    "Auth",
    "Chat",
    "DirectMessage",
    "Fault",
    "Hello",
    "History",
    "Id",
    "Join",
    "Leave",
    "Members",
    "Moderate",
    "Ping",
    "Presence",
    "Request",
    "Resume",
    "Shout",
    "Typing",
]

Id: TypeAlias = str | int
"""What a peer calls a request of its own; the reply carries it. None asks for no reply."""


class Chat:
    """Say something; ``room`` None means the room the peer came into first. A plain class: every message is one."""

    __slots__ = ("content", "id", "key", "room")

    def __init__(self, room: str | None, content: str, id: Id | None = None, key: str | None = None) -> None:
        self.room: str | None = room
        self.content: str = content
        self.id: Id | None = id
        self.key: str | None = key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chat):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Chat.__slots__)

    def __repr__(self) -> str:
        return f"Chat({self.room!r}, {self.content!r}, id={self.id!r}, key={self.key!r})"


class Join(NamedTuple):
    """Enter a room: with what was said ``since``, the last ``history`` messages, the roster if ``presence``."""

    room: str
    id: Id | None = None
    since: Position | None = None
    history: int = 0
    presence: bool = False
    meta: Mapping[str, Any] | None = None


class Leave(NamedTuple):
    """Leave a room."""

    room: str
    id: Id | None = None


class Resume(NamedTuple):
    """Go on with an earlier session: its secret, and the last position the peer has of each of its rooms."""

    session: str
    rooms: Mapping[str, Position]


class Hello(NamedTuple):
    """The first thing said."""

    id: Id
    token: str | None = None
    client: str | None = None
    resume: Resume | None = None


class Shout(NamedTuple):
    """An event for whoever is in the room now (the wire's ``event``); never in its history."""

    room: str
    name: str
    content: str
    id: Id | None = None


class Typing(NamedTuple):
    """Somebody begins or stops typing; ``state`` is "start" or "stop"."""

    room: str
    state: str
    id: Id | None = None


class Presence(NamedTuple):
    """Replace the peer's metadata in a room."""

    room: str
    meta: Mapping[str, Any]
    id: Id | None = None


class DirectMessage(NamedTuple):
    """Say something to one user, on all of their connections (the wire's ``dm``)."""

    to: str
    content: str
    id: Id | None = None
    key: str | None = None


class History(NamedTuple):
    """A page of a room's log: after ``since``, oldest first, or before the offset ``before``, newest first."""

    room: str
    id: Id
    since: Position | None = None
    before: int | None = None
    limit: int | None = None


class Members(NamedTuple):
    """Who is in a room."""

    room: str
    id: Id


class Moderate(NamedTuple):
    """Kick, ban, unban, mute or unmute (``action``) a user in a room, or everywhere (the wire's ``mod``)."""

    id: Id
    action: ModAction
    user: str
    room: str | None = None
    for_ms: int | None = None
    reason: str = ""


class Auth(NamedTuple):
    """A new token in place of the one before."""

    id: Id
    token: str


class Ping(NamedTuple):
    """A sign of life that wants one back."""

    id: Id | None = None


class Fault(NamedTuple):
    """What was said makes no sense: the ``error`` it gets (a name of ``errors.ERRORS``), and the ``field`` at fault."""

    error: str
    message: str
    field: str = ""
    id: Id | None = None


Request: TypeAlias = (
    Chat
    | Join
    | Leave
    | Hello
    | Shout
    | Typing
    | Presence
    | DirectMessage
    | History
    | Members
    | Moderate
    | Auth
    | Ping
    | Fault
)
