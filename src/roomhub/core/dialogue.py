"""What a v1 client asks and is answered: hello, rooms, messages, history.

A client says hello first. Then each request with an ``id`` gets exactly one reply with that id, ``ok`` or ``error``.
Messages of the rooms come as they come; only a join's reply has its place among them: before the first of its room.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic

from typing_extensions import TypeVar

from roomhub.core import errors
from roomhub.core.codec import wire_bytes
from roomhub.core.errors import CloseReason
from roomhub.core.identity import Identity, Refusal, identity_fault
from roomhub.core.limits import Limits
from roomhub.core.membership import Membership
from roomhub.core.message import Position
from roomhub.core.moderation import Moderation
from roomhub.core.names import username_fault
from roomhub.core.pages import Pages, told
from roomhub.core.protocol import VERSION
from roomhub.core.rates import Rate
from roomhub.core.replay import Recovery, first_logged, gap_frame, is_older, recover
from roomhub.core.requests import (
    Auth,
    Chat,
    DirectMessage,
    Fault,
    Hello,
    History,
    Id,
    Join,
    Leave,
    Members,
    Moderate,
    Ping,
    Presence,
    Request,
    Shout,
    Typing,
)
from roomhub.core.room import Member, Room
from roomhub.core.sanctions import EVERYWHERE
from roomhub.core.session import Session, State
from roomhub.core.speech import Answer, Speech, epoch_notice
from roomhub.core.state import HubState
from roomhub.core.storage import Page

__all__ = ["Dialogue"]

C = TypeVar("C", bound=Hashable)

_JOIN_ERRORS: Mapping[CloseReason, tuple[str, str]] = {
    errors.RATE_LIMITED: ("rate_limited", "too many joins, or too many rooms: leave one, or wait"),
    errors.OVER_CAPACITY: ("over_capacity", "there are as many rooms as there may be"),
    errors.FORBIDDEN: ("forbidden", "this room is not for you"),
    errors.BANNED: ("forbidden", "you are banned from this room"),
}


class Dialogue(Generic[C]):
    """The part of a hub that answers.

    Args:
        state: the hub's.
        room_fault: what is wrong with a room's name, None if nothing is.
        user_key: the identity key of a name, for users that nobody vouches for.
    """

    def __init__(
        self,
        state: HubState[C],
        membership: Membership[C],
        speech: Speech[C],
        moderation: Moderation[C],
        pages: Pages[C],
        room_fault: Callable[[str], str | None],
        user_key: Callable[[str], str],
    ) -> None:
        self._state = state
        self._membership = membership
        self._speech = speech
        self._moderation = moderation
        self._pages = pages
        self._room_fault = room_fault
        self._user_key = user_key
        self._limits = state.limits
        self._deadlines = state.deadlines
        self._message_rate = Rate(state.limits.message_rate_per_s, state.limits.message_burst)
        self._told_limits = told_limits(state.limits)
        self._handlers: dict[type, Callable[[Session[C], Any, float], None]] = {
            Chat: self._chat,
            Join: self._join,
            Leave: self._leave,
            Hello: self._hello_again,
            Shout: self._shout,
            Typing: self._typing,
            Presence: self._presence,
            DirectMessage: self._direct_message,
            History: self._history,
            Members: self._members,
            Moderate: self._moderate,
            Auth: self._auth,
            Ping: self._ping,
            Fault: self._fault,
        }

    def received(self, session: Session[C], request: Request, size: int, now: float) -> None:
        """A client said something, so many characters."""
        due = self._message_rate.take(session.message_due_s, now)
        if due is None:
            self._state.dropped += 1
            wait_s = 1 / self._limits.message_rate_per_s
            fail = self._membership.fail
            fail(session, "rate_limited", "too many messages", request.id, retry_after_s=wait_s, now=now)
            return
        session.message_due_s = due
        talk = session.talk
        assert talk is not None
        if talk.asked or talk.loads or talk.held:
            # What it says next may build on what it waits for; so it waits too.
            talk.held.append((request, size))
            talk.held_bytes += size
            if talk.held_bytes > self._limits.direct_bytes:
                self._membership.evict(session, errors.RATE_LIMITED, now)
        else:
            self._handle(session, request, now)

    def _go_on(self, session: Session[C], now: float) -> None:
        """With what it has said while it waited for an answer."""
        talk = session.talk
        assert talk is not None
        if talk.is_going_on:
            return
        talk.is_going_on = True
        while talk.held and not talk.asked and not talk.loads and session.is_live:
            request, size = talk.held.popleft()
            talk.held_bytes -= size
            self._handle(session, request, now)
        talk.is_going_on = False

    def _handle(self, session: Session[C], request: Request, now: float) -> None:
        if session.state is State.GREETING:
            if isinstance(request, Hello):
                self._hello(session, request, now)
            elif not session.user:
                self._membership.evict(session, errors.UNAUTHORIZED, now)
            elif isinstance(request, Fault):
                self._fault(session, request, now)
            else:
                self._refuse(session, "bad_request", "say hello first", request.id, now, field="type")
            return
        self._handlers[type(request)](session, request, now)
        if session.direct is not None:
            self._membership.judge_direct(session, now)

    def authorized(self, session: Session[C], name: str, now: float, *, is_allowed: bool) -> None:
        """The answer to an ``Authorize``."""
        talk = session.talk
        assert talk is not None
        request = talk.asked.pop(name, None)
        if request is None or not session.is_live:
            return
        if talk.welcome is not None:
            if is_allowed:
                self._allow(session, name, request.since, now)
            else:
                talk.refused[name] = _JOIN_ERRORS[errors.FORBIDDEN]
            self._welcome_in_time(session, now)
        elif is_allowed:
            self._enter_loaded(session, request, now)
        else:
            self._refuse_join(session, errors.FORBIDDEN, request, now)
        self._go_on(session, now)

    # -- hello --------------------------------------------------------------------------------------------------------

    def _hello(self, session: Session[C], hello: Hello, now: float) -> None:
        if hello.token is not None and self._state.authenticates:
            self._authenticate(
                session, hello.token, lambda outcome, now: self._identified(session, hello, outcome, now), now
            )
        elif not session.user:
            self._membership.evict(session, errors.UNAUTHORIZED, now)
        else:
            self._rejoin(session, hello, now)

    def _authenticate(
        self, session: Session[C], token: str, then: Callable[[Identity | Refusal | None, float], None], now: float
    ) -> None:
        self._deadlines.cancel("hello", session)
        self._state.authenticate(session, token, self._awaited(session, then), now)

    def _awaited(self, session: Session[C], then: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
        """The session waits for an answer, and what it says next waits too; ``then`` has the answer first."""
        talk = session.talk
        assert talk is not None
        talk.loads += 1

        def answered(answer: Any, now: float) -> None:
            talk.loads -= 1
            if session.is_live:
                then(answer, now)
                self._go_on(session, now)

        return answered

    def _identified(self, session: Session[C], hello: Hello, outcome: Identity | Refusal | None, now: float) -> None:
        """Who says hello is known, or is not."""
        if outcome is None:
            self._membership.evict(session, errors.INTERNAL, now)
        elif isinstance(outcome, Refusal):
            is_over = outcome.name == "token_expired"
            self._membership.evict(session, errors.TOKEN_EXPIRED if is_over else errors.UNAUTHORIZED, now)
        elif session.user and session.user != outcome.user:
            self._membership.evict(session, errors.UNAUTHORIZED, now)
        elif self._admit(session, outcome, now):
            self._rejoin(session, hello, now)

    def _admit(self, session: Session[C], identity: Identity, now: float) -> bool:
        """False if an authenticator has given it a name that nobody may have, or it is banned."""
        if identity_fault(identity, max_bytes=self._limits.name_bytes, plain=False) is not None:
            self._membership.evict(session, errors.PROTOCOL, now)
            return False
        if not session.user:
            session.user, session.username = identity.user, identity.username or identity.user
            self._state.users.setdefault(session.user, {})[session] = None
        self._state.identify(session, identity, now)
        ban = self._state.ban_of(session.user, EVERYWHERE, now)
        if ban is not None:
            self._membership.refuse_banned(session, ban, now)
        return ban is None

    def _auth(self, session: Session[C], request: Auth, now: float) -> None:
        if not self._state.authenticates:
            self._refuse(session, "bad_request", "this server asks for no token", request.id, now, field="token")
            return

        def answered(outcome: Identity | Refusal | None, now: float) -> None:
            if outcome is None:
                self._membership.fail(session, "internal", "nobody could tell whose token this is", request.id)
            elif isinstance(outcome, Refusal):
                self._refuse(session, outcome.name, outcome.message, request.id, now, field="token")
            elif outcome.user != session.user:
                self._refuse(session, "forbidden", "this is another user's token", request.id, now, field="token")
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
                talk.refused[name] = _JOIN_ERRORS[errors.RATE_LIMITED]
            elif self._state.authorizes:
                talk.asked[name] = Join(name, since=since)
                self._membership.ask_whether(session, name, now)
            else:
                self._allow(session, name, since, now)
        if mailbox is not None:
            own = Join(mailbox.name, since=wanted.get(mailbox.name))

            def loaded(missing: int | None, now: float) -> None:
                talk.mailbox_missing = missing
                self._welcome_in_time(session, now)

            self._load(session, own, mailbox, loaded, now)
        talk.knows_all = True
        self._welcome_in_time(session, now)

    def _allow(self, session: Session[C], name: str, since: Position | None, now: float) -> None:
        """It may rejoin, once the room's log is there."""
        talk = session.talk
        assert talk is not None
        allowed = talk.allowed

        def loaded(missing: int | None, now: float) -> None:
            allowed[name] = since, missing
            self._welcome_in_time(session, now)

        room = self._membership.known_room(name)
        if room is None:
            allowed[name] = since, None
        else:
            self._load(session, Join(name, since=since), room, loaded, now)

    def _load(
        self, session: Session[C], request: Join, room: Room[C], then: Callable[[int | None, float], None], now: float
    ) -> None:
        """Do it once the room's log is there; until then the session waits for its answer.

        If what was said ``since`` begins before that log, ``then`` is told how much of that the store lacks.
        """
        talk, since = session.talk, request.since
        assert talk is not None
        talk.loads += 1

        def finish(missing: int | None, now: float) -> None:
            talk.loads -= 1
            then(missing, now)
            self._go_on(session, now)

        def measured(page: Page | None, now: float) -> None:
            if not session.is_live:
                return
            if page is None or (page.messages and not self._state.records_of(room, page, now)):
                finish(None, now)
            else:
                # Without a message it may know of no gap either.
                finish(page.missing if page.messages else 1, now)

        def loaded(now: float) -> None:
            if since is None or self._state.store is None or not is_older(room, since):
                finish(None, now)
            else:
                before = first_logged(room)
                fetch = self._state.fetch
                fetch(room.name, measured, now, after=since.offset, before=before, limit=1, most_bytes=1)

        self._membership.when_loaded(room, session, loaded, now)

    def _welcome_in_time(self, session: Session[C], now: float) -> None:
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
                talk.refused[name] = self._join_error(session, name, reason, now)
                continue
            room = session.members[-1].room
            assert room.talk is not None
            missed.append((room, recover(room, since, missing)))
            rooms[name] = {**_position(room, missed[-1][1]), "rev": room.talk.roster.rev}
        mailbox, own = state.mailboxes.get(user), f"@{user}"
        if mailbox is None:
            rooms[own] = {"epoch": "", "offset": 0, "recovered": "none"}
        else:
            self._deadlines.cancel("linger", mailbox)
            since = hello.resume.rooms.get(own) if hello.resume is not None else None
            missed.append((mailbox, recover(mailbox, since, talk.mailbox_missing)))
            rooms[own] = _position(mailbox, missed[-1][1])
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

    def _hello_again(self, session: Session[C], hello: Hello, now: float) -> None:
        self._refuse(session, "bad_request", "hello was said already", hello.id, now, field="type")

    # -- rooms --------------------------------------------------------------------------------------------------------

    def _join(self, session: Session[C], request: Join, now: float) -> None:
        talk, name = session.talk, request.room
        assert talk is not None
        if session.member_of(name) is not None:
            if request.id is not None:  # otherwise the program wanted it
                message = "you are in this room"
                self._refuse(session, "already_joined", message, request.id, now, field="room", room=name)
            return
        fault = self._room_fault(name)
        reason = self._membership.admits(session, fault, now)
        if reason is errors.PROTOCOL:
            self._refuse(session, "bad_request", str(fault), request.id, now, field="room")
        elif reason is not None or len(session.members) >= self._limits.rooms_per_client:
            self._refuse_join(session, errors.RATE_LIMITED, request, now)
        elif self._state.authorizes:
            talk.asked[name] = request
            self._membership.ask_whether(session, name, now)
        else:
            self._enter_loaded(session, request, now)

    def _enter_loaded(self, session: Session[C], request: Join, now: float) -> None:
        room = self._membership.known_room(request.room)
        if room is None:
            self._enter(session, request, None, now)
        else:
            self._load(session, request, room, lambda missing, now: self._enter(session, request, missing, now), now)

    def _enter(self, session: Session[C], request: Join, missing: int | None, now: float) -> None:
        def entered(member: Member[C]) -> None:
            room, talk = member.room, member.room.talk
            assert talk is not None
            recovery = recover(room, request.since, missing)
            fields: dict[str, Any] = {"id": request.id, "room": room.name, **_position(room, recovery)}
            fields["rev"] = talk.roster.rev
            if request.presence:
                fields["users"] = self._roster(session, room)
            if request.history:
                page, epoch = self._pages.newest(room, request.history), room.epoch
                self._state.give_later(session, "ok", lambda: {**fields, "messages": told(room.name, epoch, page)})
            else:
                self._state.give_later(session, "ok", lambda: fields)
            self._pages.replay(session, room, recovery)
            if request.meta is not None:
                talk.metas[session.user] = request.meta

        reason = self._membership.join(session, request.room, now, entered)
        if reason is not None:
            self._refuse_join(session, reason, request, now)
        else:
            self._membership.judge_direct(session, now)

    def _refuse_join(self, session: Session[C], reason: CloseReason, request: Join, now: float) -> None:
        name, message = self._join_error(session, request.room, reason, now)
        wait_s = 1 / self._limits.join_rate_per_s if reason is errors.RATE_LIMITED else 0.0
        self._state.refusals[reason.name] += 1
        fail = self._membership.fail
        fail(session, name, message, request.id, room=request.room, retry_after_s=wait_s, now=now)

    def _join_error(self, session: Session[C], room: str, reason: CloseReason, now: float) -> tuple[str, str]:
        name, message = _JOIN_ERRORS[reason]
        ban = self._state.ban_of(session.user, room, now) if reason is errors.BANNED else None
        return name, message if ban is None else ban.told()

    def _leave(self, session: Session[C], request: Leave, now: float) -> None:
        if self._member(session, request.room, request.id, now) is not None:
            self._membership.leave_room(session, request.room, now)
            self._ok(session, request.id)

    def _presence(self, session: Session[C], request: Presence, now: float) -> None:
        member = self._member(session, request.room, request.id, now)
        if member is not None:
            talk = member.room.talk
            assert talk is not None
            talk.metas[session.user] = request.meta
            talk.roster.note(session.user)
            self._ok(session, request.id)
            self._membership.tell_in_time(member.room, now)

    def _members(self, session: Session[C], request: Members, now: float) -> None:
        member = self._member(session, request.room, request.id, now)
        if member is not None:
            room, talk = member.room, member.room.talk
            assert talk is not None
            users = self._roster(session, room)
            fields = {"id": request.id, "room": room.name, "rev": talk.roster.rev, "users": users}
            self._state.give_later(session, "ok", lambda: fields)

    # -- what is said -------------------------------------------------------------------------------------------------

    def _chat(self, session: Session[C], request: Chat, now: float) -> None:
        member = self._member(session, request.room or "", request.id, now)
        if member is not None:
            has_answer = request.id is not None or request.key is not None
            answer = Answer(session, request.id, request.key) if has_answer else None
            self._speech.chat(member, request.content, answer, now)

    def _direct_message(self, session: Session[C], request: DirectMessage, now: float) -> None:
        to = request.to if self._state.authenticates else self._user_key(request.to)
        fault = username_fault(to, max_bytes=self._limits.name_bytes, plain=False)
        if fault is not None:
            self._refuse(session, "bad_request", fault.replace("username", "to", 1), request.id, now, field="to")
        else:
            answer = Answer(session, request.id, request.key)
            if not self._speech.write_to(session, to, request.content, answer, now):
                self._speech.refuse_place(answer)

    def _shout(self, session: Session[C], request: Shout, now: float) -> None:
        member = self._member(session, request.room, request.id, now)
        if member is not None and self._speech.may_speak(session, request.room, request.id, now):
            self._speech.shout(member, request.name, request.content)
            self._ok(session, request.id)

    def _typing(self, session: Session[C], request: Typing, now: float) -> None:
        member = self._member(session, request.room, request.id, now)
        id_ = request.id
        # A sign that a client gives by itself is no word that its user waits for an answer to.
        if member is not None and self._speech.may_speak(session, request.room, id_, now, is_told=id_ is not None):
            self._speech.typing(member, request.state, now)
            self._ok(session, request.id)

    def _ping(self, session: Session[C], request: Ping, now: float) -> None:
        self._state.give(session, "pong", {} if request.id is None else {"id": request.id})

    # -- what a moderator does ----------------------------------------------------------------------------------------

    def _moderate(self, session: Session[C], request: Moderate, now: float) -> None:
        field, fault = self._moderation_fault(request)
        if fault:
            self._refuse(session, "bad_request", fault, request.id, now, field=field)
            return
        if session.identity is None:
            message = "nobody may moderate here: without an authenticator a name is anybody's word"
            self._refuse(session, "forbidden", message, request.id, now)
            return

        def answered(is_allowed: bool | None, now: float) -> None:
            if is_allowed:
                self._moderation.do(session, request, now)
            else:
                message = f"you may not {request.action} anybody here"
                self._refuse(session, "forbidden", message, request.id, now, room=request.room or EVERYWHERE)

        room = EVERYWHERE if request.room is None else request.room
        self._state.authorize(session, request.action, room, self._awaited(session, answered), now)

    def _moderation_fault(self, request: Moderate) -> tuple[str, str]:
        """The field that is wrong, and what about it; both empty if nothing is."""
        fault = username_fault(request.user, max_bytes=self._limits.name_bytes, plain=False)
        if fault is not None:
            return "user", fault.replace("username", "user", 1)
        fault = None if request.room is None else self._room_fault(request.room)
        if fault is not None:
            return "room", fault
        if request.for_ms is not None and request.action not in ("ban", "mute"):
            return "for_ms", f"for_ms is for a ban or a mute: leave it out of {request.action}"
        return "", ""

    # -- what was said ------------------------------------------------------------------------------------------------

    def _history(self, session: Session[C], request: History, now: float) -> None:
        room: Room[C] | None
        if request.room == f"@{session.user}":
            room = self._state.mailboxes.get(session.user)
        else:
            member = session.member_of(request.room)
            room = None if member is None else member.room
        if room is None:
            self._refuse_room(session, request.room, request.id, now)
            return
        self._pages.tell(session, room, request, now)

    # -- what the program and the hub do ------------------------------------------------------------------------------

    def enter(self, session: Session[C], room: str, now: float) -> None:
        """The program lets it join; its ``ok`` has no id."""
        talk = session.talk
        assert talk is not None
        if talk.asked or talk.loads or talk.held:
            talk.held.append((Join(room), 0))
        else:
            self._join(session, Join(room), now)

    def announce_drain(self, session: Session[C], in_s: float, now: float) -> None:
        fields = {"in_ms": int(in_s * 1000), "reconnect_ms": self._membership.reconnect_ms()}
        self._state.give(session, "draining", fields)
        self._membership.judge_direct(session, now)

    def skip(self, member: Member[C], now: float) -> None:
        """It is too far behind: it goes on with what is new, told what it missed and who is here."""
        room, session, log = member.room, member.session, member.log
        missed = room.head - member.cursor - log.count_silent(member.cursor)
        if member.cursor <= room.began_at:
            # Among what it skips offsets went on elsewhere: the notice of that covers all before.
            missed = room.head - room.began_at - log.count_silent(room.began_at)
            self._state.give(session, *epoch_notice(room, room.offset - missed))
        member.cursor = room.head
        if missed:
            frame = gap_frame(log.lane, room.name, room.epoch, room.offset - missed + 1, room.offset, "slow")
            self._state.delivery.give(session, [frame], wire_bytes(frame))
        talk = room.talk
        assert talk is not None
        fields = {"room": room.name, "rev": talk.roster.rev, "users": self._roster(session, room)}
        self._state.give(session, "presence", fields)
        self._membership.judge_direct(session, now)

    # -- replies ------------------------------------------------------------------------------------------------------

    def _fault(self, session: Session[C], fault: Fault, now: float) -> None:
        self._refuse(session, fault.error, fault.message, fault.id, now, field=fault.field)

    def _refuse(
        self,
        session: Session[C],
        name: str,
        message: str,
        id_: Id | None,
        now: float,
        *,
        field: str = "",
        room: str = "",
    ) -> None:
        self._membership.fail(session, name, message, id_, field=field, room=room, now=now)

    def _refuse_room(self, session: Session[C], room: str, id_: Id | None, now: float) -> None:
        self._refuse(session, "unknown_room", "you are not in this room", id_, now, field="room", room=room)

    def _member(self, session: Session[C], room: str, id_: Id | None, now: float) -> Member[C] | None:
        member = session.member_of(room)
        if member is None:
            self._refuse_room(session, room, id_, now)
        return member

    def _ok(self, session: Session[C], id_: Id | None) -> None:
        if id_ is not None and session.state is State.OPEN:
            self._state.give(session, "ok", {"id": id_})

    def _roster(self, session: Session[C], room: Room[C]) -> str:
        talker, talk = session.lane.talker, room.talk
        assert talker is not None
        assert talk is not None
        return talk.roster.rendered(talker)


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


def _position(room: Room[Any], recovery: Recovery) -> dict[str, Any]:
    return {"epoch": room.epoch, "offset": recovery.offset, "recovered": recovery.recovered}
