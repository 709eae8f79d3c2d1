"""What the embedding program orders: each command checked before anything changes, then done."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic

from typing_extensions import TypeVar

from roomhub.core import errors
from roomhub.core.admission import Admission
from roomhub.core.commands import (
    Ban,
    CloseRoom,
    Dismiss,
    Drain,
    Enter,
    EraseMessage,
    EraseUser,
    Exit,
    Kick,
    Mute,
    Publish,
    Unban,
    Unmute,
)
from roomhub.core.dialogue import Dialogue
from roomhub.core.effects import Announce
from roomhub.core.errors import CloseReason
from roomhub.core.membership import Membership
from roomhub.core.message import CHAT, Message
from roomhub.core.moderation import Moderation
from roomhub.core.sanctions import EVERYWHERE, SanctionKind, milliseconds
from roomhub.core.session import Session, State
from roomhub.core.speech import Speech
from roomhub.core.state import HubState

__all__ = ["Orders"]

C = TypeVar("C", bound=Hashable)


class Orders(Generic[C]):
    """The part of a hub that obeys the program. A malformed order raises, and changes nothing.

    Args:
        state: the hub's.
        user_key: the identity key of a name, for users that nobody vouches for.

    Attributes:
        handlers: what does each kind of command.
    """

    def __init__(
        self,
        state: HubState[C],
        admission: Admission,
        membership: Membership[C],
        speech: Speech[C],
        moderation: Moderation[C],
        dialogue: Dialogue[C],
        user_key: Callable[[str], str],
    ) -> None:
        self._state = state
        self._admission = admission
        self._membership = membership
        self._speech = speech
        self._moderation = moderation
        self._dialogue = dialogue
        self._user_key = user_key
        self.handlers: Mapping[type, Callable[[Any, float], None]] = {
            Publish: self._publish,
            Enter: self._enter,
            Exit: self._exit,
            Kick: self._kick,
            Ban: self._impose,
            Mute: self._impose,
            Unban: self._lift,
            Unmute: self._lift,
            CloseRoom: self._close_room,
            EraseMessage: self._erase_message,
            EraseUser: self._erase_user,
            Dismiss: self._dismiss,
            Drain: self._drain,
        }

    def user_key(self, name: str) -> str:
        """The identity key of a user: made of the name, but where an authenticator gives keys the key itself."""
        return name if self._state.authenticates else self._user_key(name)

    def _publish(self, command: Publish, now: float) -> None:
        self.check_room(command.room)
        self.check_texts(content=command.content, username=command.username)
        # Where an authenticator gives the keys, a name of the program's own is nobody's.
        user = "" if self._state.authenticates else self._user_key(command.username)
        message = Message(CHAT, command.room, user, command.username, command.content)
        if self._state.announces:
            self._state.effects.append(Announce(message, command.ref))
        else:
            self._speech.take_place(message, command.ref, now)

    def _enter(self, command: Enter[C], now: float) -> None:
        session = self._state.sessions.get(command.client)
        if session is None:
            raise KeyError(f"no connected client is {command.client!r}")
        self._check_room_name(command.room)
        if session.state is not State.OPEN:
            return
        if session.talk is not None:
            self._dialogue.enter(session, command.room, now)
        else:
            self._membership.ask_to_join(session, command.room, None, now)

    def _exit(self, command: Exit[C], now: float) -> None:
        session = self._state.sessions.get(command.client)
        if session is not None and session.state is State.OPEN:
            self._membership.leave_room(session, command.room, now)

    def _kick(self, command: Kick, now: float) -> None:
        self._check_reason(command.close_reason, "close_reason")
        self.check_texts(reason=command.reason)
        room = EVERYWHERE if command.room is None else command.room
        if not room and command.room is not None:
            return  # no room has this name
        self._moderation.put_out(self.user_key(command.user), room, command.close_reason, now, message=command.reason)

    def _impose(self, command: Ban | Mute, now: float) -> None:
        user, room = self._check_whom(command)
        self.check_texts(reason=command.reason)
        for_ms = milliseconds(command.for_s)
        if self._moderation.impose(_kind(command), user, room, now, for_ms=for_ms, message=command.reason) is None:
            most = self._state.limits.sanctions
            raise RuntimeError(f"there are {most:g} bans and mutes, as many as the limit sanctions allows: end some")

    def _lift(self, command: Unban | Unmute, now: float) -> None:
        user, room = self._check_whom(command)
        self._moderation.lift(_kind(command), user, room, now)

    def _check_whom(self, command: Ban | Unban) -> tuple[str, str]:
        """The identity key and the room, ``""`` for everywhere."""
        self.check_texts(user=command.user)
        if not command.user:
            raise ValueError("user must not be empty: that is nobody")
        if command.room is None:
            return self.user_key(command.user), EVERYWHERE
        self._check_room_name(command.room)
        return self.user_key(command.user), command.room

    def _close_room(self, command: CloseRoom, now: float) -> None:
        room = self._state.rooms.get(command.room)
        if room is None:
            return
        # Nobody stays to hear who left, so nobody is told: closing a room of n is n closes, not n² notices.
        self._membership.forget_room(room)
        for member in list(room.members.values()):
            session = member.session
            self._membership.leave(session, member, now, keep_unread=True, tell=False)
            if session.talk is not None:
                self._membership.tell_put_out(session, room.name, errors.ROOM_CLOSED)
                self._membership.judge_direct(session, now)
            elif not session.members:
                self._membership.close(session, errors.ROOM_CLOSED, self._state.evictions, now)

    def _erase_message(self, command: EraseMessage, now: float) -> None:
        name = command.room
        room = self._state.mailboxes.get(name[1:]) if name.startswith("@") else self._state.rooms.get(name)
        if room is not None:
            room.erase(lambda record: record[3] == command.offset, is_stored=self._state.store is not None)

    def _erase_user(self, command: EraseUser, now: float) -> None:
        if not command.user:
            raise ValueError("user must not be empty: that is nobody")
        user = self.user_key(command.user)
        for room in (*self._state.rooms.values(), *self._state.mailboxes.values()):
            room.erase(lambda record: record[0] == user, is_stored=self._state.store is not None)

    def _dismiss(self, command: Dismiss[C], now: float) -> None:
        self._check_reason(command.reason)
        found = [self._state.sessions.get(client) for client in dict.fromkeys(command.clients)]
        leaving = [session for session in found if session is not None and session.is_live]
        if command.in_s:
            self._announce_drain(leaving, command.in_s, now)
            return
        # All of them before the first leaves, so that none gets to hear of the others.
        for session in leaving:
            for member in session.members:
                self._membership.keep_unread(session, member)
        for session in leaving:
            self._membership.vacate(session, now, keep_unread=False, will_be_back=command.reason.retry != "no")
            self._membership.close(session, command.reason, self._state.evictions, now)

    def _drain(self, command: Drain, now: float) -> None:
        self._admission.draining = True
        live = [session for session in self._state.sessions.values() if session.is_live]
        if command.in_s:
            self._announce_drain(live, command.in_s, now)
            return
        for room in list(self._state.rooms.values()):
            self._membership.forget_room(room)
        for session in live:
            for member in session.members:
                self._membership.leave(session, member, now, keep_unread=True, tell=False)
            self._membership.close(session, errors.DRAINING, self._state.evictions, now)
        self._membership.forget_sessions()
        self._state.give_store()

    def _announce_drain(self, sessions: Sequence[Session[C]], in_s: float, now: float) -> None:
        for session in sessions:
            if session.talk is not None:
                self._dialogue.announce_drain(session, in_s, now)

    # -- what the caller gave -----------------------------------------------------------------------------------------

    def check_room(self, room: str) -> None:
        if room not in self._state.rooms:
            self._check_room_name(room)

    def check_texts(self, **texts: str) -> None:
        for name, text in texts.items():
            if not isinstance(text, str):
                raise TypeError(f"{name} must be text, not {text!r}")
            try:
                text.encode()
            except UnicodeEncodeError:
                # It would fail at the framing, for every member of the room.
                raise ValueError(f"{name} must not hold a lone surrogate") from None

    def _check_room_name(self, name: str) -> None:
        fault = self._admission.room_fault(name)
        if fault is not None:
            raise ValueError(f"room: {fault}")

    def _check_reason(self, reason: CloseReason, name: str = "reason") -> None:
        if not isinstance(reason, CloseReason):
            raise TypeError(f"{name} must be a CloseReason, not {reason!r}")


def _kind(command: Ban | Unban) -> SanctionKind:
    return "mute" if isinstance(command, Mute | Unmute) else "ban"
