"""Who is in which room: the one way in, the one way out, and what the others are told of it.

The end of a connection is here too, since it leaves its rooms.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from roomhub.core import errors, presence
from roomhub.core.admission import Admission
from roomhub.core.codec import wire_bytes
from roomhub.core.effects import Authorize, Close, Report
from roomhub.core.errors import CloseReason
from roomhub.core.message import PRESENCE, Message, Record
from roomhub.core.rates import Rate
from roomhub.core.replay import first_logged
from roomhub.core.requests import Id
from roomhub.core.room import Member, Room
from roomhub.core.sanctions import Sanction
from roomhub.core.session import Session, State
from roomhub.core.state import HubState, Timer
from roomhub.core.storage import MOST_LOADED, Page

__all__ = ["Membership"]

C = TypeVar("C", bound=Hashable)

ROSTERS_AT_ONCE: Final = 4
"""So many changes of a small room are told to v1 clients at once in ``presence_interval_s``, the others together."""
RECONNECT_LEAST_MS: Final = 500
RECONNECT_MOST_MS: Final = 5_000
RECONNECT_EACH_MS: Final = 1
"""Longer by so much for each connection there is, that is, a thousand come back in a second."""


_JOIN_ERRORS: Final[Mapping[CloseReason, tuple[str, str]]] = {
    errors.RATE_LIMITED: ("rate_limited", "too many joins, or too many rooms: leave one, or wait"),
    errors.OVER_CAPACITY: ("over_capacity", "there are as many rooms as there may be"),
    errors.FORBIDDEN: ("forbidden", "this room is not for you"),
    errors.BANNED: ("forbidden", "you are banned from this room"),
}


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
        interval_s = state.limits.presence_interval_s
        self._error_rate = Rate(state.limits.error_burst / 60, state.limits.error_burst)
        self._roster_rate = Rate(1 / interval_s if interval_s else math.inf, ROSTERS_AT_ONCE)

    # -- joining ------------------------------------------------------------------------------------------------------

    def ask_to_join(self, session: Session[C], name: str, fault: str | None, now: float) -> None:
        """A client that gets no replies wants to join; ``fault`` is what the rule has to say of the name."""
        reason = self.admits(session, fault, now)
        if reason is not None:
            self.refuse_join(session, reason, now)
        elif self._state.authorizes:
            self.ask_whether(session, name, now)
        else:
            self.join_or_refuse(session, name, now)

    def ask_whether(self, session: Session[C], name: str, now: float) -> None:
        """Whether it may join; ``Authorized`` or ``Denied`` follows, or after ``auth_timeout_s`` it may not."""
        self._state.questions += 1
        number = session.questions[name] = self._state.questions
        self._deadlines.arm("authorize", (session, name), now)
        self._effects.append(Authorize(session.client, name, session.user, session.identity, number))

    def admits(self, session: Session[C], fault: str | None, now: float) -> CloseReason | None:
        """Why the session may not even ask to join; None if it may, which then counts against its rate."""
        if not self._admission.takes_join(session.address, session.user, now):
            return errors.RATE_LIMITED
        return None if fault is None else errors.PROTOCOL

    def join_or_refuse(self, session: Session[C], name: str, now: float) -> None:
        reason = self.join(session, name, now)
        if reason is not None:
            self.refuse_join(session, reason, now)

    def join(
        self,
        session: Session[C],
        name: str,
        now: float,
        entered: Callable[[Member[C]], None] | None = None,
        *,
        is_told: bool = True,
    ) -> CloseReason | None:
        """The one way into a room; nothing happens to a session that is there already.

        Args:
            entered: called once it is in and before anybody is told of it.
            is_told: whether others are told of it now; otherwise ``tell_in_time`` follows.

        Returns:
            Why it cannot, None if it is in.
        """
        if session.member_of(name) is not None:
            return None
        if self._state.ban_of(session.user, name, now) is not None:
            return errors.BANNED
        if len(session.members) >= self._limits.rooms_per_client:
            return errors.RATE_LIMITED
        room = self._rooms.get(name) or self._make_room_in_bounds(name)
        if room is None:
            return errors.OVER_CAPACITY
        user = session.user
        is_known = user in room.users
        talk = room.talk
        if talk is None and session.talk is not None:
            talk = room.begin_talk(self._state.first_rev)
        self._deadlines.cancel("grace", (room, user))
        self._deadlines.cancel("linger", room)
        if not room.members:
            # To nobody: whoever comes into a room that only the graces of others keep hears of no old departures.
            room.arrivals.clear()
            room.departures.clear()
            if talk is not None and talk.roster.changed:
                self.tell_roster(room)
        session.members += (room.enter(session),)
        session.steer()
        if entered is not None:
            entered(session.members[-1])
        if talk is not None:
            if session.talk is not None:
                talk.users.add(user)
            talk.roster.note(user)
        if not is_known:
            presence.note_arrival(room, user)
            if self._state.reports:
                self._effects.append(Report(presence.joined(room, user, room.name_of(user))))
        elif session.talk is None and user not in room.arrivals:
            # Nobody else hears of a further session. If they have yet to hear of the first, it hears that with them.
            self.answer(session, presence.told_roster(room))
            self.answer(session, presence.joined(room, user, session.username))
            self.judge_direct(session, now)
        if is_told and is_known:
            self._tell_roster_in_time(room, now)
        elif is_told:
            self.tell_in_time(room, now)
        return None

    def join_error(self, session: Session[C], room: str, reason: CloseReason, now: float) -> tuple[str, str]:
        """The name and text of the error for a join that came to nothing."""
        name, message = _JOIN_ERRORS[reason]
        ban = self._state.ban_of(session.user, room, now) if reason is errors.BANNED else None
        return name, message if ban is None else ban.told()

    # -- leaving ------------------------------------------------------------------------------------------------------

    def leave_room(self, session: Session[C], name: str, now: float) -> None:
        member = session.member_of(name)
        if member is not None:
            self.leave(session, member, now, keep_unread=True)
            self.judge_direct(session, now)

    def leave(
        self,
        session: Session[C],
        member: Member[C],
        now: float,
        *,
        keep_unread: bool,
        tell: bool = True,
        will_be_back: bool = False,
        reason: str = "",
    ) -> None:
        """The one way out of a room. What the log held for the member until now becomes its own; then others hear.

        Args:
            keep_unread: whether it gets that.
            tell: whether others hear.
            will_be_back: it did not want to go, so its user is here until the grace is over, if it speaks v1.
            reason: why, if they are to be told.
        """
        room, user = member.room, session.user
        if keep_unread:
            self.keep_unread(session, member)
        session.members = tuple(other for other in session.members if other is not member)
        is_last = room.exit(member)
        session.steer()
        talk = room.talk
        if not is_last:
            if talk is not None:
                talk.roster.note(user)
                if tell:
                    self._tell_roster_in_time(room, now)
            return
        if will_be_back and talk is not None and user in talk.users and self._limits.presence_grace_s:
            self._deadlines.arm("grace", (room, user), now)
            return
        self._depart(room, user, reason)
        if tell and room.members:
            self.tell_in_time(room, now)
        self.free_if_empty(room, now)

    def end_graces(self, user: str, room: str | None, reason: CloseReason, now: float) -> bool:
        """The user is put out of a room, or of all: then it is not waited for there any more; whether it was."""
        was_waited_for = False
        found = self._rooms.get(room) if room is not None else None
        for each in [found] if found else list(self._rooms.values()) if room is None else ():
            if each.users.get(user) == 0:
                was_waited_for = True
                self._deadlines.cancel("grace", (each, user))
                self._end_grace(each, user, reason.name, now)
        if room is None:
            for secret in [secret for secret, name in self._state.ended.items() if name == user]:
                was_waited_for = True
                del self._state.ended[secret]
                self._deadlines.cancel("session", secret)
        return was_waited_for

    def grace_ended(self, room: Room[C], user: str, now: float) -> None:
        """The user is not back."""
        self._end_grace(room, user, "", now)

    def _end_grace(self, room: Room[C], user: str, reason: str, now: float) -> None:
        self._depart(room, user, reason)
        if room.members:
            self.tell_in_time(room, now)
        self.free_if_empty(room, now)

    def _depart(self, room: Room[C], user: str, reason: str) -> None:
        if room in self._state.passing:
            self._state.tell_passing(room)  # nothing of a user's comes after its leaving
        name = room.name_of(user)
        del room.users[user]
        room.names.pop(user, None)
        if self._state.reports:
            self._effects.append(Report(presence.left(room, user, name)))
        presence.note_departure(room, user, name)
        talk = room.talk
        if talk is not None:
            talk.users.discard(user)
            talk.metas.pop(user, None)
            talk.typing_due_s.pop(user, None)
            self._deadlines.cancel("typing", (room, user))
            talk.roster.note(user, reason)

    def keep_unread(self, session: Session[C], member: Member[C]) -> None:
        if member.cursor < member.room.head:
            log = member.log
            self._delivery.give(session, log.frames[member.cursor - log.base :], log.lag_bytes(member.cursor))

    def vacate(
        self, session: Session[C], now: float, *, keep_unread: bool, will_be_back: bool = False, reason: str = ""
    ) -> None:
        for member in session.members:
            self.leave(session, member, now, keep_unread=keep_unread, will_be_back=will_be_back, reason=reason)

    # -- telling ------------------------------------------------------------------------------------------------------

    def tell_in_time(self, room: Room[C], now: float) -> None:
        """Who came and went, to everybody: now or, where that would be too often, some time later."""
        if presence.has_news(room):
            self._tell_presence_in_time(room, now)
        self._tell_roster_in_time(room, now)

    def _tell_roster_in_time(self, room: Room[C], now: float) -> None:
        talk = room.talk
        if talk is None or not talk.roster.changed or self._deadlines.is_armed("presence", room):
            return
        due = self._roster_rate.take(talk.due_s, now)
        if len(room.members) > self._limits.presence_batch_members:
            self.tell_roster(room)
            self._deadlines.arm("presence", room, now)
        elif due is not None:
            talk.due_s = due
            self.tell_roster(room)
        else:
            self._deadlines.arm("presence", room, now)

    def _tell_presence_in_time(self, room: Room[C], now: float) -> None:
        deadlines = self._deadlines
        if len(room.members) <= self._limits.presence_batch_members:
            self.tell_presence(room)
        elif not deadlines.is_armed("roster", room):
            self.tell_presence(room)
            deadlines.arm("roster", room, now)

    def tell_presence(self, room: Room[C]) -> None:
        """In the plain dialect's words."""
        if room.talk is not None and all(lane.talker is not None for lane in room.lanes):
            room.arrivals.clear()
            room.departures.clear()
            return
        for message in presence.news(room):
            room.append(message)
        self._state.grow(room)

    def tell_roster(self, room: Room[C]) -> None:
        """In v1's words."""
        talk = room.talk
        assert talk is not None
        notice = talk.roster.news(room.name, room.item_of)
        if notice is not None and any(lane.talker is not None for lane in room.lanes):
            room.append(Message(PRESENCE, room.name, "", "", "", notice=notice))
            self._state.grow(room)

    def roster_due(self, room: Room[C], now: float) -> None:
        """The time for a further telling has come."""
        talk = room.talk
        if talk is not None and talk.roster.changed and self._rooms.get(room.name) is room:
            self.tell_roster(room)
            if len(room.members) > self._limits.presence_batch_members:
                self._deadlines.arm("presence", room, now)

    def answer(self, session: Session[C], message: Message) -> None:
        text = session.lane.codec.encode(message)
        if text:
            frame = session.lane.direct(text)
            self._delivery.give(session, [frame], wire_bytes(frame))

    def refuse_join(self, session: Session[C], reason: CloseReason, now: float) -> None:
        """A plain client asked for one room; without it there is nothing to stay for."""
        if session.members:
            self._refusals[reason.name] += 1
        else:
            self.refuse(session, reason, now)

    def refuse_banned(self, session: Session[C], ban: Sanction, now: float) -> None:
        """It is let in nowhere."""
        self.close(session, errors.BANNED, self._refusals, now, message=ban.reason, until_ms=ban.until_ms)

    def refuse(self, session: Session[C], reason: CloseReason, now: float) -> None:
        self.close(session, reason, self._refusals, now)

    def tell_put_out(
        self, session: Session[C], room: str, reason: CloseReason, *, message: str = "", until_ms: int | None = None
    ) -> None:
        """A v1 client is in a room no more, but stays connected."""
        fields = {"room": room, "code": reason.code, "reason": message or reason.name}
        self._state.give(session, "kicked", fields if until_ms is None else {**fields, "until_ms": until_ms})

    def evict(
        self, session: Session[C], reason: CloseReason, now: float, *, message: str = "", until_ms: int | None = None
    ) -> None:
        """Close a client and tell its rooms. What it has not read goes out before, unless it does not read.

        Why, and until when it is not let in again, is told to a client of v1.
        """
        if not session.is_live:
            return
        is_slow = reason is errors.SLOW_CONSUMER or reason is errors.NO_PONG
        if is_slow:
            session.direct = None
            session.direct_bytes = 0
        # Whom the code tells to come back will be back.
        self.vacate(session, now, keep_unread=not is_slow, will_be_back=reason.retry != "no", reason=reason.name)
        self.close(session, reason, self._evictions, now, message=message, until_ms=until_ms)

    def close(
        self,
        session: Session[C],
        reason: CloseReason,
        counter: Counter[str],
        now: float,
        *,
        message: str = "",
        until_ms: int | None = None,
    ) -> None:
        counter[reason.name] += 1
        talk = session.talk
        if talk is not None:
            fields: dict[str, Any] = {"code": reason.code, "name": reason.name, "retry": reason.retry}
            if reason.retry == "after":
                fields["reconnect_ms"] = self.reconnect_ms()
            if message:
                fields["reason"] = message
            if until_ms is not None:
                fields["until_ms"] = until_ms
            self._delivery.cut(session)
            self._state.give(session, "bye", fields)
            self.end_session(session, now, can_resume=reason.retry != "no")
        session.state = State.CLOSING
        session.blocked = False
        session.waiting = True  # it is told to close, which says to pull
        self._delivery.unname(session)
        self._deadlines.cancel_all(session)
        self._effects.append(Close(session.client, reason))

    def judge_direct(self, session: Session[C], now: float) -> None:
        if session.direct_bytes > self._limits.direct_bytes and session.blocked:
            self.evict(session, errors.SLOW_CONSUMER, now)

    def end_session(self, session: Session[C], now: float, *, can_resume: bool) -> None:
        """What its secret is good for from now on. A second call does nothing."""
        state = self._state
        assert session.talk is not None
        secret = session.talk.secret
        if state.secrets.get(secret) is not session:
            return
        del state.secrets[secret]
        if can_resume:
            state.ended[secret] = session.user
            self._deadlines.arm("session", secret, now)
            while len(state.ended) > self._limits.sessions:
                oldest = next(iter(state.ended))
                del state.ended[oldest]
                self._deadlines.cancel("session", oldest)

    def forget_sessions(self) -> None:
        """Nobody will be back: this hub has ended."""
        state = self._state
        state.has_ended = True
        for secret in state.ended:
            self._deadlines.cancel("session", secret)
        state.ended.clear()
        for key in state.keys:
            self._deadlines.cancel("key", key)
        state.keys.clear()
        state.loading.clear()
        kinds: tuple[Timer, ...] = ("fetch", "authenticate", "authorize")
        for kind in kinds:
            while (waiting := self._deadlines.oldest(kind)) is not None:
                self._deadlines.cancel(kind, waiting)
        self._delivery.asking.clear()
        for user, mailbox in list(state.mailboxes.items()):
            del state.mailboxes[user]
            self._forget_log(mailbox)

    def reconnect_ms(self) -> list[int]:
        """When to come back: some time between these two, so that not everybody does at once."""
        return [RECONNECT_LEAST_MS, RECONNECT_MOST_MS + len(self._state.sessions) * RECONNECT_EACH_MS]

    def fail(
        self,
        session: Session[C],
        name: str,
        message: str,
        id_: Id | None,
        *,
        field: str = "",
        room: str = "",
        retry_after_s: float = 0.0,
        now: float | None = None,
    ) -> None:
        """A v1 request comes to nothing: say why. Errors of the peer's own making, with ``now``, are counted."""
        if not session.is_live:
            return
        fields = self.error_fields(name, message, id_, field=field, room=room, retry_after_s=retry_after_s)
        self._state.give(session, "error", fields)
        if now is None:
            return
        talk = session.talk
        assert talk is not None
        due = self._error_rate.take(talk.errors_due_s, now)
        if due is None:
            self.evict(session, errors.RATE_LIMITED, now)
        else:
            talk.errors_due_s = due
            self.judge_direct(session, now)

    def error_fields(
        self, name: str, message: str, id_: Id | None, *, field: str = "", room: str = "", retry_after_s: float = 0.0
    ) -> Mapping[str, Any]:
        """The message of v1 that says so."""
        error = errors.ERRORS[name]
        fields: dict[str, Any] = {} if id_ is None else {"id": id_}
        fields |= {"code": error.code, "name": name, "message": message, "retry": error.retry}
        if field:
            fields["field"] = field
        if retry_after_s:
            fields["retry_after_ms"] = math.ceil(retry_after_s * 1000)
        if room:
            fields["room"] = room
        return fields

    # -- rooms --------------------------------------------------------------------------------------------------------

    def make_room(self, name: str) -> Room[C]:
        room = self._rooms[name] = self._state.make_log(name)
        return room

    def known_room(self, name: str) -> Room[C] | None:
        """The room, made anew if only the store has it. None if there is none, or no place for it."""
        store = self._state.store
        found = self._rooms.get(name)
        if found is None and store is not None and name in store.rooms:
            return self._make_room_in_bounds(name)
        return found

    def when_loaded(self, room: Room[C], session: Session[C], then: Callable[[float], None], now: float) -> None:
        """Do something for a session, if it is still there then, once the room's log has what the store has of it."""
        most = int(min(self._limits.log_messages, MOST_LOADED)) - len(room.log)
        most_bytes = self._limits.log_bytes - room.log_bytes
        if room.is_loaded or most <= 0 or most_bytes <= 0:
            room.is_loaded = True
            then(now)
            return
        waiting = self._state.loading.setdefault(room, [])
        waiting.append((session, then))
        if len(waiting) == 1:
            before = first_logged(room)

            def fetched(page: Page | None, now: float) -> None:
                records = None if page is None else self._state.records_of(room, page, now)
                self._loaded(room, records, before, now)

            fetch = self._state.fetch
            fetch(room.name, fetched, now, after=None, before=before, limit=most, most_bytes=most_bytes)

    def _loaded(self, room: Room[C], records: Sequence[Record] | None, before: int, now: float) -> None:
        """The store has given what it has of a room's log below this offset. None: it could not."""
        is_mailbox = self._state.mailboxes.get(room.name[1:]) is room
        if self._rooms.get(room.name) is room or is_mailbox:
            if records is not None and first_logged(room) == before:
                # Otherwise some was let go of meanwhile, and these do not fit before it.
                room.prepend([record for record in records if record[6] > now - self._limits.log_age_s])
                if self._state.logs_age and room.log and not self._deadlines.is_armed("age", room):
                    self._deadlines.arm("age", room, now)
            room.is_loaded = records is not None
        for session, then in self._state.loading.pop(room, ()):
            if session.is_live:
                then(now)
        if not is_mailbox:
            # Not at once: a hello may wait for other rooms before it joins this one.
            self._deadlines.arm("loaded", room, now)
        elif not any(device.talk is not None for device in self._state.users.get(room.name[1:], ())):
            self._deadlines.arm("linger", room, now)

    def _make_room_in_bounds(self, name: str) -> Room[C] | None:
        return self.make_room(name) if self.makes_place(name) else None

    def makes_place(self, name: str) -> bool:
        """Whether there may be a room or mailbox of this name; the oldest that nobody is in makes way for it."""
        if not self._state.may_store(name):
            return False
        if self._state.has_place():
            return True
        oldest = self._deadlines.oldest("linger")
        if oldest is None:
            return False
        self.linger_ended(oldest)
        return True

    def free_if_empty(self, room: Room[C], now: float) -> None:
        if room.members or room.users or self._rooms.get(room.name) is not room or room in self._state.loading:
            return
        if room.talk is not None and self._limits.room_linger_s and not self._admission.draining:
            self._deadlines.arm("linger", room, now)
        else:
            self.forget_room(room)

    def linger_ended(self, room: Room[C]) -> None:
        """Nobody has come for a long time to a room that nobody was in, or for a mailbox."""
        self._deadlines.cancel("linger", room)
        if self._rooms.get(room.name) is room:
            self.forget_room(room)
        else:
            del self._state.mailboxes[room.name[1:]]
            self._forget_log(room)

    def forget_room(self, room: Room[C]) -> None:
        del self._rooms[room.name]
        if room.talk is not None:
            self._state.first_rev = max(self._state.first_rev, room.talk.roster.rev + 1)
        for user, devices in list(room.users.items()):
            if not devices:  # it will not be back
                self._deadlines.cancel("grace", (room, user))
                self._depart(room, user, "")
        self._forget_log(room)

    def _forget_log(self, room: Room[C]) -> None:
        state = self._state
        state.put_away(room)
        state.grown.pop(room, None)
        state.passing.pop(room, None)
        self._delivery.forget(room)
        self._deadlines.cancel_all(room)
        # Its roster may be due in this very tick: then there is nothing left to tell. Its log stays for who replays it.
        room.arrivals.clear()
        room.departures.clear()
