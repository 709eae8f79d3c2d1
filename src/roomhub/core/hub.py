"""The hub: a pure state machine. Facts and orders go in through ``handle``, orders come out of it.

    effects = hub.handle(event_or_command, now)     apply them in order, before the next goes in
    hub.handle(Ticked(), now)                       once a tick, before anything is written
    while (share := hub.share(64)): ...             one chunk for many clients (those that said ``shares``)
    for client in hub.ready(): ...                  the others: each pulls until it gets nothing

What a peer sends never raises. What the caller does wrong (an order with a bad room name, a client connected twice, a
``room_rule`` that raises) raises before anything has changed.
"""

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, Final, Generic, Literal, assert_never

from typing_extensions import TypeVar

from roomhub.core import errors, presence
from roomhub.core.admission import Admission
from roomhub.core.codec import Chunk, wire_bytes
from roomhub.core.commands import Command
from roomhub.core.dialogue import Dialogue
from roomhub.core.effects import Effect, Probe
from roomhub.core.errors import CloseReason
from roomhub.core.events import (
    Authenticated,
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Event,
    Heard,
    Loaded,
    Published,
    Received,
    Refused,
    Stored,
    StoreFailed,
    Ticked,
    Writable,
)
from roomhub.core.identity import Identity, identity_fault
from roomhub.core.limits import Limits
from roomhub.core.membership import Membership
from roomhub.core.message import CHAT, DM, Kind, Message
from roomhub.core.moderation import Moderation
from roomhub.core.names import username_fault
from roomhub.core.orders import Orders
from roomhub.core.pages import Pages
from roomhub.core.rates import Rate
from roomhub.core.replay import is_asking
from roomhub.core.requests import Chat, Join, Leave
from roomhub.core.room import Member, Receipt, Room, Share
from roomhub.core.sanctions import EVERYWHERE, Sanction
from roomhub.core.session import OPEN, Session, State, Talk
from roomhub.core.speech import Speech
from roomhub.core.state import LOG_AGE_LOOKS, HubState, Question, StoreState
from roomhub.core.statistics import Statistics
from roomhub.core.storage import Snapshot

__all__ = ["Hub", "Share", "Statistics"]

C = TypeVar("C", bound=Hashable)


CLOCK_MOVED_MS: Final = 1_000
"""A clock that differs by so much from what it should say was set; less is drift, which the next look puts right."""


class Hub(Generic[C]):
    """Rooms and the connections in them.

    Args:
        epoch: text that no other hub of this deployment, nor an earlier run of this one, has; rooms' epochs begin so.
        limits: every bound.
        room_rule: gives None for a good room name and otherwise what is wrong with it. What it raises comes out of
            ``handle``: it is the program's, and nobody has joined. It is not asked for a name that has no UTF-8.
        slow: what becomes of a v1 client that is too far behind in a room: "close", as of every other, or "skip", it
            goes on with what is new, told what it missed and who is there now.
        user_key: makes the identity key of a name, for users that nobody vouches for: whose names are alike are one.

    """

    def __init__(
        self,
        *,
        epoch: str,
        limits: Limits | None = None,
        room_rule: Callable[[str], str | None] | None = None,
        slow: Literal["close", "skip"] = "close",
        user_key: Callable[[str], str] = str,
    ) -> None:
        if slow not in ("close", "skip"):
            raise ValueError(f'slow must be "close" or "skip", not {slow!r}')
        limits = limits or Limits()
        self.limits: Limits = limits
        state: HubState[C] = HubState(epoch, limits)
        self._state = state
        self._admission = Admission(limits, room_rule)
        self.room_rule: Callable[[str], str | None] = self._admission.room_fault
        self._membership: Membership[C] = Membership(state, self._admission)
        self._speech: Speech[C] = Speech(state, self._membership)
        self._moderation: Moderation[C] = Moderation(state, self._membership)
        self._pages: Pages[C] = Pages(state, self._membership)
        self._dialogue: Dialogue[C] = Dialogue(
            state, self._membership, self._speech, self._moderation, self._pages, self.room_rule, user_key
        )
        self._orders: Orders[C] = Orders(
            state, self._admission, self._membership, self._speech, self._moderation, self._dialogue, user_key
        )
        self._sessions = state.sessions
        self._rooms = state.rooms
        self._users = state.users
        self._delivery = state.delivery
        self._deadlines = state.deadlines
        self._effects = state.effects
        self._skips = slow == "skip"
        self._user_key = user_key
        self._puts_out_idle = math.isfinite(limits.idle_timeout_s)
        # The time a probed peer has had at least when its silence is held against it; less, and it is we who were late.
        self._answer_s = (limits.pong_timeout_s - limits.ping_interval_s) / 2
        self._message_rate = Rate(limits.message_rate_per_s, limits.message_burst)
        self._messages_in = 0
        self._bytes_in = 0
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Connected: self._connected,
            Received: self._received,
            Heard: self._heard,
            Blocked: self._blocked,
            Writable: self._writable,
            Disconnected: self._disconnected,
            Authenticated: self._authenticated,
            Authorized: self._authorized,
            Denied: self._denied,
            Published: self._announced,
            Refused: self._refused,
            ClockSet: self._clock_set,
            Ticked: self._ticked,
            Stored: self._stored,
            StoreFailed: self._store_failed,
            Loaded: self._loaded,
            **self._orders.handlers,
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
            RuntimeError: ``Ban`` or ``Mute``, and there are as many of them as there may be.
            TypeError: something that is neither an event nor a command, or holds what is no text or no reason.
            Exception: whatever a ``room_rule`` of the program's own raises.
        """
        handler = self._handlers.get(type(item))
        if handler is None:
            raise TypeError(f"neither an event nor a command: {item!r}")
        handler(item, now)
        if not self._effects:
            return ()
        effects = self._effects.copy()
        self._effects.clear()
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
        return min(self._deadlines.next(), self._state.expiries.next())

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
        """Whether a tick would do nothing: nothing to share, nobody to name, nothing to be told or stored."""
        state = self._state
        return self._delivery.is_settled and not state.passing and not (state.store and state.store.messages)

    @property
    def announces(self) -> bool:
        """Give ``Announce`` for every message and wait for ``Published`` (a message hook, a backplane)."""
        return self._state.announces

    @announces.setter
    def announces(self, on: bool) -> None:
        self._state.announces = on

    @property
    def authorizes(self) -> bool:
        """Give ``Authorize`` for every join and wait for ``Authorized``."""
        return self._state.authorizes

    @authorizes.setter
    def authorizes(self, on: bool) -> None:
        self._state.authorizes = on

    @property
    def authenticates(self) -> bool:
        """Give ``Authenticate`` for every token and wait for ``Authenticated``. Who is unknown has to show one."""
        return self._state.authenticates

    @authenticates.setter
    def authenticates(self, on: bool) -> None:
        self._state.authenticates = on

    @property
    def reports(self) -> bool:
        """Give ``Report`` for every chat, arrival and departure."""
        return self._state.reports

    @reports.setter
    def reports(self, on: bool) -> None:
        self._state.reports = on

    def restore(self, snapshot: Snapshot, *, reserve: int, confirms: bool = True, now: float) -> None:
        """There is a store: go on where it left off. Before the first event.

        From then on every message is given out as a ``Store`` effect, and what is not in memory is asked for with
        ``Load``.

        Args:
            snapshot: what the store has.
            reserve: how many offsets of a new epoch may be given before the store has said more.
            confirms: whether an ``ok`` waits until its message is stored.
            now: monotonic seconds.

        Raises:
            RuntimeError: somebody is here already.
        """
        if self._sessions or self._rooms or self._state.store is not None:
            raise RuntimeError("restore a hub before anything else happens to it")
        self._state.store = StoreState(snapshot, reserve, confirms=confirms)
        for key in snapshot.keys:
            receipt = Receipt(key.room, key.epoch, key.offset, key.ts_ms)
            self._state.remember((key.room, key.user, key.key), receipt, now)
        for sanction in snapshot.sanctions:
            self._state.sanctions.add(sanction)

    # -- questions ----------------------------------------------------------------------------------------------------

    def rooms(self) -> Sequence[str]:
        """The names of the rooms that somebody is in."""
        return tuple(name for name, room in self._rooms.items() if room.users)

    def clients(self) -> Sequence[C]:
        """The connections there are, those that are being closed too."""
        return tuple(self._sessions)

    @property
    def is_empty(self) -> bool:
        """Whether there is no connection."""
        return not self._sessions

    def members(self, room: str) -> Sequence[str]:
        """The identity keys of the users in a room in order of joining; empty if there is no such room."""
        found = self._rooms.get(room)
        return tuple(found.users) if found else ()

    def history(self, room: str, limit: float = math.inf) -> Sequence[Message]:
        """The newest messages that the room keeps, oldest first."""
        found = self._rooms.get(room)
        return found.messages(limit) if found else ()

    def ban_of(self, user: str, room: str, now: float) -> Sanction | None:
        """What keeps a user (its identity key) out of a room, or out of all (``""``); None if nothing does."""
        return self._state.ban_of(user, room, now)

    def sanctions(self, now: float) -> Sequence[Sanction]:
        """The bans and mutes in force. O(bans and mutes)."""
        return self._state.sanctions.all(self._state.unix_ms(now))

    def user_key(self, name: str) -> str:
        """The identity key of a user: made of the name, but where an authenticator gives keys the key itself."""
        return self._orders.user_key(name)

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
            rooms=len(self.rooms()),
            members=sum(len(room.members) for room in self._rooms.values()),
            messages_in=self._messages_in,
            messages_published=self._speech.published,
            messages_dropped=self._state.dropped,
            deliveries=self._delivery.frames,
            bytes_in=self._bytes_in,
            bytes_out=self._delivery.bytes,
            lag_messages=max(
                (room.head - member.cursor for room in self._rooms.values() for member in room.behind), default=0
            ),
            evictions=dict(self._state.evictions),
            store_failures=self._state.store_failures,
            refusals=dict(self._state.refusals),
        )

    # -- events: connections ------------------------------------------------------------------------------------------

    def _connected(self, event: Connected[C], now: float) -> None:
        client = event.client
        if client in self._sessions:
            raise ValueError(f"{client!r} is connected already; a new connection needs a handle of its own")
        refusal = self.refusal(event.address)
        talks = event.lane.talker is not None
        identity = event.identity
        username = event.username if identity is None else identity.username or identity.user
        is_known = bool(username) or not talks or not self._state.authenticates
        if refusal is None and is_known and self._name_fault(username, identity, plain=not event.lane.v1):
            refusal = errors.PROTOCOL
        if talks and not event.secret:
            raise ValueError("secret must be text that nobody can guess: clients of this lane have sessions")
        # The rule is asked before anything changes, since it may raise.
        rooms = () if refusal is not None or talks else [(room, self.room_rule(room)) for room in event.rooms]
        user = self._user_key(username) if identity is None else identity.user
        ban = self._state.ban_of(user, EVERYWHERE, now) if refusal is None and user else None
        session = Session(client, event.lane, user, username, event.address, shares=event.shares, now=now)
        self._sessions[client] = session
        self._admission.enter(event.address)
        if user:
            self._users.setdefault(user, {})[session] = None
        if identity is not None:
            self._state.identify(session, identity, now)
        if talks:
            session.state = State.GREETING
            session.talk = Talk(event.secret, event.rooms)
        if refusal is not None:
            self._membership.refuse(session, refusal, now)
            return
        if ban is not None:
            self._membership.refuse_banned(session, ban, now)
            return
        deadlines = self._deadlines
        if talks:
            deadlines.arm("hello", session, now)
            return
        deadlines.arm("ping", session, now)
        deadlines.arm("silence", session, now)
        deadlines.arm("idle", session, now)
        for room, fault in rooms:
            if session.state is State.OPEN:
                self._membership.ask_to_join(session, room, fault, now)

    def _received(self, event: Received[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None or (session.state is not OPEN and session.state is not State.GREETING):
            return
        text = event.text
        self._messages_in += 1
        if session.heard_at != now:
            session.heard_at = now
            self._deadlines.arm("silence", session, now)
        if self._puts_out_idle:
            self._deadlines.arm("idle", session, now)
        if session.talk is None:
            due = self._message_rate.take(session.message_due_s, now)
            if due is None:
                self._state.dropped += 1
                self._membership.evict(session, errors.RATE_LIMITED, now)
                return
            session.message_due_s = due
        try:
            self._bytes_in += len(text) if text.isascii() else wire_bytes(text)
        except UnicodeEncodeError:
            # No wire can carry a lone surrogate, but a program might; it would fail at the framing, for every member.
            self._state.dropped += 1
            return
        request = session.lane.codec.decode(text)
        if session.talk is not None:
            self._dialogue.received(session, request, len(text), now)
        elif session.held or self._waits(session):
            # It may be for the room that it waits for.
            session.held = session.held or []
            session.held.append(request)
        else:
            self._do_plain(session, request, now)

    def _do_plain(self, session: Session[C], request: object, now: float) -> None:
        match request:
            case Chat():
                members = session.members
                member = members[0] if request.room is None and members else session.member_of(request.room or "")
                if member is None:
                    self._state.dropped += 1
                else:
                    self._speech.chat(member, request.content, None, now)
            case Join():
                self._membership.ask_to_join(session, request.room, self.room_rule(request.room), now)
            case Leave():
                self._membership.leave_room(session, request.room, now)
            case _:
                self._state.dropped += 1  # a codec's that has requests and no replies

    def _heard(self, event: Heard[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is not None and session.state is State.OPEN:
            session.heard_at = now
            self._deadlines.arm("silence", session, now)

    def _blocked(self, event: Blocked[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None or not session.is_live:
            return
        if not session.blocked:
            session.blocked = True
            self._delivery.stop(session)
            self._membership.judge_direct(session, now)
            if not session.is_live:
                return
        self._deadlines.arm("write", session, now)

    def _writable(self, event: Writable[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None or not session.is_live or not session.blocked:
            return
        session.blocked = False
        self._deadlines.cancel("write", session)
        self._delivery.resume(session)

    def _disconnected(self, event: Disconnected[C], now: float) -> None:
        session = self._sessions.get(event.client)
        if session is None:
            return
        session.direct = None
        was_open = session.is_live
        session.state = State.ABSENT
        if was_open:
            self._membership.vacate(session, now, keep_unread=False, will_be_back=True)
            self._deadlines.cancel_all(session)
            if session.talk is not None:
                self._membership.end_session(session, now, can_resume=True)
        del self._sessions[event.client]
        self._delivery.unname(session)
        self._admission.exit(session.address)
        self._state.expiries.cancel(session)
        if not session.user:
            return
        self._state.forget_name(session, now)

    def _name_fault(self, username: str, identity: Identity | None, *, plain: bool) -> str | None:
        most = self.limits.name_bytes
        if identity is not None:
            return identity_fault(identity, max_bytes=most, plain=plain)
        return username_fault(username, max_bytes=most, plain=plain)

    def _authenticated(self, event: Authenticated, now: float) -> None:
        if isinstance(event.ref, Question):
            self._state.answered(event.ref, event.outcome, now)

    def _authorized(self, event: Authorized[C], now: float) -> None:
        if isinstance(event.ref, Question):
            self._state.answered(event.ref, True, now)
            return
        session = self._sessions.get(event.client)
        if session is None or not self._was_asked(session, event):
            return
        if session.talk is not None:
            self._dialogue.authorized(session, event.room, now, is_allowed=True)
        elif session.state is State.OPEN:
            self._membership.join_or_refuse(session, event.room, now)
            self._go_on(session, now)

    def _was_asked(self, session: Session[C], answer: Authorized[C]) -> bool:
        """Whether this answer is still waited for."""
        number = session.questions.get(answer.room)
        if number is None or answer.ref not in (None, number):
            return False
        del session.questions[answer.room]
        self._deadlines.cancel("authorize", (session, answer.room))
        return True

    def _denied(self, event: Denied[C], now: float) -> None:
        if isinstance(event.ref, Question):
            self._state.answered(event.ref, False, now)
            return
        session = self._sessions.get(event.client)
        if session is not None and self._was_asked(session, event):
            self._deny(session, event.room, now)

    def _deny(self, session: Session[C], room: str, now: float) -> None:
        if session.talk is not None:
            self._dialogue.authorized(session, room, now, is_allowed=False)
        elif session.state is State.OPEN:
            self._membership.refuse_join(session, errors.FORBIDDEN, now)
            self._go_on(session, now)

    def _go_on(self, session: Session[C], now: float) -> None:
        """With what a plain client has said while it waited for an answer."""
        while session.held and not self._waits(session) and session.state is State.OPEN:
            self._do_plain(session, session.held.pop(0), now)

    def _waits(self, session: Session[C]) -> bool:
        """Whether what a plain client says may be for a room that it is not in yet."""
        return bool(session.questions) and not session.members

    # -- events: messages, time ---------------------------------------------------------------------------------------

    def _announced(self, event: Published, now: float) -> None:
        message = event.message
        is_direct = message.kind == DM
        if not is_direct:
            self._orders.check_room(message.room)
        self._orders.check_texts(content=message.content, username=message.username, user=message.user)
        # A copy: it gets its place, and whoever made the event may say it again.
        kind: Kind = DM if is_direct else CHAT
        own = Message(kind, message.room, message.user, message.username, message.content, to=message.to)
        self._speech.take_place(own, event.ref, now)
        self._speech.judge(event.ref, now)

    def _refused(self, event: Refused, now: float) -> None:
        self._speech.refused(event.ref)
        self._speech.judge(event.ref, now)

    def _stored(self, event: Stored, now: float) -> None:
        if self._state.store is not None:
            self._speech.stored(event.refs, event.reserved, now)
            self._settle_questions(event.refs, True, now)

    def _store_failed(self, event: StoreFailed, now: float) -> None:
        self._speech.store_failed(event.refs, event.error)
        self._settle_questions(event.refs, None, now)

    def _settle_questions(self, refs: Sequence[Hashable], answer: bool | None, now: float) -> None:
        for ref in refs:
            if isinstance(ref, Question):
                self._state.answered(ref, answer, now)

    def _loaded(self, event: Loaded, now: float) -> None:
        if isinstance(event.ref, Question):
            self._state.answered(event.ref, event.page, now)

    def _clock_set(self, event: ClockSet, now: float) -> None:
        state = self._state
        was_ms = state.unix_ms(now)
        if event.unix_ms < was_ms:
            state.sanctions.forget(was_ms)  # what is over does not begin again
        state.wall_offset_ms = event.unix_ms - now * 1000
        for session in state.expiries.keys() if abs(event.unix_ms - was_ms) >= CLOCK_MOVED_MS else ():
            assert session.identity is not None
            state.identify(session, session.identity, now)

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
                        self._membership.evict(key, errors.NO_PONG, now)
                    else:
                        # The program was late, not the peer: it had no time to answer. So a stalled event loop, or a
                        # machine that slept, does not cost everybody the connection.
                        self._deadlines.arm("silence", key, now)
                case "idle":
                    self._membership.evict(key, errors.IDLE, now)
                case "write":
                    self._membership.evict(key, errors.SLOW_CONSUMER, now)
                case "roster":
                    # Armed again already if somebody put out in this tick was told of: then the rest waits for that.
                    if presence.has_news(key) and not self._deadlines.is_armed("roster", key):
                        self._membership.tell_presence(key)
                        self._deadlines.arm("roster", key, now)
                case "age":
                    self._age_log(key, now)
                case "hello":
                    self._membership.evict(key, errors.HELLO_TIMEOUT, now)
                case "presence":
                    self._membership.roster_due(key, now)
                case "grace":
                    room, user = key
                    self._membership.grace_ended(room, user, now)
                case "fetch" | "authenticate":
                    self._state.answered(key, None, now)
                case "authorize":
                    session, room = key
                    session.questions.pop(room, None)
                    if session.client in self._sessions:
                        self._deny(session, room, now)
                case "loaded":
                    self._membership.free_if_empty(key, now)
                case "linger":
                    self._membership.linger_ended(key)
                case "session":
                    self._state.ended.pop(key, None)  # another's end in this tick may have pushed it out
                case "key":
                    self._state.keys.pop(key, None)  # another may have pushed it out in this tick
                case "typing":
                    room, user = key
                    self._speech.typing_ended(room, user)
                case _:
                    assert_never(kind)
        for session in self._state.expiries.expired(now):
            self._membership.evict(session, errors.TOKEN_EXPIRED, now)
        self._state.give_store()
        self._speech.tell_passing()
        if self._delivery.asking:
            self._pages.bring(now)
        while self._state.grown:
            # Again for the notices of those put out.
            self._judge_lag(now)

    def _age_log(self, room: Room[C], now: float) -> None:
        """Let go of the history that would be older than ``log_age_s`` at the next look."""
        room.forget(now - self.limits.log_age_s * (1 - 1 / LOG_AGE_LOOKS))
        if room.log and (self._rooms.get(room.name) is room or self._state.mailboxes.get(room.name[1:]) is room):
            self._deadlines.arm("age", room, now)

    def _judge_lag(self, now: float) -> None:
        """Put out who is too far behind. Only whoever refused a write in an earlier tick can be: others had no turn."""
        limits = self.limits
        grown, self._state.grown = self._state.grown, {}
        slow: list[Member[C]] = []
        for room in grown:
            for member in room.behind:
                session, log = member.session, member.log
                most = limits.v1_lag_messages if log.lane.v1 else limits.lag_messages
                # First what is cheap to know.
                if room.head - member.cursor > most or log.lag_bytes(member.cursor) > limits.lag_bytes:
                    count, size = log.lag(member.cursor)
                    waits = session.blocked or (session.direct is not None and is_asking(session.direct))
                    if waits and (count > most or size > limits.lag_bytes):
                        slow.append(member)
        for member in slow:
            session = member.session
            if session.is_live and not session.blocked:
                self._pages.give_up(session)
            elif self._skips and member.session.talk is not None and not member.gone:
                self._dialogue.skip(member, now)
            else:
                self._membership.evict(member.session, errors.SLOW_CONSUMER, now)
