"""The hub: a pure state machine. Facts and orders go in through ``handle``, orders come out of it.

    effects = hub.handle(event_or_command, now)     apply them in order, before the next goes in
    hub.handle(Ticked(), now)                       once a tick, before anything is written
    while (share := hub.share(64)): ...             one chunk for many clients (those that said ``shares``)
    for client in hub.ready(): ...                  the others: each pulls until it gets nothing

What a peer sends never raises. What the caller does wrong (an order with a bad room name, a client connected twice, a
``room_rule`` that raises) raises before anything has changed.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Final, Generic, Literal, TypeAlias, assert_never

from typing_extensions import TypeVar

from roomhub.core import errors, presence
from roomhub.core.admission import Admission
from roomhub.core.codec import Chat, Chunk, Join, Leave, wire_bytes
from roomhub.core.commands import CloseRoom, Command, Dismiss, Drain, Enter, Exit, Kick, Publish
from roomhub.core.deadlines import Deadlines
from roomhub.core.delivery import Delivery
from roomhub.core.effects import Announce, Authorize, Close, Effect, Probe, Report, Settle
from roomhub.core.errors import CloseReason
from roomhub.core.events import (
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Event,
    Heard,
    Published,
    Received,
    Refused,
    Ticked,
    Writable,
)
from roomhub.core.limits import Limits
from roomhub.core.message import CHAT, Message, Position
from roomhub.core.names import username_fault
from roomhub.core.rates import Rate
from roomhub.core.room import Member, Room, Share
from roomhub.core.session import OPEN, Session, State
from roomhub.core.statistics import Statistics

__all__ = ["Hub", "Share", "Statistics"]

C = TypeVar("C", bound=Hashable)

PLAIN_ROSTER_INTERVALS: Final = 2
"""A large room's plain roster goes out once in this many ``presence_interval_s`` (once a second by default)."""
LOG_AGE_LOOKS: Final = 8
"""A room's log is looked through so often in ``log_age_s``, for what would be too old at the next look."""

Timer: TypeAlias = Literal["ping", "silence", "idle", "write", "roster", "age"]


class Hub(Generic[C]):
    """Rooms and the connections in them.

    Args:
        epoch: text that no other hub of this deployment, nor an earlier run of this one, has; rooms' epochs begin so.
        limits: every bound.
        room_rule: gives None for a good room name and otherwise what is wrong with it. What it raises comes out of
            ``handle``: it is the program's, and nobody has joined. It is not asked for a name that has no UTF-8.

    Attributes:
        announces: give ``Announce`` for every message and wait for ``Published`` (a message hook, a backplane).
        authorizes: give ``Authorize`` for every join and wait for ``Authorized``.
        reports: give ``Report`` for every chat, arrival and departure.
    """

    def __init__(
        self,
        *,
        epoch: str,
        limits: Limits | None = None,
        room_rule: Callable[[str], str | None] | None = None,
    ) -> None:
        limits = limits or Limits()
        self.limits: Limits = limits
        self.announces: bool = False
        self.authorizes: bool = False
        self.reports: bool = False
        self._admission = Admission(limits, room_rule)
        self.room_rule: Callable[[str], str | None] = self._admission.room_fault
        self._epoch = epoch
        self._incarnations = 0
        self._wall_offset_ms = 0.0
        self._logs_age = math.isfinite(limits.log_age_s)
        self._puts_out_idle = math.isfinite(limits.idle_timeout_s)
        self._sessions: dict[C, Session[C]] = {}
        self._rooms: dict[str, Room[C]] = {}
        self._users: dict[str, dict[Session[C], None]] = {}
        self._delivery: Delivery[C] = Delivery(limits)
        # Rooms with new entries, whose blocked members are judged at the next tick.
        self._grown: dict[Room[C], None] = {}
        self._effects: list[Effect[C]] = []
        self._deadlines: Deadlines[Timer, Any] = Deadlines(
            {
                "ping": limits.ping_interval_s,
                "silence": limits.pong_timeout_s,
                "idle": limits.idle_timeout_s,
                "write": limits.write_timeout_s,
                "roster": limits.presence_interval_s * PLAIN_ROSTER_INTERVALS,
                "age": limits.log_age_s / LOG_AGE_LOOKS,
            }
        )
        # The time a probed peer has had at least when its silence is held against it; less, and it is we who were late.
        self._answer_s = (limits.pong_timeout_s - limits.ping_interval_s) / 2
        self._message_rate = Rate(limits.message_rate_per_s, limits.message_burst)
        self._messages_in = self._published = self._dropped = 0
        self._bytes_in = 0
        self._evictions: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Connected: self._connected,
            Received: self._received,
            Heard: self._heard,
            Blocked: self._blocked,
            Writable: self._writable,
            Disconnected: self._disconnected,
            Authorized: self._authorized,
            Denied: self._denied,
            Published: self._announced,
            Refused: self._refused,
            ClockSet: self._clock_set,
            Ticked: self._ticked,
            Publish: self._publish,
            Enter: self._enter,
            Exit: self._exit,
            Kick: self._kick,
            CloseRoom: self._close_room,
            Dismiss: self._dismiss,
            Drain: self._drain,
        }

    # -- the two ways in and out --------------------------------------------------------------------------------------

    def handle(self, item: Event[C] | Command[C], now: float) -> Sequence[Effect[C]]:
        """Take one fact or order; return the orders that follow from it.

        Args:
            item: an event or a command.
            now: monotonic seconds.

        Raises:
            ValueError: a command with a bad room or user name or content, or ``Connected`` for a client that is here.
            KeyError: ``Enter`` for a client that is not connected.
            TypeError: something that is neither an event nor a command, or holds what is no text or no reason.
            Exception: whatever a ``room_rule`` of the program's own raises.
        """
        handler = self._handlers.get(type(item))
        if handler is None:
            raise TypeError(f"neither an event nor a command: {item!r}")
        handler(item, now)
        if not self._effects:
            return ()
        effects = self._effects
        self._effects = []
        return effects

    def share(self, most_members: int = 256) -> Share[C] | None:
        """Serve the next members of the next dirty room: one turn, rooms in rotation. None when all are served.

        Args:
            most_members: how many members a turn looks at; a flush with many turns can read sockets between them.

        Raises:
            ValueError: a turn of no members, which would never end.
        """
        if most_members < 1:
            raise ValueError(f"most_members must be at least 1, not {most_members}")
        return self._delivery.share(most_members)

    def ready(self) -> Sequence[C]:
        """The clients that have something to pull; each is named at most once until it has pulled all of it."""
        return self._delivery.ready()

    def take_named(self) -> Sequence[C]:
        """As ``ready``, without serving any room: for a driver that serves them turn by turn with ``share``."""
        return self._delivery.take_named()

    def pull(self, client: C) -> Chunk:
        """The client's next frames, at least one and about ``chunk_bytes`` at most; falsy when it has all.

        Pull until then, or say ``Blocked``. A client the hub closes gets its last frames so; an unknown client gets
        nothing.
        """
        session = self._sessions.get(client)
        return b"" if session is None else self._delivery.pull(session)

    def next_deadline(self) -> float:
        """When ``handle(Ticked(), now)`` is due, in monotonic seconds; ``inf`` for never."""
        return self._deadlines.next()

    def is_backlogged(self, client: C) -> bool:
        """Whether a room of the client's has more to serve to healthy members than one may lag by.

        While it is so, do not read from the client: its words would only make the backlog longer.
        """
        pressing = self._delivery.pressing
        if not pressing:
            return False
        session = self._sessions.get(client)
        return session is not None and any(member.room in pressing for member in session.members)

    @property
    def pressing(self) -> Collection[Room[C]]:
        """The rooms that have so much to serve that a flush should come before more is read; always the same object."""
        return self._delivery.pressing.keys()

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to share and nobody to name."""
        return self._delivery.is_settled

    # -- questions ----------------------------------------------------------------------------------------------------

    def rooms(self) -> Sequence[str]:
        """The names of the rooms there are."""
        return tuple(self._rooms)

    def clients(self) -> Sequence[C]:
        """The connections there are, those that are being closed too."""
        return tuple(self._sessions)

    @property
    def is_empty(self) -> bool:
        """Whether there is no connection."""
        return not self._sessions

    def members(self, room: str) -> Sequence[str]:
        """The users in a room in order of joining, each once; empty if there is no such room."""
        found = self._rooms.get(room)
        return tuple(found.users) if found else ()

    def history(self, room: str, limit: float = math.inf) -> Sequence[Message]:
        """The newest messages that the room keeps, oldest first."""
        found = self._rooms.get(room)
        return found.messages(limit) if found else ()

    def refusal(self, address: str = "") -> CloseReason | None:
        """Why a connection from ``address`` would not be taken now; None if it would."""
        return self._admission.refusal(address)

    @property
    def draining(self) -> bool:
        return self._admission.draining

    def state_of(self, client: C) -> State:
        session = self._sessions.get(client)
        return State.ABSENT if session is None else session.state

    def statistics(self) -> Statistics:
        """A copy of the numbers. O(rooms and clients that are behind)."""
        return Statistics(
            connections=len(self._sessions),
            rooms=len(self._rooms),
            members=sum(len(room.members) for room in self._rooms.values()),
            messages_in=self._messages_in,
            messages_published=self._published,
            messages_dropped=self._dropped,
            deliveries=self._delivery.frames,
            bytes_in=self._bytes_in,
            bytes_out=self._delivery.bytes,
            lag_messages=max(
                (room.head - member.cursor for room in self._rooms.values() for member in room.behind), default=0
            ),
            evictions=dict(self._evictions),
            refusals=dict(self._refusals),
        )

    # -- events: connections ------------------------------------------------------------------------------------------

    def _connected(self, event: Connected[C], now: float) -> None:
        client = event.client
        if client in self._sessions:
            raise ValueError(f"{client!r} is connected already; a new connection needs a handle of its own")
        refusal = self.refusal(event.address)
        if refusal is None and username_fault(
            event.username, max_bytes=self.limits.name_bytes, plain=not event.lane.v1
        ):
            refusal = errors.PROTOCOL
        # The rule is asked before anything changes, since it may raise.
        rooms = () if refusal is not None else [(room, self.room_rule(room)) for room in event.rooms]
        session = Session(client, event.lane, event.username, event.address, shares=event.shares, now=now)
        self._sessions[client] = session
        self._admission.enter(event.address)
        self._users.setdefault(event.username, {})[session] = None
        if refusal is not None:
            self._refuse(session, refusal)
            return
        deadlines = self._deadlines
        deadlines.arm("ping", session, now)
        deadlines.arm("silence", session, now)
        deadlines.arm("idle", session, now)
        for room, fault in rooms:
            if session.state is State.OPEN:
                self._ask_to_join(session, room, fault, now)

    def _received(self, event: Received[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None or session.state is not OPEN:
            return
        text = event.text
        self._messages_in += 1
        if session.heard_at != now:
            session.heard_at = now
            self._deadlines.arm("silence", session, now)
        if self._puts_out_idle:
            self._deadlines.arm("idle", session, now)
        due = self._message_rate.take(session.message_due_s, now)
        if due is None:
            self._dropped += 1
            self._evict(session, errors.RATE_LIMITED, now)
            return
        session.message_due_s = due
        try:
            self._bytes_in += len(text) if text.isascii() else wire_bytes(text)
        except UnicodeEncodeError:
            # No wire can carry a lone surrogate, but a program might; it would fail at the framing, for every member.
            self._dropped += 1
            return
        request = session.lane.codec.decode(text)
        match request:
            case Chat():
                self._chat(session, request, now)
            case Join():
                self._ask_to_join(session, request.room, self.room_rule(request.room), now)
            case Leave():
                self._leave_room(session, request.room, now)
            case _:
                assert_never(request)

    def _heard(self, event: Heard[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is not None and session.state is State.OPEN:
            session.heard_at = now
            self._deadlines.arm("silence", session, now)

    def _blocked(self, event: Blocked[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None or session.state is not State.OPEN:
            return
        if not session.blocked:
            session.blocked = True
            self._delivery.stop(session)
        self._deadlines.arm("write", session, now)

    def _writable(self, event: Writable[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None or session.state is not State.OPEN or not session.blocked:
            return
        session.blocked = False
        self._deadlines.cancel("write", session)
        self._delivery.resume(session)

    def _disconnected(self, event: Disconnected[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None:
            return
        session.direct = None
        was_open = session.state is State.OPEN
        session.state = State.ABSENT
        if was_open:
            self._vacate(session, now, keep_unread=False)
            self._deadlines.cancel_all(session)
        del self._sessions[event.client]
        self._delivery.unname(session)
        self._admission.exit(session.address)
        sessions = self._users[session.username]
        del sessions[session]
        if not sessions:
            del self._users[session.username]

    def _authorized(self, event: Authorized[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is not None and session.state is State.OPEN:
            self._join(session, event.room, now)

    def _denied(self, event: Denied[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is not None and session.state is State.OPEN:
            self._refuse_join(session, errors.FORBIDDEN)

    # -- events: messages, time ---------------------------------------------------------------------------------------

    def _announced(self, event: Published, now: float) -> None:
        message = event.message
        self._check_message(message.room, content=message.content, username=message.username, user=message.user)
        # A copy: it gets its place, and whoever made the event may say it again.
        own = Message(CHAT, message.room, message.user, message.username, message.content)
        self._take_place(own, event.ref, now)

    def _refused(self, event: Refused, now: float) -> None:
        self._dropped += 1
        if event.ref is not None:
            self._effects.append(Settle(event.ref, None))

    def _clock_set(self, event: ClockSet, now: float) -> None:
        self._wall_offset_ms = event.unix_ms - now * 1000

    def _ticked(self, event: Ticked, now: float) -> None:
        for kind, key in self._deadlines.expired(now):
            match kind:
                case "ping":
                    if key.probed_at <= key.heard_at:
                        key.probed_at = now
                    self._effects.append(Probe(key.client))
                    self._deadlines.arm("ping", key, now)
                case "silence":
                    if key.probed_at > key.heard_at and now - key.probed_at >= self._answer_s:
                        self._evict(key, errors.NO_PONG, now)
                    else:
                        # The program was late, not the peer: it had no time to answer. So a stalled event loop, or a
                        # machine that slept, does not cost everybody the connection.
                        self._deadlines.arm("silence", key, now)
                case "idle":
                    self._evict(key, errors.IDLE, now)
                case "write":
                    self._evict(key, errors.SLOW_CONSUMER, now)
                case "roster":
                    # Armed again already if somebody put out in this tick was told of: then the rest waits for that.
                    if presence.has_news(key) and not self._deadlines.is_armed("roster", key):
                        self._tell_presence(key)
                        self._deadlines.arm("roster", key, now)
                case "age":
                    self._age_log(key, now)
                case _:
                    assert_never(kind)
        while self._grown:
            # Again for the notices of those put out.
            self._judge_lag(now)

    def _age_log(self, room: Room[C], now: float) -> None:
        """Let go of the history that would be older than ``log_age_s`` at the next look."""
        room.forget(now - self.limits.log_age_s * (1 - 1 / LOG_AGE_LOOKS))
        if room.log:
            self._deadlines.arm("age", room, now)

    def _judge_lag(self, now: float) -> None:
        """Put out who is too far behind. Only whoever refused a write in an earlier tick can be: others had no turn."""
        limits = self.limits
        grown, self._grown = self._grown, {}
        slow = [
            member.session
            for room in grown
            for member in room.behind
            if member.session.blocked
            and (
                room.head - member.cursor > (limits.v1_lag_messages if member.log.lane.v1 else limits.lag_messages)
                or member.log.lag_bytes(member.cursor) > limits.lag_bytes
            )
        ]
        for session in slow:
            self._evict(session, errors.SLOW_CONSUMER, now)

    def _judge_direct(self, session: Session[C], now: float) -> None:
        if session.direct_bytes > self.limits.direct_bytes and session.blocked:
            self._evict(session, errors.SLOW_CONSUMER, now)

    # -- commands -----------------------------------------------------------------------------------------------------

    def _publish(self, command: Publish, now: float) -> None:
        self._check_message(command.room, content=command.content, username=command.username)
        message = Message(CHAT, command.room, command.username, command.username, command.content)
        if self.announces:
            self._effects.append(Announce(message, command.ref))
        else:
            self._take_place(message, command.ref, now)

    def _enter(self, command: Enter[C], now: float) -> None:
        session = self._sessions.get(command.client)
        if session is None:
            raise KeyError(f"no connected client is {command.client!r}")
        self._check_room_name(command.room)
        if session.state is State.OPEN:
            self._ask_to_join(session, command.room, None, now)

    def _exit(self, command: Exit[C], now: float) -> None:
        session = self._sessions.get(command.client)
        if session is not None and session.state is State.OPEN:
            self._leave_room(session, command.room, now)

    def _kick(self, command: Kick, now: float) -> None:
        self._check_reason(command.reason)
        for session in list(self._users.get(command.user, ())):
            if session.state is not State.OPEN:
                continue
            if command.room is None:
                self._evict(session, command.reason, now)
            elif session.member_of(command.room) is not None:
                if len(session.members) == 1:
                    self._evict(session, command.reason, now)
                else:
                    self._leave_room(session, command.room, now)

    def _close_room(self, command: CloseRoom, now: float) -> None:
        room = self._rooms.get(command.room)
        if room is None:
            return
        # Nobody stays to hear who left, so nobody is told: closing a room of n is n closes, not n² notices.
        self._forget_room(room)
        for member in list(room.members.values()):
            session = member.session
            self._leave(session, member, now, keep_unread=True, tell=False)
            if not session.members:
                self._close(session, errors.ROOM_CLOSED, self._evictions)

    def _dismiss(self, command: Dismiss[C], now: float) -> None:
        self._check_reason(command.reason)
        found = [self._sessions.get(client) for client in dict.fromkeys(command.clients)]
        leaving = [session for session in found if session is not None and session.state is State.OPEN]
        # All of them before the first leaves, so that none gets to hear of the others.
        for session in leaving:
            for member in session.members:
                self._keep_unread(session, member)
        for session in leaving:
            self._vacate(session, now, keep_unread=False)
            self._close(session, command.reason, self._evictions)

    def _drain(self, command: Drain, now: float) -> None:
        self._admission.draining = True
        for room in list(self._rooms.values()):
            self._forget_room(room)
        for session in list(self._sessions.values()):
            if session.state is State.OPEN:
                for member in session.members:
                    self._leave(session, member, now, keep_unread=True, tell=False)
                self._close(session, errors.DRAINING, self._evictions)

    # -- joining and leaving ------------------------------------------------------------------------------------------

    def _ask_to_join(self, session: Session[C], name: str, fault: str | None, now: float) -> None:
        """``fault`` is what the rule has to say of the name."""
        if not self._admission.takes_join(session.address, session.username, now):
            self._refuse_join(session, errors.RATE_LIMITED)
        elif fault is not None:
            self._refuse_join(session, errors.PROTOCOL)
        elif self.authorizes:
            self._effects.append(Authorize(session.client, name, session.username))
        else:
            self._join(session, name, now)

    def _join(self, session: Session[C], name: str, now: float) -> None:
        if session.member_of(name) is not None:
            return
        if len(session.members) >= self.limits.rooms_per_client:
            self._refuse_join(session, errors.RATE_LIMITED)
            return
        room = self._rooms.get(name)
        if room is None:
            if len(self._rooms) >= self.limits.rooms:
                self._refuse_join(session, errors.OVER_CAPACITY)
                return
            room = self._make_room(name)
        user = session.username
        if user in room.users:
            session.members += (room.enter(session),)
            session.steer()
            # Nobody else hears of a further session. If they have yet to hear of the first, it hears that with them.
            if user not in room.arrivals:
                self._answer(session, presence.told_roster(room))
                self._answer(session, presence.joined(room, user))
                self._judge_direct(session, now)
            return
        session.members += (room.enter(session),)
        session.steer()
        presence.note_arrival(room, user)
        if self.reports:
            self._effects.append(Report(presence.joined(room, user)))
        self._tell_presence_in_time(room, now)

    def _leave_room(self, session: Session[C], name: str, now: float) -> None:
        member = session.member_of(name)
        if member is not None:
            self._leave(session, member, now, keep_unread=True)
            self._judge_direct(session, now)

    def _leave(
        self, session: Session[C], member: Member[C], now: float, *, keep_unread: bool, tell: bool = True
    ) -> None:
        """The one way out of a room. What the log held for the member until now becomes its own; then others hear."""
        room = member.room
        if keep_unread:
            self._keep_unread(session, member)
        session.members = tuple(other for other in session.members if other is not member)
        last = room.exit(member)
        session.steer()
        if last:
            if self.reports:
                self._effects.append(Report(presence.left(room, session.username)))
            if tell and room.members:
                presence.note_departure(room, session.username)
                self._tell_presence_in_time(room, now)
        self._free_if_empty(room)

    def _keep_unread(self, session: Session[C], member: Member[C]) -> None:
        if member.cursor < member.room.head:
            log = member.log
            self._delivery.give(session, log.frames[member.cursor - log.base :], log.lag_bytes(member.cursor))

    def _vacate(self, session: Session[C], now: float, *, keep_unread: bool) -> None:
        for member in session.members:
            self._leave(session, member, now, keep_unread=keep_unread)

    def _tell_presence_in_time(self, room: Room[C], now: float) -> None:
        deadlines = self._deadlines
        if len(room.members) <= self.limits.presence_batch_members:
            self._tell_presence(room)
        elif not deadlines.is_armed("roster", room):
            self._tell_presence(room)
            deadlines.arm("roster", room, now)

    def _tell_presence(self, room: Room[C]) -> None:
        for message in presence.news(room):
            room.append(message)
        self._grow(room)

    # -- speaking -----------------------------------------------------------------------------------------------------

    def _chat(self, session: Session[C], chat: Chat, now: float) -> None:
        members = session.members
        member = members[0] if chat.room is None and members else session.member_of(chat.room or "")
        if member is None:
            self._dropped += 1
            return
        room = member.room
        room.speaker = member
        message = Message(CHAT, room.name, session.username, session.username, chat.content)
        if self.announces:
            self._effects.append(Announce(message, None))
        else:
            self._append_chat(room, message, None, now)

    def _take_place(self, message: Message, ref: Hashable, now: float) -> None:
        room = self._rooms.get(message.room)
        if room is not None:
            self._append_chat(room, message, ref, now)
            return
        # Nobody is there to hear it; whoever waits for its position still gets one.
        room = self._make_room(message.room)
        self._append_chat(room, message, ref, now)
        self._forget_room(room)

    def _append_chat(self, room: Room[C], message: Message, ref: Hashable, now: float) -> None:
        """The one path of a message into a room, whoever said it."""
        if room.arrivals or room.departures:
            # Nobody may be heard before it is said to be here.
            self._tell_presence(room)
        room.offset += 1
        message.offset = room.offset
        ts_ms = int(now * 1000 + self._wall_offset_ms)
        if ts_ms < room.ts_ms:
            ts_ms = room.ts_ms
        room.ts_ms = message.ts_ms = ts_ms
        room.append(message)
        limits = self.limits
        room.record(message, now, limits.log_messages, limits.log_bytes)
        if self._logs_age and not self._deadlines.is_armed("age", room):
            self._deadlines.arm("age", room, now)
        self._published += 1
        self._grow(room)
        if self.reports:
            self._effects.append(Report(message))
        if ref is not None:
            self._effects.append(Settle(ref, Position(room.epoch, room.offset)))

    def _grow(self, room: Room[C]) -> None:
        self._grown[room] = None
        self._delivery.soil(room)

    # -- a session's own frames, and its end --------------------------------------------------------------------------

    def _answer(self, session: Session[C], message: Message) -> None:
        text = session.lane.codec.encode(message)
        if text:
            frame = session.lane.direct(text)
            self._delivery.give(session, [frame], wire_bytes(frame))

    def _refuse_join(self, session: Session[C], reason: CloseReason) -> None:
        """A plain client asked for one room; without it there is nothing to stay for."""
        if session.members:
            self._refusals[reason.name] += 1
        else:
            self._refuse(session, reason)

    def _refuse(self, session: Session[C], reason: CloseReason) -> None:
        self._close(session, reason, self._refusals)

    def _evict(self, session: Session[C], reason: CloseReason, now: float) -> None:
        """Close a client and tell its rooms. What it has not read goes out before, unless it does not read."""
        if session.state is not State.OPEN:
            return
        is_slow = reason is errors.SLOW_CONSUMER or reason is errors.NO_PONG
        if is_slow:
            session.direct = None
        self._vacate(session, now, keep_unread=not is_slow)
        self._close(session, reason, self._evictions)

    def _close(self, session: Session[C], reason: CloseReason, counter: Counter[str]) -> None:
        counter[reason.name] += 1
        session.state = State.CLOSING
        session.blocked = False
        session.waiting = True  # it is told to close, which says to pull
        self._delivery.unname(session)
        self._deadlines.cancel_all(session)
        self._effects.append(Close(session.client, reason))

    # -- rooms --------------------------------------------------------------------------------------------------------

    def _check_message(self, room: str, **texts: str) -> None:
        if room not in self._rooms:
            self._check_room_name(room)
        for name, text in texts.items():
            if not isinstance(text, str):
                raise TypeError(f"{name} must be text, not {text!r}")
            try:
                text.encode()
            except UnicodeEncodeError:
                # It would fail at the framing, for every member of the room.
                raise ValueError(f"{name} must not hold a lone surrogate") from None

    def _check_room_name(self, name: str) -> None:
        fault = self.room_rule(name)
        if fault is not None:
            raise ValueError(f"room: {fault}")

    def _check_reason(self, reason: CloseReason) -> None:
        if not isinstance(reason, CloseReason):
            raise TypeError(f"reason must be a CloseReason, not {reason!r}")

    def _make_room(self, name: str) -> Room[C]:
        self._incarnations += 1
        room = self._rooms[name] = Room(name, f"{self._epoch}.{self._incarnations}")
        return room

    def _free_if_empty(self, room: Room[C]) -> None:
        if not room.members and self._rooms.get(room.name) is room:
            self._forget_room(room)

    def _forget_room(self, room: Room[C]) -> None:
        del self._rooms[room.name]
        self._grown.pop(room, None)
        self._delivery.forget(room)
        self._deadlines.cancel_all(room)
        # Its roster, or a look at its log, may be due in this very tick: then there is nothing left to tell or to keep.
        room.arrivals.clear()
        room.departures.clear()
        room.log.clear()
