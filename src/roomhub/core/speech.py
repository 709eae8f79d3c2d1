"""What is said: the one path of a message into a room, whoever said it."""

from collections.abc import Hashable
from typing import Generic

from typing_extensions import TypeVar

from roomhub.core.codec import Chat
from roomhub.core.effects import Announce, Report, Settle
from roomhub.core.membership import Membership
from roomhub.core.message import CHAT, Message, Position
from roomhub.core.room import Room
from roomhub.core.session import Session
from roomhub.core.state import HubState

__all__ = ["Speech"]

C = TypeVar("C", bound=Hashable)


class Speech(Generic[C]):
    """The part of a hub that gives messages their place.

    Attributes:
        wall_offset_ms: what the monotonic clock lacks to Unix milliseconds.
        published: how many messages have got a place.
    """

    def __init__(self, state: HubState[C], membership: Membership[C]) -> None:
        self.wall_offset_ms: float = 0.0
        self.published: int = 0
        self._state = state
        self._membership = membership
        self._limits = state.limits
        self._rooms = state.rooms
        self._deadlines = state.deadlines
        self._effects = state.effects
        self._logs_age = state.logs_age

    def chat(self, session: Session[C], chat: Chat, now: float) -> None:
        members = session.members
        member = members[0] if chat.room is None and members else session.member_of(chat.room or "")
        if member is None:
            self._state.dropped += 1
            return
        room = member.room
        room.speaker = member
        message = Message(CHAT, room.name, session.username, session.username, chat.content)
        if self._state.announces:
            self._effects.append(Announce(message, None))
        else:
            self.append_chat(room, message, None, now)

    def take_place(self, message: Message, ref: Hashable, now: float) -> None:
        room = self._rooms.get(message.room)
        if room is not None:
            self.append_chat(room, message, ref, now)
            return
        # Nobody is there to hear it; whoever waits for its position still gets one.
        room = self._membership.make_room(message.room)
        self.append_chat(room, message, ref, now)
        self._membership.forget_room(room)

    def append_chat(self, room: Room[C], message: Message, ref: Hashable, now: float) -> None:
        """The one path of a message into a room, whoever said it."""
        if room.arrivals or room.departures:
            # Nobody may be heard before it is said to be here.
            self._membership.tell_presence(room)
        room.offset += 1
        message.offset = room.offset
        ts_ms = int(now * 1000 + self.wall_offset_ms)
        if ts_ms < room.ts_ms:
            ts_ms = room.ts_ms
        room.ts_ms = message.ts_ms = ts_ms
        room.append(message)
        limits = self._limits
        room.record(message, now, limits.log_messages, limits.log_bytes)
        if self._logs_age and not self._deadlines.is_armed("age", room):
            self._deadlines.arm("age", room, now)
        self.published += 1
        self._state.grow(room)
        if self._state.reports:
            self._effects.append(Report(message))
        if ref is not None:
            self._effects.append(Settle(ref, Position(room.epoch, room.offset)))
