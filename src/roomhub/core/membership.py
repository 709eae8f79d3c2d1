"""Who is in which room: the one way in, the one way out, and what the others are told of it.

The end of a connection is here too, since it leaves its rooms.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Generic

from typing_extensions import TypeVar

from roomhub.core import errors, presence
from roomhub.core.admission import Admission
from roomhub.core.codec import wire_bytes
from roomhub.core.effects import Authorize, Close, Report
from roomhub.core.errors import CloseReason
from roomhub.core.message import Message
from roomhub.core.room import Member, Room
from roomhub.core.session import Session, State
from roomhub.core.state import HubState

__all__ = ["Membership"]

C = TypeVar("C", bound=Hashable)


class Membership(Generic[C]):
    """The part of a hub that lets in and out.

    Args:
        state: the hub's.
        admission: who may come in.
    """

    def __init__(self, state: HubState[C], admission: Admission) -> None:
        self._state = state
        self._admission = admission
        self._limits = state.limits
        self._rooms = state.rooms
        self._delivery = state.delivery
        self._deadlines = state.deadlines
        self._effects = state.effects
        self._refusals = state.refusals
        self._evictions = state.evictions

    # -- joining and leaving ------------------------------------------------------------------------------------------

    def ask_to_join(self, session: Session[C], name: str, fault: str | None, now: float) -> None:
        """``fault`` is what the rule has to say of the name."""
        if not self._admission.takes_join(session.address, session.username, now):
            self.refuse_join(session, errors.RATE_LIMITED)
        elif fault is not None:
            self.refuse_join(session, errors.PROTOCOL)
        elif self._state.authorizes:
            self._effects.append(Authorize(session.client, name, session.username))
        else:
            self.join(session, name, now)

    def join(self, session: Session[C], name: str, now: float) -> None:
        if session.member_of(name) is not None:
            return
        if len(session.members) >= self._limits.rooms_per_client:
            self.refuse_join(session, errors.RATE_LIMITED)
            return
        room = self._rooms.get(name)
        if room is None:
            if len(self._rooms) >= self._limits.rooms:
                self.refuse_join(session, errors.OVER_CAPACITY)
                return
            room = self.make_room(name)
        user = session.username
        if user in room.users:
            session.members += (room.enter(session),)
            session.steer()
            # Nobody else hears of a further session. If they have yet to hear of the first, it hears that with them.
            if user not in room.arrivals:
                self.answer(session, presence.told_roster(room))
                self.answer(session, presence.joined(room, user))
                self.judge_direct(session, now)
            return
        session.members += (room.enter(session),)
        session.steer()
        presence.note_arrival(room, user)
        if self._state.reports:
            self._effects.append(Report(presence.joined(room, user)))
        self.tell_presence_in_time(room, now)

    def leave_room(self, session: Session[C], name: str, now: float) -> None:
        member = session.member_of(name)
        if member is not None:
            self.leave(session, member, now, keep_unread=True)
            self.judge_direct(session, now)

    def leave(
        self, session: Session[C], member: Member[C], now: float, *, keep_unread: bool, tell: bool = True
    ) -> None:
        """The one way out of a room. What the log held for the member until now becomes its own; then others hear."""
        room = member.room
        if keep_unread:
            self.keep_unread(session, member)
        session.members = tuple(other for other in session.members if other is not member)
        last = room.exit(member)
        session.steer()
        if last:
            if self._state.reports:
                self._effects.append(Report(presence.left(room, session.username)))
            if tell and room.members:
                presence.note_departure(room, session.username)
                self.tell_presence_in_time(room, now)
        self.free_if_empty(room)

    def keep_unread(self, session: Session[C], member: Member[C]) -> None:
        if member.cursor < member.room.head:
            log = member.log
            self._delivery.give(session, log.frames[member.cursor - log.base :], log.lag_bytes(member.cursor))

    def vacate(self, session: Session[C], now: float, *, keep_unread: bool) -> None:
        for member in session.members:
            self.leave(session, member, now, keep_unread=keep_unread)

    def tell_presence_in_time(self, room: Room[C], now: float) -> None:
        deadlines = self._deadlines
        if len(room.members) <= self._limits.presence_batch_members:
            self.tell_presence(room)
        elif not deadlines.is_armed("roster", room):
            self.tell_presence(room)
            deadlines.arm("roster", room, now)

    def tell_presence(self, room: Room[C]) -> None:
        for message in presence.news(room):
            room.append(message)
        self._state.grow(room)

    def answer(self, session: Session[C], message: Message) -> None:
        text = session.lane.codec.encode(message)
        if text:
            frame = session.lane.direct(text)
            self._delivery.give(session, [frame], wire_bytes(frame))

    def refuse_join(self, session: Session[C], reason: CloseReason) -> None:
        """A plain client asked for one room; without it there is nothing to stay for."""
        if session.members:
            self._refusals[reason.name] += 1
        else:
            self.refuse(session, reason)

    def refuse(self, session: Session[C], reason: CloseReason) -> None:
        self.close(session, reason, self._refusals)

    def evict(self, session: Session[C], reason: CloseReason, now: float) -> None:
        """Close a client and tell its rooms. What it has not read goes out before, unless it does not read."""
        if session.state is not State.OPEN:
            return
        is_slow = reason is errors.SLOW_CONSUMER or reason is errors.NO_PONG
        if is_slow:
            session.direct = None
        self.vacate(session, now, keep_unread=not is_slow)
        self.close(session, reason, self._evictions)

    def close(self, session: Session[C], reason: CloseReason, counter: Counter[str]) -> None:
        counter[reason.name] += 1
        session.state = State.CLOSING
        session.blocked = False
        session.waiting = True  # it is told to close, which says to pull
        self._delivery.unname(session)
        self._deadlines.cancel_all(session)
        self._effects.append(Close(session.client, reason))

    def judge_direct(self, session: Session[C], now: float) -> None:
        if session.direct_bytes > self._limits.direct_bytes and session.blocked:
            self.evict(session, errors.SLOW_CONSUMER, now)

    def make_room(self, name: str) -> Room[C]:
        self._state.incarnations += 1
        room = self._rooms[name] = Room(name, f"{self._state.epoch}.{self._state.incarnations}")
        return room

    def free_if_empty(self, room: Room[C]) -> None:
        if not room.members and self._rooms.get(room.name) is room:
            self.forget_room(room)

    def forget_room(self, room: Room[C]) -> None:
        del self._rooms[room.name]
        self._state.grown.pop(room, None)
        self._delivery.forget(room)
        self._deadlines.cancel_all(room)
        # Its roster, or a look at its log, may be due in this very tick: then there is nothing left to tell or to keep.
        room.arrivals.clear()
        room.departures.clear()
        room.log.clear()
