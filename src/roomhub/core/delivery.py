"""Who gets what next.

Rooms with something new are *dirty* and are served in rotation, a turn each. A turn hands one chunk to all members that
want exactly that (``share``), and *names* the others, which pull for themselves. A client is named at most once until
it has pulled all there is.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final, Generic

from typing_extensions import TypeVar

from roomhub.core.codec import Chunk, Frame, wire_bytes
from roomhub.core.limits import Limits
from roomhub.core.replay import Later
from roomhub.core.room import Room, Share
from roomhub.core.session import Session

__all__ = ["Delivery"]

C = TypeVar("C", bound=Hashable)

LATER_BYTES: Final = 256
"""What something counts with that is made only when its turn comes."""


class Delivery(Generic[C]):
    """The rooms to serve and the clients to name; the hub's part that moves cursors.

    Attributes:
        dirty: rooms with a pass to begin or to go on with.
        pressing: those whose healthy members have more to get than one may lag by.
        named: clients that ``ready`` is about to name.
        asking: what goes on once the store has brought a page, for which it has yet to be asked.
        frames, bytes: how much was handed out, counted once a recipient.
    """

    __slots__ = ("_limits", "asking", "bytes", "dirty", "frames", "named", "pressing")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.dirty: OrderedDict[Room[C], None] = OrderedDict()
        self.pressing: dict[Room[C], None] = {}
        self.named: dict[C, None] = {}
        self.asking: dict[Later, Session[C]] = {}
        self.frames: int = 0
        self.bytes: int = 0

    @property
    def is_settled(self) -> bool:
        return not self.dirty and not self.named and not self.asking

    # -- what the hub says --------------------------------------------------------------------------------------------

    def soil(self, room: Room[C]) -> None:
        """The room has a new entry."""
        if room not in self.dirty:
            self.dirty[room] = None
        if room.head - room.floor > self._limits.lag_messages:
            self.pressing[room] = None

    def forget(self, room: Room[C]) -> None:
        """The room is gone."""
        self.dirty.pop(room, None)
        self.pressing.pop(room, None)

    def stop(self, session: Session[C]) -> None:
        """The session's transport takes nothing more for now."""
        session.waiting = False
        self.unname(session)
        session.steer()
        if session.talk is not None:
            session.talk.spares = True
        for member in session.members:
            member.room.behind[member] = None

    def resume(self, session: Session[C]) -> None:
        """The session's transport takes more again."""
        if session.has_more:
            self._name(session)
        else:
            self._caught_up(session)

    def unname(self, session: Session[C]) -> None:
        self.named.pop(session.client, None)

    def give_later(self, session: Session[C], item: Later) -> None:
        """Frames for this session alone that are made when their turn comes."""
        self._give(session, (item,), LATER_BYTES)

    def give(self, session: Session[C], frames: Sequence[Frame], size: int) -> None:
        """Frames, so many bytes, for this session alone, to be pulled before what its rooms have for it."""
        self._give(session, frames, size)

    def _give(self, session: Session[C], frames: Sequence[Frame | Later], size: int) -> None:
        if session.direct is None:
            session.direct = []
        session.direct += frames
        session.direct_bytes += size
        self._name(session)

    def go_on(self, session: Session[C]) -> None:
        """What the session's replay has waited for is there."""
        session.waiting = False
        self._name(session)

    def cut(self, session: Session[C]) -> None:
        """Let go of what the store has to be asked for, and of all behind it: the session ends, and resumes there."""
        direct = session.direct or []
        for index, item in enumerate(direct):
            if not isinstance(item, str | bytes) and item.needs_store:
                sizes = (wire_bytes(kept) if isinstance(kept, str | bytes) else LATER_BYTES for kept in direct[:index])
                session.direct, session.direct_bytes = direct[:index], sum(sizes)
                return

    def _name(self, session: Session[C]) -> None:
        if not session.blocked and not session.waiting:
            session.waiting = True
            self.named[session.client] = None
        session.steer()

    # -- what drivers ask ---------------------------------------------------------------------------------------------

    def share(self, most_members: int) -> Share[C] | None:
        while self.dirty:
            share = self._turn(most_members, name_all=False)
            if share is not None:
                count = len(share.clients)
                self.frames += share.frames * count
                self.bytes += wire_bytes(share.chunk) * count
                return share
        return None

    def ready(self) -> Sequence[C]:
        while self.dirty:
            self._turn(256, name_all=True)
        return self.take_named()

    def take_named(self) -> Sequence[C]:
        if not self.named:
            return ()
        named = list(self.named)
        self.named.clear()
        return named

    def pull(self, session: Session[C]) -> Chunk:
        members = session.members
        spares = session.talk is not None and session.talk.spares
        if session.direct is None and len(members) == 1 and not spares:
            member = members[0]
            start = member.cursor
            if start == member.room.head:
                return self._caught_up(session)
            chunk, member.cursor = member.log.read(start, self._limits.chunk_bytes)
            frames_count = member.cursor - start
        else:
            frames = self._gather(session)
            if not frames and session.direct is not None:
                session.waiting = True  # until the store has brought what comes next
                return session.lane.nothing
            if not frames:
                return self._caught_up(session)
            chunk = session.lane.join(frames)
            frames_count = len(frames)
        self.frames += frames_count
        self.bytes += wire_bytes(chunk)
        if not session.has_more:
            self._caught_up(session)
        # Entries that this dialect has no words for are read without a byte.
        return chunk or self.pull(session)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _gather(self, session: Session[C]) -> list[Frame]:
        """A chunk's worth of frames: first its own, then each room's in turn."""
        budget = self._limits.chunk_bytes
        frames: list[Frame] = []
        direct = session.direct
        if direct is not None:
            taken = 0
            while taken < len(direct):
                item = direct[taken]
                if not isinstance(item, str | bytes):
                    made = item.read(budget, at_least_one=not frames)
                    budget -= sum(map(wire_bytes, made))
                    frames += made
                    if item.needs_page and not item.is_asking:
                        item.is_asking = True
                        self.asking[item] = session
                    if not item.is_done:
                        break
                    session.direct_bytes -= LATER_BYTES
                    taken += 1
                    continue
                size = wire_bytes(item)
                if frames and size > budget:
                    break
                budget -= size
                session.direct_bytes -= size
                frames.append(item)
                taken += 1
            session.direct = direct[taken:] or None
            if session.direct is not None:
                return frames
        spares = session.talk is not None and session.talk.spares
        for member in session.members:
            log = member.log
            for frame in log.frames[member.cursor - log.base :]:
                if spares and member.cursor in log.passing:
                    member.cursor += 1
                    continue
                size = wire_bytes(frame)
                if frames and size > budget:
                    return frames
                budget -= size
                frames.append(frame)
                member.cursor += 1
        return frames

    def _caught_up(self, session: Session[C]) -> Chunk:
        session.waiting = False
        self.unname(session)
        if session.talk is not None:
            session.talk.spares = False
        if not session.blocked:
            for member in session.members:
                member.room.catch_up(member)
        session.steer()
        return session.lane.nothing

    def _turn(self, most_members: int, *, name_all: bool) -> Share[C] | None:
        room, _ = self.dirty.popitem(last=False)
        share = room.turn(most_members, self._limits.chunk_bytes, self.named, name_all=name_all)
        if room.floor < room.head:
            self.dirty[room] = None
        if self.pressing and room.head - room.floor <= self._limits.lag_messages:
            self.pressing.pop(room, None)
        return share
