"""Orders of the embedding program to the hub. A malformed one raises, as ``Hub.handle`` says, and changes nothing."""

from collections.abc import Hashable, Sequence
from math import inf
from typing import Generic, TypeAlias

from typing_extensions import TypeVar

from roomhub.core.errors import KICKED, CloseReason

__all__ = [
    "Ban",
    "CloseRoom",
    "Command",
    "Dismiss",
    "Drain",
    "Enter",
    "EraseMessage",
    "EraseUser",
    "Exit",
    "Kick",
    "Mute",
    "Publish",
    "Unban",
    "Unmute",
]


C_co = TypeVar("C_co", bound=Hashable, covariant=True)


class Publish:
    """Say something in a room, as ``username`` or, by default, as nobody.

    The identity key is made of the name; where the hub ``authenticates`` it is ``""``, for the name may be anybody's.
    ``ref`` is handed back with the message's position by a ``Settle`` effect, None asks for none. A room that does not
    exist is made for the message and freed again: nobody is there to hear it.
    """

    __slots__ = ("content", "ref", "room", "username")

    def __init__(self, room: str, content: str, username: str = "", *, ref: Hashable = None) -> None:
        self.room: str = room
        self.content: str = content
        self.username: str = username
        self.ref: Hashable = ref

    def __repr__(self) -> str:
        return f"Publish({self.room!r}, {self.content!r}, {self.username!r})"


class Enter(Generic[C_co]):
    """Let a connected client join a room, as if it had asked. ``client`` is the transport's handle."""

    __slots__ = ("client", "room")

    def __init__(self, client: C_co, room: str) -> None:
        self.client: C_co = client
        self.room: str = room

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r}, {self.room!r})"


class Exit(Enter[C_co]):
    """Let a client leave a room, as if it had asked. Nothing happens if it is not there."""

    __slots__ = ()


class Kick:
    """Put a user out of a room, or of every room (``room`` None): all their connections.

    A plain connection that is in no other room is closed with ``close_reason``, after what was said up to now.
    ``reason`` is a word about it to the user.
    """

    __slots__ = ("close_reason", "reason", "room", "user")

    def __init__(
        self, user: str, room: str | None = None, *, reason: str = "", close_reason: CloseReason = KICKED
    ) -> None:
        self.user: str = user
        self.room: str | None = room
        self.reason: str = reason
        self.close_reason: CloseReason = close_reason

    def __repr__(self) -> str:
        return f"Kick({self.user!r}, {self.room!r})"


class Ban:
    """Put a user out of a room, or of every room (``room`` None), and let it in no more until the ban ends.

    Args:
        user: who; it need not be here.
        room: where.
        for_s: seconds, more than 0; ``inf`` for a ban that ``Unban`` alone ends.
        reason: a word about it to the user.
    """

    __slots__ = ("for_s", "reason", "room", "user")

    def __init__(self, user: str, room: str | None = None, *, for_s: float = inf, reason: str = "") -> None:
        self.user: str = user
        self.room: str | None = room
        self.for_s: float = for_s
        self.reason: str = reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user!r}, {self.room!r}, for_s={self.for_s:g})"


class Mute(Ban):
    """Let a user say nothing in a room, or anywhere, until the mute ends. It may come, listen and go."""

    __slots__ = ()


class Unban:
    """End the ban of a user from a room, or that from every room (None): each is one of its own."""

    __slots__ = ("room", "user")

    def __init__(self, user: str, room: str | None = None) -> None:
        self.user: str = user
        self.room: str | None = room

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user!r}, {self.room!r})"


class Unmute(Unban):
    """End a mute, as ``Unban`` a ban."""

    __slots__ = ()


class CloseRoom:
    """Put everybody out of a room and forget it. Nothing happens if there is none of that name."""

    __slots__ = ("room",)

    def __init__(self, room: str) -> None:
        self.room: str = room

    def __repr__(self) -> str:
        return f"CloseRoom({self.room!r})"


class EraseMessage:
    """Take a message out of a room's history, or of a mailbox ``@{user}``. Nothing happens if it is not in memory."""

    __slots__ = ("offset", "room")

    def __init__(self, room: str, offset: int) -> None:
        self.room: str = room
        self.offset: int = offset

    def __repr__(self) -> str:
        return f"EraseMessage({self.room!r}, {self.offset})"


class EraseUser:
    """Take all that a user said out of the history of every room, and of every mailbox. O(messages in memory)."""

    __slots__ = ("user",)

    def __init__(self, user: str) -> None:
        self.user: str = user

    def __repr__(self) -> str:
        return f"EraseUser({self.user!r})"


class Dismiss(Generic[C_co]):
    """Close some connections, as when the server they came by stops.

    Each gets what was said until now, and none of them hears of the others' leaving. Who is not connected is passed
    over.

    Args:
        clients: the transports' handles.
        reason: why.
        in_s: only tell clients of v1 for now that it will be in so many seconds. Another ``Dismiss`` follows then.
    """

    __slots__ = ("clients", "in_s", "reason")

    def __init__(self, clients: Sequence[C_co], reason: CloseReason, *, in_s: float = 0.0) -> None:
        self.clients: Sequence[C_co] = clients
        self.reason: CloseReason = reason
        self.in_s: float = in_s

    def __repr__(self) -> str:
        return f"Dismiss({self.clients!r}, {self.reason!r})"


class Drain:
    """Take in nobody from now on, and close every connection with the reason ``draining``.

    Args:
        in_s: only say so for now: that it will be in so many seconds. Another ``Drain`` follows then.
    """

    __slots__ = ("in_s",)

    def __init__(self, in_s: float = 0.0) -> None:
        self.in_s: float = in_s

    def __repr__(self) -> str:
        return f"Drain({self.in_s:g})" if self.in_s else "Drain()"


Command: TypeAlias = (
    Publish
    | Enter[C_co]
    | Exit[C_co]
    | Kick
    | Ban
    | Mute
    | Unban
    | Unmute
    | CloseRoom
    | EraseMessage
    | EraseUser
    | Dismiss[C_co]
    | Drain
)
