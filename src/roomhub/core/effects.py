"""Orders that come out of the hub, in the imperative. Apply them in order, before the next event goes in."""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeAlias

from typing_extensions import TypeVar

from roomhub.core.errors import CloseReason
from roomhub.core.identity import Identity
from roomhub.core.message import Message, Position
from roomhub.core.sanctions import Sanction
from roomhub.core.storage import StoredMessage

__all__ = [
    "Announce",
    "Authenticate",
    "Authorize",
    "Close",
    "Effect",
    "Impose",
    "Lift",
    "Load",
    "Moderated",
    "Probe",
    "Report",
    "Settle",
    "Store",
]

C = TypeVar("C", bound=Hashable)


class Close(Generic[C]):
    """Pull until empty, write it, close with the reason; then say ``Disconnected``."""

    __slots__ = ("client", "reason")

    def __init__(self, client: C, reason: CloseReason) -> None:
        self.client: C = client
        self.reason: CloseReason = reason

    def __repr__(self) -> str:
        return f"Close({self.client!r}, {self.reason.name})"


class Probe(Generic[C]):
    """Find out whether the peer lives: on a WebSocket, send a ping."""

    __slots__ = ("client",)

    def __init__(self, client: C) -> None:
        self.client: C = client

    def __repr__(self) -> str:
        return f"Probe({self.client!r})"


class Authorize(Generic[C]):
    """Ask whether a client may do something; answer with ``Authorized`` or ``Denied``.

    Args:
        client, ref: the answer has them too.
        room: where, ``""`` for everywhere.
        username: the identity key.
        identity: who it is, if an authenticator has said so.
        action: "join", only if ``Hub.authorizes``; or what a moderator wants: "kick", "ban", "unban", "mute", "unmute".
    """

    __slots__ = ("action", "client", "identity", "ref", "room", "username")

    def __init__(
        self,
        client: C,
        room: str,
        username: str,
        identity: Identity | None = None,
        ref: Hashable = None,
        action: str = "join",
    ) -> None:
        self.client: C = client
        self.room: str = room
        self.username: str = username
        self.identity: Identity | None = identity
        self.ref: Hashable = ref
        self.action: str = action

    def __repr__(self) -> str:
        action = "" if self.action == "join" else f", action={self.action!r}"
        return f"Authorize({self.client!r}, {self.room!r}, {self.username!r}{action})"


class Authenticate(Generic[C]):
    """Find out who shows this token, and answer with ``Authenticated``. Only if ``Hub.authenticates``."""

    __slots__ = ("client", "ref", "token")

    def __init__(self, client: C, token: str, ref: Hashable) -> None:
        self.client: C = client
        self.token: str = token
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"Authenticate({self.client!r})"


class Announce:
    """A message wants to become a fact; answer with ``Published`` or ``Refused``. Only if ``Hub.announces``."""

    __slots__ = ("message", "ref")

    def __init__(self, message: Message, ref: Hashable) -> None:
        self.message: Message = message
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"Announce({self.message!r})"


class Report:
    """Tell the program what happened in a room: a chat, a user's arrival or departure. Only if ``Hub.reports``."""

    __slots__ = ("message",)

    def __init__(self, message: Message) -> None:
        self.message: Message = message

    def __repr__(self) -> str:
        return f"Report({self.message!r})"


class Settle:
    """Tell whoever gave ``ref`` with a ``Publish`` where the message stands; None if it was refused."""

    __slots__ = ("position", "ref")

    def __init__(self, ref: Hashable, position: Position | None) -> None:
        self.ref: Hashable = ref
        self.position: Position | None = position

    def __repr__(self) -> str:
        return f"Settle({self.ref!r}, {self.position!r})"


class Store:
    """Keep a tick's messages, in this order; each has a ref, or None.

    Answer with ``Stored`` or ``StoreFailed`` for those that have one. Only after ``Hub.restore``.
    """

    __slots__ = ("messages", "refs")

    def __init__(self, messages: Sequence[StoredMessage], refs: Sequence[Hashable]) -> None:
        self.messages: Sequence[StoredMessage] = messages
        self.refs: Sequence[Hashable] = refs

    def __repr__(self) -> str:
        return f"Store({self.messages!r})"


class Load:
    """Bring a page of a room's history: the oldest messages above ``after``, otherwise the newest, below ``before``.

    At most ``limit`` messages of ``most_bytes``, but at least one. Answer with ``Loaded``. Only after ``Hub.restore``.
    """

    __slots__ = ("after", "before", "limit", "most_bytes", "ref", "room")

    def __init__(
        self, room: str, ref: Hashable, *, after: int | None, before: int | None, limit: int, most_bytes: float
    ) -> None:
        self.room: str = room
        self.ref: Hashable = ref
        self.after: int | None = after
        self.before: int | None = before
        self.limit: int = limit
        self.most_bytes: float = most_bytes

    def __repr__(self) -> str:
        return f"Load({self.room!r}, after={self.after}, before={self.before}, limit={self.limit})"


class Impose:
    """Keep a ban or a mute, in place of one of its kind for the same user and room.

    Answer with ``Stored`` or ``StoreFailed``, as ``Store``. Only after ``Hub.restore``.
    """

    __slots__ = ("ref", "sanction")

    def __init__(self, sanction: Sanction, ref: Hashable) -> None:
        self.sanction: Sanction = sanction
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sanction!r})"


class Lift(Impose):
    """Keep it no more: the one of its kind for the same user and room."""

    __slots__ = ()


class Moderated:
    """A client has moderated, and it is in force: for the program's log.

    Attributes:
        by: the identity key of who did it.
        action: "kick", "ban", "unban", "mute" or "unmute".
        user: the identity key of whom.
        room: where, ``""`` for everywhere.
        until_ms: Unix milliseconds at which it ends, None for never or at once.
        reason: why.
    """

    __slots__ = ("action", "by", "reason", "room", "until_ms", "user")

    def __init__(self, by: str, action: str, user: str, room: str, until_ms: int | None, reason: str) -> None:
        self.by: str = by
        self.action: str = action
        self.user: str = user
        self.room: str = room
        self.until_ms: int | None = until_ms
        self.reason: str = reason

    def __repr__(self) -> str:
        return f"Moderated({self.by!r}, {self.action!r}, {self.user!r}, {self.room!r})"


Effect: TypeAlias = (
    Close[C]
    | Probe[C]
    | Authenticate[C]
    | Authorize[C]
    | Announce
    | Report
    | Settle
    | Store
    | Load
    | Impose
    | Lift
    | Moderated
)
