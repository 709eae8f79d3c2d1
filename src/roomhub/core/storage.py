"""What passes between a hub and the store that keeps its rooms' history."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from roomhub.core.sanctions import Sanction

__all__ = [
    "MOST_LOADED",
    "Loaded",
    "Page",
    "Report",
    "Snapshot",
    "StoreError",
    "StoreFailed",
    "Stored",
    "StoredGap",
    "StoredKey",
    "StoredMessage",
    "StoredRoom",
]


MOST_LOADED: Final = 10_000
"""So many messages are asked of a store at once at most, whatever a limit says."""


class StoreError(Exception):
    """A store cannot be opened. The text says which, why, and what to do."""


class StoredMessage(NamedTuple):
    """A chat message as it is kept.

    Attributes:
        room: the room's name.
        epoch: the life of the room's log that ``offset`` counts in.
        offset: its place in it, from 1.
        user: the identity key of who said it, ``""`` for nobody.
        username: the name as that person spells it.
        content: the text.
        ts_ms: Unix milliseconds, never falling within a room.
        to: the user it is for, ``""`` for all.
        key: the idempotency key it was sent with, one of ``user`` in ``room``. Not given when it is loaded.
    """

    room: str
    epoch: str
    offset: int
    user: str
    username: str
    content: str
    ts_ms: int
    to: str = ""
    key: str | None = None


class StoredRoom(NamedTuple):
    """Where a room's log goes on.

    Attributes:
        name: the room's name.
        epoch: the life of its log.
        offset: the next message gets the one after it; 0 if there was none.
        reserved: no offset above it was ever given to a message, and none may be until the store reserves more.
        ts_ms: Unix milliseconds of the last message that is stored, 0 if there is none.
    """

    name: str
    epoch: str
    offset: int
    reserved: int
    ts_ms: int


class StoredKey(NamedTuple):
    """An idempotency key that was used, and the position and time (Unix ms) its message got."""

    room: str
    user: str
    key: str
    epoch: str
    offset: int
    ts_ms: int


class StoredGap(NamedTuple):
    """Offsets that have no message.

    Attributes:
        first, last: both are in it.
        reason: "lost" if messages that had them, if there were any, were not stored; "expired" if they were, and have
            been removed since, by age, number or wish.
    """

    first: int
    last: int
    reason: str


class Snapshot(NamedTuple):
    """What a hub has to know at its start: every room, the keys that are still young, the bans and mutes."""

    rooms: Sequence[StoredRoom]
    keys: Sequence[StoredKey]
    sanctions: Sequence[Sanction] = ()


class Page(NamedTuple):
    """A stretch of a room's log. Each offset in it, up to the last ever stored, is that of a message or in a gap.

    Attributes:
        messages: ascending.
        gaps: ascending, cut to what the page covers.
        more: there are messages beyond it, in the direction that was asked for.
        missing: of all offsets above ``after`` that were asked for, in this page or beyond it, how many are in gaps.
    """

    messages: Sequence[StoredMessage]
    gaps: Sequence[StoredGap]
    more: bool
    missing: int = 0


class Stored(NamedTuple):
    """So much is safe.

    Attributes:
        refs: of what was asked for; those that are None are left out.
        reserved: by room and epoch, the offset up to which they may be used now.
    """

    refs: Sequence[Hashable]
    reserved: Mapping[tuple[str, str], int]


class StoreFailed(NamedTuple):
    """It was not done and will not be: the ``refs`` of what was asked for, and why."""

    refs: Sequence[Hashable]
    error: str


class Loaded(NamedTuple):
    """The answer to ``load``; ``page`` is None if it failed, for the reason ``error``."""

    ref: Hashable
    page: Page | None
    error: str = ""


Report: TypeAlias = Stored | StoreFailed | Loaded
"""What a store says later, from a thread of its own."""
