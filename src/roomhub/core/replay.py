"""History on its way to one client: a cursor that starts in the past.

A replay is pulled like everything else, a chunk at a time, at the client's own pace. It holds where it stands in the
room's log and at most one page from the store, so one of a million messages costs what one of ten does.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, Protocol

from typing_extensions import TypeVar

from roomhub.core.codec import Frame, Lane, wire_bytes
from roomhub.core.message import CHAT, DM, Message, Position, Record
from roomhub.core.room import Room
from roomhub.core.storage import StoredGap

__all__ = [
    "Later",
    "Recovery",
    "Replay",
    "Reply",
    "first_logged",
    "gap_frame",
    "is_asking",
    "is_older",
    "place_of",
    "records_from",
    "recover",
]

C = TypeVar("C", bound=Hashable)


class Later(Protocol):
    """What stands in line for one client, and is made when its turn comes.

    So what a client asks for and does not read costs what the question costs, not what the answer would.

    Attributes:
        is_done: it has given all its frames.
        needs_page: the store has to be asked before it can go on.
        needs_store: now or later.
        is_asking: the store is being asked.
        fetch: asks the store, given the time; None for what never needs it.
    """

    is_asking: bool
    fetch: Callable[[float], None] | None

    @property
    def is_done(self) -> bool: ...

    @property
    def needs_page(self) -> bool: ...

    @property
    def needs_store(self) -> bool: ...

    def read(self, most_bytes: float, *, at_least_one: bool) -> list[Frame]:
        """The next frames, at most so many bytes, but perhaps at least one; none if it is done, or needs a page."""
        ...

    def give_up(self) -> None:
        """Ask no store any more."""
        ...


class Reply:
    """One frame.

    Args:
        make: makes it; with ``fetch``, what is said if the store does not answer.
        fetch: asks the store for what it needs; ``make_by`` then tells how to make it.
    """

    __slots__ = ("_frame", "_make", "_otherwise", "fetch", "is_asking", "is_done")

    def __init__(self, make: Callable[[], Frame], fetch: Callable[[float], None] | None = None) -> None:
        self._make: Callable[[], Frame] | None = None if fetch else make
        self._frame: Frame | None = None
        self.fetch: Callable[[float], None] | None = fetch
        self.is_asking: bool = False
        self.is_done: bool = False
        self._otherwise = make

    @property
    def needs_page(self) -> bool:
        return self._make is None

    @property
    def needs_store(self) -> bool:
        return self._make is None

    def make_by(self, make: Callable[[], Frame]) -> None:
        """What it needs is there."""
        self.is_asking = False
        self._make = make

    def give_up(self) -> None:
        self._make = self._make or self._otherwise

    def read(self, most_bytes: float, *, at_least_one: bool) -> list[Frame]:
        if self._make is None:
            return []
        if self._frame is None:
            self._frame = self._make()
        if wire_bytes(self._frame) > most_bytes and not at_least_one:
            return []
        self.is_done = True
        return [self._frame]


class Replay(Generic[C]):
    """The messages of a room from one offset to another that a session has yet to get.

    What the room's log has let go of is asked of the store, a page at a time. What the store has not either, or there
    is none, is told as a gap. Should the room begin a new epoch meanwhile, the rest is not to be had.

    Args:
        room: the room, or mailbox.
        lane: how the session is written to.
        first, last: the offsets.
        has_store: whether there is a store to ask.

    Attributes:
        room: as given.
        is_asking: a page is on its way.
        fetch: set by whoever makes it.
    """

    __slots__ = (
        "_epoch",
        "_gaps",
        "_has_store",
        "_lane",
        "_next",
        "_page",
        "_page_end",
        "_until",
        "fetch",
        "is_asking",
        "room",
    )

    def __init__(self, room: Room[C], lane: Lane, first: int, last: int, *, has_store: bool) -> None:
        self.room: Room[C] = room
        self.fetch: Callable[[float], None] | None = None
        self._epoch = room.epoch
        self._lane = lane
        self._next = first
        self._until = last
        self._has_store = has_store
        self._page: Sequence[Record] = ()
        self._page_end = 0  # up to here the page tells all
        self._gaps: Sequence[StoredGap] = ()
        self.is_asking: bool = False

    @property
    def is_done(self) -> bool:
        return self._next > self._until

    @property
    def needs_page(self) -> bool:
        """The store has to be asked for what comes next."""
        next_ = self._next
        is_here = self.room.epoch != self._epoch or next_ >= first_logged(self.room)
        return self._has_store and self._page_end < next_ <= self._until and not is_here

    @property
    def needs_store(self) -> bool:
        """The store has to be asked for something of it, now or later."""
        known = max(self._next - 1, self._page_end)
        is_here = self.room.epoch != self._epoch or known + 1 >= first_logged(self.room)
        return self._has_store and known < self._until and not is_here

    @property
    def wanted(self) -> tuple[int, int]:
        """What to ask of the store: the messages above the one offset and below the other."""
        return self._next - 1, min(first_logged(self.room), self._until + 1)

    def take(self, records: Sequence[Record], gaps: Sequence[StoredGap], end: int) -> None:
        """What the store has brought: all there is up to the offset ``end``."""
        self.is_asking = False
        self._page, self._gaps, self._page_end = records, gaps, end

    def give_up(self) -> None:
        """Ask no store any more: what it would have brought is told as a gap."""
        self._has_store = False

    def read(self, most_bytes: float, *, at_least_one: bool) -> list[Frame]:
        """The next frames, at most so many bytes, but perhaps at least one; none if it is done, or needs a page."""
        frames: list[Frame] = []
        for last, piece in self._pieces():
            if isinstance(piece, str):
                frame = gap_frame(self._lane, self.room.name, self._epoch, self._next, last, piece)
            else:
                frame = self._lane.direct(self._lane.codec.encode(message_of(self.room, piece)))
            size = wire_bytes(frame)
            if size > most_bytes and (frames or not at_least_one):
                break
            most_bytes -= size
            frames.append(frame)
            self._next = last + 1
        if self._next > self._page_end:
            self._page = self._gaps = ()
        return frames

    def _pieces(self) -> Iterator[tuple[int, Record | str]]:
        """What comes next, as far as it is known: a message and its offset, or up to where there is none and why."""
        room, at, end = self.room, self._next, self._page_end
        if room.epoch != self._epoch:
            yield self._until, "epoch"
            return
        records: Iterator[Record] = (record for record in self._page if record[3] >= at)
        if not self._has_store or max(at, end + 1) >= first_logged(room):
            records = chain(records, records_from(room, max(at, end + 1)))
            end = self._until
        for record in records:
            offset = record[3]
            if offset > self._until:
                break
            yield from self._holes(at, offset - 1)
            yield offset, record
            at = offset + 1
        yield from self._holes(at, min(end, self._until))

    def _holes(self, first: int, last: int) -> Iterator[tuple[int, str]]:
        """Offsets without a message, one after another that differs in its reason."""
        for gap in self._gaps:
            if first <= gap.last and first <= last:
                yield min(gap.last, last), gap.reason
                first = gap.last + 1
        if first <= last:
            # Without a store only what was erased is not in the log, or what has gone from it since the replay began.
            yield last, "lost" if self._has_store else "expired" if first >= first_logged(self.room) else "slow"


class Recovery(NamedTuple):
    """What can be had of what a client missed.

    Attributes:
        recovered: "full", "partial" (the gap comes first) or "none".
        offset: where the client stands before what follows.
        gap: the first and last offset that are gone and the reason, if any are.
        first: the offset from which on the log has it, 0 if nothing is to follow.
    """

    recovered: str
    offset: int
    gap: tuple[int, int, str] | None = None
    first: int = 0


def recover(room: Room[Any], since: Position | None, missing: int | None = None) -> Recovery:
    """What follows ``since`` in the room (G3). None, another epoch and an offset from the future recover nothing.

    Args:
        missing: how many messages the store lacks between that and the room's log; None if it was not asked.
    """
    head = room.offset
    if since is None:
        return Recovery("none", head)
    from_nothing = since.epoch == "" and since.offset == 0
    if since.epoch != room.epoch and not from_nothing:
        return Recovery("none", head, (1, head, "epoch") if head else None)
    if since.offset > head:
        return Recovery("none", head)
    if since.offset == head:
        return Recovery("full", head)
    first = first_logged(room)
    if missing is not None or first <= since.offset + 1:
        at = max(first, since.offset + 1)
        is_whole = not missing and sum(1 for _ in records_from(room, at)) == head + 1 - at
        return Recovery("full" if is_whole else "partial", since.offset, None, since.offset + 1)
    return Recovery("partial", since.offset, (since.offset + 1, first - 1, "expired"), first if room.log else 0)


def is_older(room: Room[Any], since: Position | None) -> bool:
    """Whether some of what follows ``since`` in the room is not in its log any more."""
    if since is None or (since.epoch != room.epoch and since != ("", 0)):
        return False
    return since.offset + 1 < first_logged(room) and since.offset < room.offset


def first_logged(room: Room[Any]) -> int:
    """The offset that the room's log begins with, or would."""
    return room.log[0][3] if room.log else room.offset + 1


def records_from(room: Room[Any], offset: int) -> Iterator[Record]:
    """The logged messages from an offset on."""
    log = room.log
    # Offsets rise by at least one: so many from the end there may be.
    start = max(0, len(log) - (room.offset - offset + 1))
    return (record for record in islice(log, start, None) if record[3] >= offset)


def message_of(room: Room[Any], record: Record) -> Message:
    user, username, content, offset, ts_ms, _, _, to = record
    return Message(DM if to else CHAT, room.name, user, username, content, offset, ts_ms, epoch=room.epoch, to=to)


def gap_frame(lane: Lane, room: str, epoch: str, first: int, last: int, reason: str) -> Frame:
    """What tells a v1 client that it has missed the messages from ``first`` to ``last``."""
    assert lane.talker is not None
    fields = {"room": room, "epoch": epoch, "from": first, "to": last, "reason": reason}
    return lane.direct(lane.talker.notice("gap", fields))


def is_asking(direct: Sequence[Any]) -> bool:
    """Whether what comes next of this waits for the store."""
    return getattr(direct[0], "is_asking", False)


def place_of(room: Room[Any], recovery: Recovery) -> dict[str, Any]:
    """Where a client stands that comes into a room, as v1 tells it."""
    return {"epoch": room.epoch, "offset": recovery.offset, "recovered": recovery.recovered}
