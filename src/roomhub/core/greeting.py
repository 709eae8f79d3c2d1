"""How a v1 client comes in: its hello, the token it shows, the rooms it comes back to, and its welcome."""

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic

from typing_extensions import TypeVar

from roomhub.core import errors
from roomhub.core.identity import Identity, Refusal, identity_fault
from roomhub.core.limits import Limits
from roomhub.core.membership import Membership
from roomhub.core.message import Position
from roomhub.core.pages import Pages
from roomhub.core.protocol import VERSION
from roomhub.core.replay import Recovery, place_of, recover
from roomhub.core.requests import Auth, Hello, Join
from roomhub.core.room import Room
from roomhub.core.sanctions import EVERYWHERE
from roomhub.core.session import Session, State
from roomhub.core.speech import Speech
from roomhub.core.state import HubState
from roomhub.core.waiting import Waiting

__all__ = ["Greeting"]

C = TypeVar("C", bound=Hashable)


class Greeting(Generic[C]):
    """The part of a hub that greets v1 clients.

    Args:
        state: the hub's.
        room_fault: what is wrong with a room's name, None if nothing is.
        join: lets a session that is welcome ask for a room.
    """

    def __init__(
        self,
        state: HubState[C],
        membership: Membership[C],
        speech: Speech[C],
        pages: Pages[C],
        waiting: Waiting[C],
        room_fault: Callable[[str], str | None],
        join: Callable[[Session[C], Join, float], None],
    ) -> None:
        self._state = state
        self._membership = membership
        self._speech = speech
        self._pages = pages
        self._waiting = waiting
        self._room_fault = room_fault
        self._join = join
        self._limits = state.limits
        self._deadlines = state.deadlines
        self._told_limits = told_limits(state.limits)

    def greet(self, session: Session[C], hello: Hello, now: float) -> None:
        """A client says hello."""
        if hello.token is not None and self._state.authenticates:
            self._authenticate(
                session, hello.token, lambda outcome, now: self._identified(session, hello, outcome, now), now
            )
        elif not session.user:
            self._membership.evict(session, errors.UNAUTHORIZED, now, message="a token is needed")
        else:
            self._rejoin(session, hello, now)

    def _authenticate(
        self, session: Session[C], token: str, then: Callable[[Identity | Refusal | None, float], None], now: float
    ) -> None:
        self._deadlines.cancel("hello", session)
        self._state.authenticate(session, token, self._waiting.awaited(session, then), now)

    def _identified(self, session: Session[C], hello: Hello, outcome: Identity | Refusal | None, now: float) -> None:
        """Who says hello is known, or is not."""
        if outcome is None:
            self._membership.evict(session, errors.INTERNAL, now)
        elif isinstance(outcome, Refusal):
            reason = errors.TOKEN_EXPIRED if outcome.name == "token_expired" else errors.UNAUTHORIZED
            self._membership.evict(session, reason, now, message=outcome.message)
        elif self._admit(session, outcome, now):
            self._rejoin(session, hello, now)

    def _admit(self, session: Session[C], identity: Identity, now: float) -> bool:
        """False if an authenticator has given it a name that nobody may have, or it is banned."""
        if identity_fault(identity, max_bytes=self._limits.name_bytes, plain=False) is not None:
            self._membership.evict(session, errors.PROTOCOL, now)
            return False
        # Also where the handshake, by a cookie or without anything, said somebody else: nothing has been done since,
        # and a token that is shown on purpose counts.
        self._state.name(session, identity.user, identity.username or identity.user, now)
        self._state.identify(session, identity, now)
        ban = self._state.ban_of(session.user, EVERYWHERE, now)
        if ban is not None:
            self._membership.refuse_banned(session, ban, now)
        return ban is None

    def renew(self, session: Session[C], request: Auth, now: float) -> None:
        """A client shows another token in place of the one before."""
        fail = self._membership.fail
        if not self._state.authenticates:
            fail(session, "bad_request", "this server asks for no token", request.id, field="token", now=now)
            return

        def answered(outcome: Identity | Refusal | None, now: float) -> None:
            if outcome is None:
                fail(session, "internal", "nobody could tell whose token this is", request.id)
            elif isinstance(outcome, Refusal):
                fail(session, outcome.name, outcome.message, request.id, field="token", now=now)
            elif outcome.user != session.user:
                fail(session, "forbidden", "this is another user's token", request.id, field="token", now=now)
            else:
                self._state.identify(session, outcome, now)
                self._state.give(session, "ok", {"id": request.id, **self._expiry(session, now)})

        self._authenticate(session, request.token, answered, now)

    def _expiry(self, session: Session[C], now: float) -> dict[str, int]:
        identity = session.identity
        has_end = identity is not None and identity.expires_ms is not None
        return {"expires_ms": self._state.left_ms(identity, now)} if identity is not None and has_end else {}

    def _rejoin(self, session: Session[C], hello: Hello, now: float) -> None:
        talk = session.talk
        assert talk is not None
        wanted: Mapping[str, Position] = hello.resume.rooms if hello.resume is not None else {}
        # All of them count as one join: a client that comes back to many rooms is no flood.
        if wanted and self._membership.admits(session, None, now) is not None:
            self._membership.evict(session, errors.RATE_LIMITED, now)
            return
        # The rule is asked before anything changes, since it may raise.
        faults = {name: self._room_fault(name) for name in wanted if not name.startswith("@")}
        talk.welcome = hello
        talk.knows_all = False
        self._deadlines.cancel("hello", session)
        mailbox = self._speech.known_mailbox(session.user, now)
        if mailbox is not None:
            self._deadlines.cancel("linger", mailbox)  # what it rejoins must not take its place
        for name, fault in faults.items():
            since = wanted[name]
            if fault is not None:
                talk.refused[name] = "bad_request", fault
            elif len(talk.allowed) + len(talk.asked) + talk.loads >= self._limits.rooms_per_client:
                talk.refused[name] = self._membership.join_error(session, name, errors.RATE_LIMITED, now)
            elif self._state.authorizes:
                talk.asked[name] = Join(name, since=since)
                self._membership.ask_whether(session, name, now)
            else:
                self.allow(session, name, since, now)
        if mailbox is not None:
            own = Join(mailbox.name, since=wanted.get(mailbox.name))

            def loaded(missing: int | None, now: float) -> None:
                talk.mailbox_missing = missing
                self.welcome_in_time(session, now)

            self._waiting.load(session, own, mailbox, loaded, now)
        talk.knows_all = True
        self.welcome_in_time(session, now)

    def allow(self, session: Session[C], name: str, since: Position | None, now: float) -> None:
        """It may rejoin, once the room's log is there."""
        talk = session.talk
        assert talk is not None
        allowed = talk.allowed

        def loaded(missing: int | None, now: float) -> None:
            allowed[name] = since, missing
            self.welcome_in_time(session, now)

        room = self._membership.known_room(name)
        if room is None:
            allowed[name] = since, None
        else:
            self._waiting.load(session, Join(name, since=since), room, loaded, now)

    def welcome_in_time(self, session: Session[C], now: float) -> None:
        """Once all that it waits for has been answered."""
        talk = session.talk
        assert talk is not None
        if talk.welcome is not None and not talk.asked and not talk.loads and talk.knows_all:
            self._welcome(session, talk.welcome, now)

    def _welcome(self, session: Session[C], hello: Hello, now: float) -> None:
        """All that it may rejoin is known: let it in, say so, and then what it has missed."""
        state, talk, user = self._state, session.talk, session.user
        assert talk is not None
        session.state = State.OPEN
        talk.welcome = None
        for kind in ("ping", "silence", "idle"):
            self._deadlines.arm(kind, session, now)
        old: Session[C] | None = None
        is_resumed = False
        if hello.resume is not None:
            old = state.secrets.get(hello.resume.session)
            if old is not None and old.user != user:
                old = None
            is_resumed = old is not None or state.ended.get(hello.resume.session) == user
            if old is None and is_resumed:
                del state.ended[hello.resume.session]
                self._deadlines.cancel("session", hello.resume.session)
        state.secrets[talk.secret] = session
        rooms: dict[str, Any] = {}
        missed: list[tuple[Room[C], Recovery]] = []
        for name, (since, missing) in talk.allowed.items():
            reason = self._membership.join(session, name, now, is_told=False)
            if reason is not None:
                talk.refused[name] = self._membership.join_error(session, name, reason, now)
                continue
            room = session.members[-1].room
            assert room.talk is not None
            missed.append((room, recover(room, since, missing)))
            rooms[name] = {**place_of(room, missed[-1][1]), "rev": room.talk.roster.rev}
        mailbox, own = state.mailboxes.get(user), f"@{user}"
        if mailbox is None:
            rooms[own] = {"epoch": "", "offset": 0, "recovered": "none"}
        else:
            self._deadlines.cancel("linger", mailbox)
            since = hello.resume.rooms.get(own) if hello.resume is not None else None
            missed.append((mailbox, recover(mailbox, since, talk.mailbox_missing)))
            rooms[own] = place_of(mailbox, missed[-1][1])
        talk.allowed.clear()
        fields: dict[str, Any] = {"id": hello.id, "v": VERSION, "session": talk.secret, "user": user}
        fields["username"] = session.username
        fields |= {
            name: int(value * 1000)
            for name, value in (("ping_ms", self._limits.ping_interval_s), ("pong_ms", self._limits.pong_timeout_s))
            if math.isfinite(value)
        }
        fields |= self._expiry(session, now)
        state.give(session, "welcome", {**fields, "limits": self._told_limits, "resumed": is_resumed, "rooms": rooms})
        for name, (error, message) in talk.refused.items():
            self._membership.fail(session, error, message, None, room=name)
        talk.refused.clear()
        for room, recovery in missed:
            self._pages.replay(session, room, recovery)
        if old is not None:
            self._membership.evict(old, errors.REPLACED, now)
        for member in session.members:
            self._membership.tell_in_time(member.room, now)
        for name in talk.rooms:
            if session.state is State.OPEN and session.member_of(name) is None:
                self._join(session, Join(name), now)
        self._membership.judge_direct(session, now)


def told_limits(limits: Limits) -> Mapping[str, float | None]:
    """What a client should know of the limits; null stands for none."""
    names = (
        ("message_bytes", limits.v1_message_bytes),
        ("meta_bytes", limits.meta_bytes),
        ("label_bytes", limits.label_bytes),
        ("message_rate_per_s", limits.message_rate_per_s),
        ("message_burst", limits.message_burst),
        ("rooms_per_client", limits.rooms_per_client),
        ("history_page", limits.history_page),
    )
    return {name: value if math.isfinite(value) else None for name, value in names}
