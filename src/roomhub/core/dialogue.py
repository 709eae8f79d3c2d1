"""What a v1 client asks and is answered.

A client says hello first. Then each request with an ``id`` gets exactly one reply with that id, ``ok`` or ``error``.
Messages of the rooms come as they come; only a join's reply has its place among them: before the first of its room.
"""

from collections.abc import Callable, Hashable
from typing import Any, Generic

from typing_extensions import TypeVar

from roomhub.core import errors
from roomhub.core.codec import wire_bytes
from roomhub.core.errors import CloseReason
from roomhub.core.greeting import Greeting
from roomhub.core.membership import Membership
from roomhub.core.moderation import Moderation
from roomhub.core.names import username_fault
from roomhub.core.pages import Pages, told
from roomhub.core.rates import Rate
from roomhub.core.replay import gap_frame, place_of, recover
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
from roomhub.core.waiting import Waiting

__all__ = ["Dialogue"]

C = TypeVar("C", bound=Hashable)


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
        self._waiting: Waiting[C] = Waiting(state, membership, self._handle)
        self._greeting: Greeting[C] = Greeting(state, membership, speech, pages, self._waiting, room_fault, self._join)
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
            Auth: self._greeting.renew,
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
            self._waiting.hold(session, request, size, now)
        else:
            self._handle(session, request, now)

    def _handle(self, session: Session[C], request: Request, now: float) -> None:
        if session.state is State.GREETING:
            if isinstance(request, Hello):
                self._greeting.greet(session, request, now)
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
                self._greeting.allow(session, name, request.since, now)
            else:
                talk.refused[name] = self._membership.join_error(session, name, errors.FORBIDDEN, now)
            self._greeting.welcome_in_time(session, now)
        elif is_allowed:
            self._enter_loaded(session, request, now)
        else:
            self._refuse_join(session, errors.FORBIDDEN, request, now)
        self._waiting.go_on(session, now)

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

            def loaded(missing: int | None, now: float) -> None:
                self._enter(session, request, missing, now)

            self._waiting.load(session, request, room, loaded, now)

    def _enter(self, session: Session[C], request: Join, missing: int | None, now: float) -> None:
        def entered(member: Member[C]) -> None:
            room, talk = member.room, member.room.talk
            assert talk is not None
            recovery = recover(room, request.since, missing)
            fields: dict[str, Any] = {"id": request.id, "room": room.name, **place_of(room, recovery)}
            fields["rev"] = talk.roster.rev
            if request.presence:
                fields["users"] = self._roster(session, room)
            if request.history:
                page, epoch = self._pages.newest(room, request.history), room.epoch
                self._state.give_later(session, "ok", lambda: {**fields, "messages": told(room.name, epoch, page)})
            else:
                self._state.give_later(session, "ok", lambda: fields)
            self._pages.replay(session, room, recovery)
            if request.meta is not None and self._state.mute_of(session.user, room.name, now) is None:
                talk.metas[session.user] = request.meta

        reason = self._membership.join(session, request.room, now, entered)
        if reason is not None:
            self._refuse_join(session, reason, request, now)
        else:
            self._membership.judge_direct(session, now)

    def _refuse_join(self, session: Session[C], reason: CloseReason, request: Join, now: float) -> None:
        name, message = self._membership.join_error(session, request.room, reason, now)
        wait_s = 1 / self._limits.join_rate_per_s if reason is errors.RATE_LIMITED else 0.0
        self._state.refusals[reason.name] += 1
        fail = self._membership.fail
        fail(session, name, message, request.id, room=request.room, retry_after_s=wait_s, now=now)

    def _leave(self, session: Session[C], request: Leave, now: float) -> None:
        if self._member(session, request.room, request.id, now) is not None:
            self._membership.leave_room(session, request.room, now)
            self._ok(session, request.id)

    def _presence(self, session: Session[C], request: Presence, now: float) -> None:
        member = self._member(session, request.room, request.id, now)
        if member is not None and self._speech.may_speak(session, request.room, request.id, now):
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
        self._state.authorize(session, request.action, room, self._waiting.awaited(session, answered), now)

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
