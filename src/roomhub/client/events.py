"""What an ``async for event in chat`` gives: small immutable objects, one class for each kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from roomhub.client.errors import RequestRefused

__all__ = [
    "Changed",
    "Connected",
    "DirectMessage",
    "Disconnected",
    "Draining",
    "Event",
    "Failed",
    "Joined",
    "Kicked",
    "Left",
    "Member",
    "Message",
    "Missed",
    "Restarted",
    "Sent",
    "Shout",
    "Typing",
]


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a room.

    Attributes:
        user: who, as an identity: compare this.
        username: the same for people to read.
        devices: how many connections the user has in the room.
        meta: what the user tells of itself there.
    """

    user: str
    username: str
    devices: int = 1
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """Somebody said something in a room.

    Attributes:
        room: where.
        user: who, as an identity.
        username: the same for people to read.
        content: what.
        epoch: one life of the room's log; offsets of two epochs do not compare.
        offset: the place in it, from 1.
        ts_ms: when, Unix time in milliseconds; it never falls within a room.
    """

    room: str
    user: str
    username: str
    content: str
    epoch: str
    offset: int
    ts_ms: int


@dataclass(frozen=True, slots=True)
class DirectMessage:
    """Somebody said something to this user, or this user did on another device.

    Attributes:
        to: the user it is for.
        user: who said it, as an identity.
        username: the same for people to read.
        content: what.
        epoch: one life of this user's mailbox; offsets of two epochs do not compare.
        offset: the place in it, from 1.
        ts_ms: when, Unix time in milliseconds.
    """

    to: str
    user: str
    username: str
    content: str
    epoch: str
    offset: int
    ts_ms: int


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a message that was sent stands.

    Attributes:
        room: its room; ``@`` and the addressee for a direct message.
        epoch: of that room's log.
        offset: its place in it.
        ts_ms: when it got there, Unix time in milliseconds.
        is_repeat: its key had been said before: this is where that one stands.
    """

    room: str
    epoch: str
    offset: int
    ts_ms: int
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """A user came into a room: this one too."""

    room: str
    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """A user left a room; ``reason`` is "" if it was the user's own wish or connection."""

    room: str
    member: Member
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """A member has another number of devices, or tells something else of itself."""

    room: str
    member: Member


@dataclass(frozen=True, slots=True)
class Typing:
    """A user began to type, or no longer does. Who leaves types no more, without being mentioned."""

    room: str
    user: str
    username: str
    is_typing: bool


@dataclass(frozen=True, slots=True)
class Shout:
    """What a client told whoever was there with ``Room.shout``."""

    room: str
    user: str
    username: str
    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages of a room that this client will not get.

    Attributes:
        room: where.
        epoch: of which life of the log.
        first: the first offset that is missing.
        last: the last one.
        reason: "slow", "expired", "epoch" or "lost" as on the page of the protocol; "unknown" where the server left
            something out without a word.
    """

    room: str
    epoch: str
    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """A room's log began anew: what this client knew of it, offsets above all, says nothing any more."""

    room: str
    epoch: str


@dataclass(frozen=True, slots=True)
class Kicked:
    """This client is in a room no more, against its will; the connection stays.

    Attributes:
        room: which.
        code: 4004, 4009 or another of the close codes; for a room that could not be joined again after a
            reconnect that of the error, such as 403.
        reason: a moderator's word, or the name of the code.
        until_s: when a ban ends, Unix time in seconds; None where it does not, or there is none.
    """

    room: str
    code: int
    reason: str
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a connection, at first or again.

    Attributes:
        user: who the server takes this client for.
        username: the same for people to read.
        resumed: an earlier session goes on. If not, this is the first, or the server knew no more of it; the rooms are
            joined all the same.
    """

    user: str
    username: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended; the client comes back by itself.

    Attributes:
        code: of the close frame or of HTTP, None where the connection broke.
        reason: its text, or what broke.
        retry_in_s: when the next try is, in seconds.
    """

    code: int | None
    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Draining:
    """The server stops in so many seconds. The client stays until then, and comes back when the server says."""

    in_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The server refused what nobody waits for an answer of."""

    error: RequestRefused


Event: TypeAlias = (
    Message
    | DirectMessage
    | Joined
    | Left
    | Changed
    | Typing
    | Shout
    | Missed
    | Restarted
    | Kicked
    | Connected
    | Disconnected
    | Draining
    | Failed
)
