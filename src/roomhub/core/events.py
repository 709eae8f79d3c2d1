"""Facts that go into the hub, in the past tense. One event is one fact; the hub never changes it.

``C`` is the transport's own handle for a connection: anything hashable, compared as a dict compares.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeAlias

from typing_extensions import TypeVar

from roomhub.core.codec import Lane
from roomhub.core.identity import Identity, Refusal
from roomhub.core.message import Message
from roomhub.core.storage import Loaded, Stored, StoreFailed

__all__ = [
    "Authenticated",
    "Authorized",
    "Blocked",
    "ClockSet",
    "Connected",
    "Denied",
    "Disconnected",
    "Event",
    "Heard",
    "Loaded",
    "Published",
    "Received",
    "Refused",
    "StoreFailed",
    "Stored",
    "Ticked",
    "Writable",
]

C_co = TypeVar("C_co", bound=Hashable, covariant=True)


class _OfClient(Generic[C_co]):
    __slots__ = ("client",)

    def __init__(self, client: C_co) -> None:
        self.client: C_co = client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r})"


class Connected(Generic[C_co]):
    """A connection is open and speaks its dialect.

    Args:
        client: the transport's handle.
        lane: how it is written to.
        username: its name; a bad one (``username_fault``) is refused. Its identity key is made of it.
        identity: who it is, if that is known; instead of ``username``. Where the hub ``authenticates``, a ``username``
            without one is taken as it is: the transport vouches for it.
        rooms: rooms to join at once.
        address: where it comes from, for the cap per address and the rate of joins; ``""`` has no cap.
        shares: the transport writes what ``Hub.share`` hands it; otherwise ``Hub.ready`` names the client and it pulls.
        secret: what the peer can resume its session with, if its dialect has sessions: text nobody can guess.
    """

    __slots__ = ("address", "client", "identity", "lane", "rooms", "secret", "shares", "username")

    def __init__(
        self,
        client: C_co,
        lane: Lane,
        username: str,
        rooms: Sequence[str] = (),
        *,
        address: str = "",
        shares: bool = False,
        secret: str = "",
        identity: Identity | None = None,
    ) -> None:
        self.client: C_co = client
        self.identity: Identity | None = identity
        self.lane: Lane = lane
        self.username: str = username
        self.rooms: Sequence[str] = rooms
        self.address: str = address
        self.shares: bool = shares
        self.secret: str = secret

    def __repr__(self) -> str:
        return f"Connected({self.client!r}, {self.username!r}, rooms={tuple(self.rooms)!r})"


class Received(Generic[C_co]):
    """One whole text message of a peer came in."""

    __slots__ = ("client", "text")

    def __init__(self, client: C_co, text: str) -> None:
        self.client: C_co = client
        self.text: str = text

    def __repr__(self) -> str:
        return f"Received({self.client!r}, {self.text!r})"


class Heard(_OfClient[C_co]):
    """The peer lives: a pong, a ping or a part of a message came in."""

    __slots__ = ()


class Blocked(_OfClient[C_co]):
    """The peer's transport took only a part of a write and now waits. Said again when some of the rest went out."""

    __slots__ = ()


class Writable(_OfClient[C_co]):
    """All that was handed to the transport is written; it can take more."""

    __slots__ = ()


class Disconnected(_OfClient[C_co]):
    """The connection is over, however it ended. The last fact about a client."""

    __slots__ = ()


class Authenticated:
    """The answer to ``Authenticate``: who it is, or is not. None: nobody can tell, or not in time."""

    __slots__ = ("outcome", "ref")

    def __init__(self, ref: Hashable, outcome: Identity | Refusal | None) -> None:
        self.ref: Hashable = ref
        self.outcome: Identity | Refusal | None = outcome

    def __repr__(self) -> str:
        return f"Authenticated({self.outcome!r})"


class Authorized(Generic[C_co]):
    """The answer to ``Authorize``: the client may join.

    Args:
        client, room: as asked.
        ref: that of the question; a late answer must not be taken for that to a later one. None fits any.
    """

    __slots__ = ("client", "ref", "room")

    def __init__(self, client: C_co, room: str, ref: Hashable = None) -> None:
        self.client: C_co = client
        self.room: str = room
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r}, {self.room!r})"


class Denied(Authorized[C_co]):
    """The answer to ``Authorize``: the client may not join."""

    __slots__ = ()


class Published:
    """The answer to ``Announce``: the message is a fact, perhaps rewritten; it takes its place in the room now."""

    __slots__ = ("message", "ref")

    def __init__(self, message: Message, ref: Hashable = None) -> None:
        self.message: Message = message
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"Published({self.message!r})"


class Refused:
    """The answer to ``Announce``: the message shall not be."""

    __slots__ = ("message", "ref")

    def __init__(self, message: Message, ref: Hashable = None) -> None:
        self.message: Message = message
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"Refused({self.message!r})"


class ClockSet:
    """The wall clock: ``unix_ms`` is the time that goes with this event's ``now``."""

    __slots__ = ("unix_ms",)

    def __init__(self, unix_ms: int) -> None:
        self.unix_ms: int = unix_ms

    def __repr__(self) -> str:
        return f"ClockSet({self.unix_ms})"


class Ticked:
    """Time has come: once a tick before anything is written, and when ``Hub.next_deadline`` is reached."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Ticked()"


Event: TypeAlias = (
    Connected[C_co]
    | Received[C_co]
    | Heard[C_co]
    | Blocked[C_co]
    | Writable[C_co]
    | Disconnected[C_co]
    | Authenticated
    | Authorized[C_co]
    | Denied[C_co]
    | Published
    | Refused
    | ClockSet
    | Ticked
    | Stored
    | StoreFailed
    | Loaded
)
