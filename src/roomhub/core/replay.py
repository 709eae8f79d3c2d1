"""History on its way to one client: a cursor that starts in the past.

A replay is pulled like everything else, a chunk at a time, at the client's own pace. It holds no messages, only where
it stands in the room's log, so one of a thousand messages costs what one of ten does.
"""

from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Any, Generic, NamedTuple

from typing_extensions import TypeVar

from roomhub.core.codec import Frame, Lane, wire_bytes
from roomhub.core.message import CHAT, DM, Message, Position, Record
from roomhub.core.room import Room

__all__ = ["Recovery", "Replay", "records_from", "recover"]

C = TypeVar("C", bound=Hashable)


class Replay(Generic[C]):
    """The messages of a room from one offset to another that a session has yet to get.

    What the log has let go of meanwhile, since the client was slow to take it, is told as a gap, and so is what a store
    lost when its process was killed.
    """

    __slots__ = ("_lane", "_next", "_room", "_until")

    def __init__(self, room: Room[C], lane: Lane, first: int, last: int) -> None:
        self._room = room
        self._lane = lane
        self._next = first
        self._until = last

    @property
    def is_done(self) -> bool:
        return self._next > self._until

    def read(self, most_bytes: float, *, at_least_one: bool) -> list[Frame]:
        """The next frames, at most so many bytes, but perhaps at least one; none if it is done."""
        frames: list[Frame] = []
        room = self._room
        for record in records_from(room, self._next):
            offset = record[3]
            if offset > self._until:
                break
            if offset != self._next:
                frame = self._gap(offset - 1)
                size = wire_bytes(frame)
                if size > most_bytes and (frames or not at_least_one):
                    return frames
                most_bytes -= size
                frames.append(frame)
                self._next = offset
            frame = self._lane.direct(self._lane.codec.encode(message_of(room, record)))
            size = wire_bytes(frame)
            if size > most_bytes and (frames or not at_least_one):
                return frames
            most_bytes -= size
            frames.append(frame)
            self._next = offset + 1
        if self._next <= self._until:
            frame = self._gap(self._until)
            if wire_bytes(frame) <= most_bytes or (at_least_one and not frames):
                frames.append(frame)
                self._next = self._until + 1
        return frames

    def _gap(self, last: int) -> Frame:
        """What tells that all up to ``last`` is not there."""
        log = self._room.log
        # What the log lacks behind its beginning was lost; what it began with was let go of.
        reason = "lost" if log and self._next >= log[0][3] else "slow"
        return gap_frame(self._lane, self._room, self._next, last, reason)


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


def recover(room: Room[Any], since: Position | None) -> Recovery:
    """What follows ``since`` in the room (G3). None, another epoch and an offset from the future recover nothing."""
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
    first = room.log[0][3] if room.log else head + 1
    if first <= since.offset + 1:
        is_whole = sum(1 for _ in records_from(room, since.offset + 1)) == head - since.offset
        return Recovery("full" if is_whole else "partial", since.offset, None, since.offset + 1)
    return Recovery("partial", since.offset, (since.offset + 1, first - 1, "expired"), first if room.log else 0)


def records_from(room: Room[Any], offset: int) -> Iterator[Record]:
    """The logged messages from an offset on."""
    log = room.log
    # Offsets rise by at least one: so many from the end there may be.
    start = max(0, len(log) - (room.offset - offset + 1))
    return (record for record in islice(log, start, None) if record[3] >= offset)


def message_of(room: Room[Any], record: Record) -> Message:
    user, username, content, offset, ts_ms, _, _, to = record
    return Message(DM if to else CHAT, room.name, user, username, content, offset, ts_ms, epoch=room.epoch, to=to)


def gap_frame(lane: Lane, room: Room[Any], first: int, last: int, reason: str) -> Frame:
    """What tells a v1 client that it has missed the messages from ``first`` to ``last``."""
    assert lane.talker is not None
    fields = {"room": room.name, "epoch": room.epoch, "from": first, "to": last, "reason": reason}
    return lane.direct(lane.talker.notice("gap", fields))
