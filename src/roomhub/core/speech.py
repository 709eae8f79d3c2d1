"""What is said: the one path of a message into a room, whoever said it, and those of what goes into no room's log."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from roomhub.core.codec import Lane, wire_bytes
from roomhub.core.effects import Announce, Report, Settle
from roomhub.core.membership import Membership
from roomhub.core.message import CHAT, DM, PASSING, PRESENCE, Message, Notice, Position
from roomhub.core.requests import Id
from roomhub.core.room import Member, Receipt, Room, RoomTalk
from roomhub.core.roster import Roster
from roomhub.core.sanctions import EVERYWHERE
from roomhub.core.session import OPEN, Session
from roomhub.core.state import HubState
from roomhub.core.storage import StoredMessage

__all__ = ["Answer", "Speech", "epoch_notice"]

C = TypeVar("C", bound=Hashable)

MOST_WAITING: Final = 16
"""How many repeats of one key may wait for the same commit."""


class Answer(Generic[C]):
    """Where to say what became of a message that a v1 client sent; it travels as the message's ``ref``.

    Attributes:
        id: the client's own name for its request; None asks for no reply.
        key: the idempotency key, if there is one.
    """

    __slots__ = ("id", "key", "session")

    def __init__(self, session: Session[C], id_: Id | None, key: str | None) -> None:
        self.session: Session[C] = session
        self.id: Id | None = id_
        self.key: str | None = key


class Speech(Generic[C]):
    """The part of a hub that gives messages their place.

    Attributes:
        published: how many messages have got a place.
    """

    def __init__(self, state: HubState[C], membership: Membership[C]) -> None:
        self.published: int = 0
        self._state = state
        self._membership = membership
        self._limits = state.limits
        self._rooms = state.rooms
        self._deadlines = state.deadlines
        self._effects = state.effects
        self._logs_age = state.logs_age

    # -- into a room --------------------------------------------------------------------------------------------------

    def chat(self, member: Member[C], content: str, answer: Answer[C] | None, now: float) -> None:
        """A member says something."""
        room = member.room
        room.speaker = member
        session = member.session
        if answer is not None and self._is_repeated(room.name, answer):
            return
        if self._state.sanctions.mutes and not self.may_speak(
            session, room.name, None if answer is None else answer.id, now
        ):
            return
        message = Message(CHAT, room.name, session.user, session.username, content)
        if self._state.announces:
            self._effects.append(Announce(message, answer))
        else:
            self.append_chat(room, message, answer, now)

    def may_speak(self, session: Session[C], room: str, id_: Id | None, now: float, *, is_told: bool = True) -> bool:
        """Whether a user is not muted in a room, or (``""``) everywhere; otherwise it may be told so."""
        mute = self._state.mute_of(session.user, room, now)
        if mute is None:
            return True
        self._state.dropped += 1
        if session.talk is not None and is_told:
            left_s = 0.0 if mute.until_ms is None else (mute.until_ms - self._state.unix_ms(now)) / 1000
            self._membership.fail(session, "muted", mute.told(), id_, room=room, retry_after_s=left_s)
        return False

    def take_place(self, message: Message, ref: Hashable, now: float) -> None:
        """Something was said in a room that may or may not be there."""
        if isinstance(ref, Answer):
            if self._is_repeated(message.room, ref):
                return
            if message.kind == DM and self._state.has_ended:
                self._state.dropped += 1
                return
            if message.kind == DM:
                if not self._write(message, ref, now):
                    self.refuse_place(ref)
                return
        room = self._rooms.get(message.room)
        if room is not None:
            self.append_chat(room, message, ref, now)
            return
        # Nobody is there to hear it; whoever waits for its position still gets one.
        room = self._membership.make_room(message.room)
        self.append_chat(room, message, ref, now)
        self._membership.free_if_empty(room, now)

    def append_chat(self, room: Room[C], message: Message, ref: Hashable, now: float) -> None:
        """The one path of a message into a room, whoever said it."""
        if room.arrivals or room.departures:
            # Nobody may be heard before it is said to be here.
            self._membership.tell_presence(room)
        talk = room.talk
        if talk is not None and message.user in talk.roster.changed and message.user not in talk.roster.told:
            self._membership.tell_roster(room)
        self._place(room, message, now)
        room.append(message)
        self._state.grow(room)
        if self._state.reports:
            self._effects.append(Report(message))
        if ref is not None or self._state.store is not None:
            self._settle(room, message, ref, now)

    def _place(self, room: Room[C], message: Message, now: float) -> None:
        if room.offset >= room.reserved:
            self._drift(room)
        room.offset += 1
        message.offset = room.offset
        message.epoch = room.epoch
        ts_ms = int(now * 1000 + self._state.wall_offset_ms)
        if ts_ms < room.ts_ms:
            ts_ms = room.ts_ms
        room.ts_ms = message.ts_ms = ts_ms
        limits = self._limits
        room.record(message, now, limits.log_messages, limits.log_bytes)
        if self._logs_age and not self._deadlines.is_armed("age", room):
            self._deadlines.arm("age", room, now)
        self.published += 1

    def _drift(self, room: Room[C]) -> None:
        """The store is so far behind that a further offset might be given twice. So until it can say that it will not
        be, the room lives in an epoch of its own that is not stored; what it has in the store stays as it is."""
        room.home = Position(room.epoch, room.offset)
        room.reserved = math.inf
        self._change_epoch(room, Position(self._state.new_epoch(), 0))

    def _come_home(self, room: Room[C], home: Position, upto: int) -> None:
        """The store can take more."""
        room.home = None
        room.reserved = upto
        self._change_epoch(room, home)
        room.is_loaded = not home.offset

    def _change_epoch(self, room: Room[C], to: Position) -> None:
        room.epoch, room.offset = to
        room.log.clear()
        room.log_bytes = 0
        room.is_loaded = True
        room.began_at = room.head
        notice = epoch_notice(room, room.offset)
        if not room.name.startswith("@"):
            room.append(Message(PRESENCE, room.name, "", "", "", notice=notice))
            self._state.grow(room)
            return
        for device in self._state.users.get(room.name[1:], ()):
            if device.talk is not None and device.state is OPEN:
                self._state.give(device, *notice)

    # -- what became of it --------------------------------------------------------------------------------------------

    def refused(self, ref: Hashable) -> None:
        """A message shall not be."""
        self._state.dropped += 1
        if isinstance(ref, Answer):
            self._membership.fail(ref.session, "forbidden", "the server refused the message", ref.id)
        elif ref is not None:
            self._effects.append(Settle(ref, None))

    def judge(self, ref: Hashable, now: float) -> None:
        """Whoever was answered may be one that does not read."""
        if isinstance(ref, Answer):
            self._membership.judge_direct(ref.session, now)

    def _settle(self, room: Room[C], message: Message, ref: Hashable, now: float) -> None:
        store = self._state.store
        receipt: Receipt | None = None
        key: str | None = None
        if isinstance(ref, Answer):
            key = ref.key
            receipt = Receipt(room.name, room.epoch, message.offset, message.ts_ms)
            if key is not None:
                self._state.remember((room.name, message.user, key), receipt, now)
            if room.home is not None:
                receipt.error = "the store is too far behind"
                self._refuse_unstored(ref)
            elif store is not None and store.confirms:
                receipt.waiting = [(ref, False)]
            else:
                self._acknowledge(ref, receipt, is_repeated=False)
        elif ref is not None:
            self._effects.append(Settle(ref, Position(room.epoch, message.offset)))
        if room.home is not None:
            self._state.store_failures += 1
        elif store is not None:
            said = (room.name, room.epoch, message.offset, message.user, message.username, message.content)
            # Not by its own constructor, which costs as much again as the rest; every message is one.
            store.messages.append(tuple.__new__(StoredMessage, (*said, message.ts_ms, message.to, key)))
            store.refs.append(receipt if receipt is not None and receipt.waiting else None)

    def stored(self, refs: Sequence[Hashable], reserved: Mapping[tuple[str, str], int], now: float) -> None:
        """Messages are safe: say so to whoever waits for it."""
        for receipt in _receipts(refs):
            waiting, receipt.waiting = receipt.waiting or (), None
            for answer, is_repeated in waiting:
                self._acknowledge(answer, receipt, is_repeated=is_repeated)
                self._membership.judge_direct(answer.session, now)
        store = self._state.store
        assert store is not None
        for (name, epoch), upto in reserved.items():
            room = self._state.mailboxes.get(name[1:]) if name.startswith("@") else self._rooms.get(name)
            if room is not None:
                if room.epoch == epoch:
                    room.reserved = max(room.reserved, upto)
                elif room.home is not None and room.home.epoch == epoch and room.home.offset < upto:
                    self._come_home(room, room.home, upto)
            elif name in store.rooms and store.rooms[name].epoch == epoch:
                store.rooms[name] = store.rooms[name]._replace(reserved=upto)

    def store_failed(self, refs: Sequence[Hashable], error: str) -> None:
        """Messages were said and will not be kept: say so to whoever waits for it."""
        self._state.store_failures += 1
        for receipt in _receipts(refs):
            receipt.error = error
            waiting, receipt.waiting = receipt.waiting or (), None
            for answer, _ in waiting:
                self._refuse_unstored(answer)

    def _refuse_unstored(self, answer: Answer[C]) -> None:
        if answer.id is not None:
            self._membership.fail(answer.session, "internal", "it was said, but it could not be stored", answer.id)

    def _is_repeated(self, room: str, answer: Answer[C]) -> bool:
        """Whether a message with this key has a place already; then that is the answer (G4)."""
        if answer.key is None:
            return False
        found = self._state.keys.get((room, answer.session.user, answer.key))
        if found is None:
            return False
        if found.error:
            self._refuse_unstored(answer)
        elif found.waiting is not None and len(found.waiting) < MOST_WAITING:
            found.waiting.append((answer, True))
        elif found.waiting is not None:
            self._membership.fail(answer.session, "rate_limited", "it is being stored", answer.id, retry_after_s=1)
        else:
            self._acknowledge(answer, found, is_repeated=True)
        return True

    def _acknowledge(self, answer: Answer[C], receipt: Receipt, *, is_repeated: bool) -> None:
        if answer.id is None or answer.session.state is not OPEN:
            return
        place = {"room": receipt.room, "epoch": receipt.epoch, "offset": receipt.offset, "ts": receipt.ts_ms}
        fields = {"id": answer.id, **place}
        self._state.give(answer.session, "ok", {**fields, "dup": True} if is_repeated else fields)

    # -- to one user --------------------------------------------------------------------------------------------------

    def mailbox(self, user: str, now: float) -> Room[C] | None:
        """The log of a user's direct messages, made if need be; None if there is no place for one more."""
        found = self._state.mailboxes.get(user)
        if found is None and self._membership.makes_place(f"@{user}"):
            found = self._make_mailbox(user, now)
        return found

    def _make_mailbox(self, user: str, now: float) -> Room[C]:
        mailbox = self._state.mailboxes[user] = self._state.make_log(f"@{user}")
        mailbox.talk = RoomTalk(Roster(()))
        self._rest(user, mailbox, now)
        return mailbox

    def _rest(self, user: str, mailbox: Room[C], now: float) -> None:
        """A mailbox whose user is away goes some day."""
        if not any(device.talk is not None and device.is_live for device in self._state.users.get(user, ())):
            self._deadlines.arm("linger", mailbox, now)

    def known_mailbox(self, user: str, now: float) -> Room[C] | None:
        """The log of a user's direct messages, if there is one, in memory or in the store; for a user who is here.

        There is a place for it in any case, or it would go on later as if there had been nothing before.
        """
        found, store = self._state.mailboxes.get(user), self._state.store
        if found is None and store is not None and f"@{user}" in store.rooms:
            self._membership.makes_place(f"@{user}")
            found = self._make_mailbox(user, now)
        return found

    def write_to(self, session: Session[C], to: str, content: str, answer: Answer[C], now: float) -> bool:
        """A direct message: into the mailbox of ``to``, and a copy into the sender's. False if there is no place.

        The device that sent it gets the copy too, as a room's member gets its own chat: its mailbox has no holes.
        """
        if self._is_repeated(f"@{to}", answer) or not self.may_speak(session, EVERYWHERE, answer.id, now):
            return True
        message = Message(DM, f"@{to}", session.user, session.username, content, to=to)
        if self._state.announces:
            self._effects.append(Announce(message, answer))
            return True
        return self._write(message, answer, now)

    def refuse_place(self, answer: Answer[C]) -> None:
        """There is no place for a direct message's log."""
        message = "there are as many rooms as there may be"
        self._membership.fail(answer.session, "over_capacity", message, answer.id)

    def _write(self, message: Message, answer: Answer[C], now: float) -> bool:
        user, to = message.user, message.to
        mailbox = self.mailbox(to, now)
        if mailbox is None:
            return False
        self._deadlines.cancel("linger", mailbox)  # the sender's own must not take its place
        own = mailbox if to == user else self.mailbox(user, now)
        if own is None:
            self._rest(to, mailbox, now)
            return False
        self._place(mailbox, message, now)
        self._post(to, message, now)
        if own is not mailbox:
            copy = Message(DM, own.name, user, message.username, message.content, to=to)
            self._place(own, copy, now)
            self._post(user, copy, now)
            if self._state.store is not None:
                self._settle(own, copy, None, now)
        self._settle(mailbox, message, answer, now)
        return True

    def _post(self, user: str, message: Message, now: float) -> None:
        """To all devices of a user; each dialect's frame is made once."""
        frames: dict[Lane, tuple[bytes | str, int]] = {}
        for device in list(self._state.users.get(user, ())):
            lane = device.lane
            if device.talk is None or device.state is not OPEN:
                continue
            if lane not in frames:
                frame = lane.direct(lane.codec.encode(message))
                frames[lane] = (frame, wire_bytes(frame))
            frame, size = frames[lane]
            self._state.delivery.give(device, [frame], size)
            self._membership.judge_direct(device, now)
        self._rest(user, self._state.mailboxes[user], now)

    # -- to who is there now ------------------------------------------------------------------------------------------

    def shout(self, member: Member[C], name: str, content: str) -> None:
        """An event; of those of one name from one user in a tick the newest goes out."""
        room, user, username = member.room, member.session.user, member.session.username
        fields = {"room": room.name, "username": username, "user": user, "name": name, "content": content}
        self._pass(
            room, user, f"event {name}", Message(PASSING, room.name, user, username, "", notice=("event", fields))
        )

    def typing(self, member: Member[C], state: str, now: float) -> None:
        """A sign of typing. That it begins goes out once in ``typing_interval_s``, that it ended at once."""
        room, user = member.room, member.session.user
        talk, key = room.talk, (room, user)
        assert talk is not None
        if state == "stop":
            if self._deadlines.is_armed("typing", key):
                self._deadlines.cancel("typing", key)
                self._tell_typing(room, user, state)
            return
        self._deadlines.arm("typing", key, now)
        if talk.typing_due_s.get(user, now) <= now:
            talk.typing_due_s[user] = now + self._limits.typing_interval_s
            self._tell_typing(room, user, state)

    def typing_ended(self, room: Room[C], user: str) -> None:
        """It was not renewed."""
        assert room.talk is not None
        room.talk.typing_due_s.pop(user, None)
        if room.users.get(user):
            self._tell_typing(room, user, "stop")

    def _tell_typing(self, room: Room[C], user: str, state: str) -> None:
        username = room.name_of(user)
        fields = {"room": room.name, "username": username, "user": user, "state": state}
        self._pass(room, user, "typing", Message(PASSING, room.name, user, username, "", notice=("typing", fields)))

    def _pass(self, room: Room[C], user: str, what: str, message: Message) -> None:
        slots = self._state.passing.setdefault(room, {})
        slots.pop((user, what), None)
        slots[user, what] = message

    def tell_passing(self) -> None:
        """A tick's events go out, before anything is written."""
        for room in list(self._state.passing):
            self._state.tell_passing(room)


def epoch_notice(room: Room[Any], offset: int) -> Notice:
    """What tells v1 clients that offsets go on in the room's epoch, behind this one."""
    return "gap", {"room": room.name, "epoch": room.epoch, "from": min(1, offset), "to": offset, "reason": "epoch"}


def _receipts(refs: Sequence[Hashable]) -> list[Receipt]:
    """Those of the hub's own; the program may have asked the store for something too, an erasure say."""
    return [ref for ref in refs if isinstance(ref, Receipt)]
