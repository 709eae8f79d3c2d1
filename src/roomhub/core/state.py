"""What the parts of a hub share: who is here, what has to be told, and what was counted.

Every part is given the one ``HubState`` and keeps no state of its own that another would need.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, Generic, Literal, TypeAlias

from typing_extensions import TypeVar

from roomhub.core.codec import wire_bytes
from roomhub.core.deadlines import Alarms, Deadlines
from roomhub.core.delivery import Delivery
from roomhub.core.effects import Authenticate, Authorize, Effect, Load, Store
from roomhub.core.identity import Identity, Refusal
from roomhub.core.limits import Limits
from roomhub.core.message import Message, Record
from roomhub.core.replay import Reply
from roomhub.core.room import RECORD_OVERHEAD_BYTES, Receipt, Room
from roomhub.core.sanctions import Sanction, Sanctions
from roomhub.core.session import Session
from roomhub.core.storage import Page, Snapshot, StoredMessage, StoredRoom

__all__ = ["LOG_AGE_LOOKS", "HubState", "Question", "StoreState", "Timer"]

C = TypeVar("C", bound=Hashable)

PLAIN_ROSTER_INTERVALS: Final = 2
"""A large room's plain roster goes out once in this many ``presence_interval_s`` (once a second by default)."""
LOG_AGE_LOOKS: Final = 8
"""A room's log is looked through so often in ``log_age_s``, for what would be too old at the next look."""

Timer: TypeAlias = Literal[
    "ping",
    "silence",
    "idle",
    "write",
    "roster",
    "age",
    "hello",
    "presence",
    "grace",
    "linger",
    "session",
    "key",
    "typing",
    "loaded",
    "fetch",
    "authenticate",
    "authorize",
]


class Question:
    """Something that the store, or an authenticator, has been asked for.

    Attributes:
        kind: the deadline it has, None for none: a store says in the end what became of what it took.
        then: what to do with the answer, once; None stands for one that could not be given, or not in time.
    """

    __slots__ = ("kind", "then")

    def __init__(self, kind: Literal["fetch", "authenticate"] | None, then: Callable[[Any, float], None]) -> None:
        self.kind: Literal["fetch", "authenticate"] | None = kind
        self.then: Callable[[Any, float], None] | None = then


class StoreState:
    """What a hub knows of its store.

    Attributes:
        rooms: those that are not in memory.
        messages, refs: what it is to be given at the end of the tick.
        reserve: how many offsets a new epoch has before the store has said anything of it.
        confirms: whether an ``ok`` waits for the commit.
    """

    __slots__ = ("confirms", "messages", "refs", "reserve", "rooms")

    def __init__(self, snapshot: Snapshot, reserve: int, *, confirms: bool) -> None:
        self.rooms: dict[str, StoredRoom] = {room.name: room for room in snapshot.rooms}
        self.messages: list[StoredMessage] = []
        self.refs: list[Hashable] = []
        self.reserve: int = reserve
        self.confirms: bool = confirms


class HubState(Generic[C]):
    """The state of one hub.

    Attributes:
        sessions, rooms: the connections and the rooms there are.
        users: each user's connections.
        delivery: who gets what next.
        deadlines: what ends when.
        effects: the orders that the item in hand has led to.
        grown: rooms with new entries, whose blocked members are judged at the next tick.
        evictions, refusals: connections closed, and not let in, by the reason's name.
        dropped: messages that came to nothing.
        store_failures: how often something was not stored.
        secrets: the sessions that can be taken over, by what they can be resumed with.
        ended: the users of those that ended and can be resumed still.
        mailboxes: the logs of direct messages, by the user whose they are.
        first_rev: what a new room's roster begins with: above what any room had that is gone, since one of its name may
            come again with the same epoch.
        keys: the idempotency keys that are remembered, by room, user and key, and what became of their messages. A room
            may come and go meanwhile.
        has_ended: all are being closed, and nobody will be back.
        passing: what is to be told this tick to who is there, by room; of each kind from each user the newest.
        store: what is known of the store, None without one.
        loading: who waits until a room's log has been loaded, and what for.
        wall_offset_ms: what the monotonic clock lacks to Unix milliseconds.
        questions: how many times it was asked whether somebody may join.
        expiries: when what is known of a peer is good no more.
        announces, authenticates, authorizes, reports: as ``Hub`` has them.
    """

    __slots__ = (
        "announces",
        "authenticates",
        "authorizes",
        "deadlines",
        "delivery",
        "dropped",
        "effects",
        "ended",
        "epoch",
        "evictions",
        "expiries",
        "first_rev",
        "grown",
        "has_ended",
        "incarnations",
        "keys",
        "limits",
        "loading",
        "mailboxes",
        "passing",
        "questions",
        "refusals",
        "reports",
        "rooms",
        "sanctions",
        "secrets",
        "sessions",
        "store",
        "store_failures",
        "users",
        "wall_offset_ms",
    )

    def __init__(self, epoch: str, limits: Limits) -> None:
        self.limits: Limits = limits
        self.epoch: str = epoch
        self.incarnations: int = 0
        self.announces: bool = False
        self.authenticates: bool = False
        self.expiries: Alarms[Session[C]] = Alarms()
        self.authorizes: bool = False
        self.reports: bool = False
        self.sessions: dict[C, Session[C]] = {}
        self.rooms: dict[str, Room[C]] = {}
        self.users: dict[str, dict[Session[C], None]] = {}
        self.delivery: Delivery[C] = Delivery(limits)
        self.grown: dict[Room[C], None] = {}
        self.effects: list[Effect[C]] = []
        self.deadlines: Deadlines[Timer, Any] = Deadlines(
            {
                "ping": limits.ping_interval_s,
                "silence": limits.pong_timeout_s,
                "idle": limits.idle_timeout_s,
                "write": limits.write_timeout_s,
                "roster": limits.presence_interval_s * PLAIN_ROSTER_INTERVALS,
                "age": limits.log_age_s / LOG_AGE_LOOKS,
                "hello": limits.hello_timeout_s,
                "presence": limits.presence_interval_s,
                "grace": limits.presence_grace_s,
                "linger": limits.room_linger_s,
                "session": limits.session_ttl_s,
                "key": limits.key_ttl_s,
                "typing": limits.typing_timeout_s,
                "loaded": limits.hello_timeout_s,
                "fetch": limits.history_timeout_s,
                "authenticate": limits.auth_timeout_s,
                "authorize": limits.auth_timeout_s,
            }
        )
        self.secrets: dict[str, Session[C]] = {}
        self.ended: dict[str, str] = {}
        self.mailboxes: dict[str, Room[C]] = {}
        self.first_rev: int = 1
        self.has_ended: bool = False
        self.questions: int = 0
        self.keys: dict[tuple[str, str, str], Receipt] = {}
        self.passing: dict[Room[C], dict[tuple[str, str], Message]] = {}
        self.store: StoreState | None = None
        self.loading: dict[Room[C], list[tuple[Session[C], Callable[[float], None]]]] = {}
        self.wall_offset_ms: float = 0.0
        self.sanctions: Sanctions = Sanctions(limits.sanctions)
        self.dropped: int = 0
        self.store_failures: int = 0
        self.evictions: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    @property
    def logs_age(self) -> bool:
        return math.isfinite(self.limits.log_age_s)

    def make_log(self, name: str) -> Room[C]:
        """A room, or a mailbox: as the store has it, otherwise with an epoch that no other ever had."""
        store = self.store
        if store is None:
            return Room(name, self.new_epoch())
        known = store.rooms.pop(name, None)
        if known is None:
            room: Room[C] = Room(name, self.new_epoch())
            room.reserved = store.reserve
            return room
        room = Room(name, known.epoch)
        room.offset = known.offset
        room.ts_ms = known.ts_ms
        room.reserved = known.reserved
        room.is_loaded = not known.offset
        return room

    def new_epoch(self) -> str:
        self.incarnations += 1
        return f"{self.epoch}.{self.incarnations}"

    def put_away(self, room: Room[C]) -> None:
        """The room goes from memory; the store has it still."""
        epoch, offset = room.home or (room.epoch, room.offset)
        if self.store is not None and offset:
            reserved = offset if room.home else int(room.reserved)
            self.store.rooms[room.name] = StoredRoom(room.name, epoch, offset, reserved, room.ts_ms)

    def fetch(
        self,
        room: str,
        then: Callable[[Page | None, float], None],
        now: float,
        *,
        after: int | None,
        before: int | None,
        limit: int,
        most_bytes: float,
    ) -> None:
        """Ask the store for a page of a room's history, and do something with it."""
        self.give_store()  # before it is asked: it answers of all that was given before
        question = Question("fetch", then)
        self.deadlines.arm("fetch", question, now)
        self.effects.append(Load(room, question, after=after, before=before, limit=limit, most_bytes=most_bytes))

    def give_store(self) -> None:
        """What was said since is to be kept."""
        store = self.store
        if store is not None and store.messages:
            self.effects.append(Store(store.messages, store.refs))
            store.messages, store.refs = [], []

    def authenticate(
        self,
        session: Session[C],
        token: str,
        then: Callable[[Identity | Refusal | None, float], None],
        now: float,
    ) -> None:
        """Ask who shows this token, and do something with the answer."""
        question = Question("authenticate", then)
        self.deadlines.arm("authenticate", question, now)
        self.effects.append(Authenticate(session.client, token, question))

    def authorize(
        self, session: Session[C], action: str, room: str, then: Callable[[bool | None, float], None], now: float
    ) -> None:
        """Ask whether the session may do something there, and do something with the answer."""
        question = Question("authenticate", then)
        self.deadlines.arm("authenticate", question, now)
        self.effects.append(Authorize(session.client, room, session.user, session.identity, question, action))

    def answered(self, question: Question, answer: Any, now: float) -> None:
        """There is an answer, or there was none in time."""
        then, question.then = question.then, None
        if then is not None:
            if question.kind is not None:
                self.deadlines.cancel(question.kind, question)
            then(answer, now)

    def name(self, session: Session[C], user: str, username: str, now: float) -> None:
        """The session is this user's, and no other's."""
        if session.user:
            self.forget_name(session, now)
        session.user, session.username = user, username
        self.users.setdefault(user, {})[session] = None

    def forget_name(self, session: Session[C], now: float) -> None:
        """The session is not its user's any more. A mailbox whose user has no other goes some day."""
        sessions = self.users[session.user]
        del sessions[session]
        if not sessions:
            del self.users[session.user]
            mailbox = self.mailboxes.get(session.user)
            if mailbox is not None:
                self.deadlines.arm("linger", mailbox, now)

    def identify(self, session: Session[C], identity: Identity, now: float) -> None:
        """It is known who this is, for as long as that is good."""
        session.identity = identity
        if identity.expires_ms is None:
            self.expiries.cancel(session)
        else:
            self.expiries.set(session, now + self.left_ms(identity, now) / 1000)

    def unix_ms(self, now: float) -> int:
        """The wall clock's time."""
        return int(now * 1000 + self.wall_offset_ms)

    def ban_of(self, user: str, room: str, now: float) -> Sanction | None:
        """What keeps the user out of a room, or (``""``) of all; None if nothing does."""
        return self.sanctions.find("ban", user, room, self.unix_ms(now)) if self.sanctions.bans else None

    def mute_of(self, user: str, room: str, now: float) -> Sanction | None:
        """What keeps the user from saying something in a room, or (``""``) anywhere; None if nothing does."""
        return self.sanctions.find("mute", user, room, self.unix_ms(now)) if self.sanctions.mutes else None

    def left_ms(self, identity: Identity, now: float) -> int:
        """For how many ms more it is good."""
        return 0 if identity.expires_ms is None else max(0, int(identity.expires_ms - now * 1000 - self.wall_offset_ms))

    def records_of(self, room: Room[C], page: Page | None, now: float) -> list[Record]:
        """What a page of the store has of the room, as its log would have it; nothing of another epoch."""
        messages = () if page is None else page.messages
        return [self._record_of(message, now) for message in messages if message.epoch == room.epoch]

    def _record_of(self, message: StoredMessage, now: float) -> Record:
        size = wire_bytes(message.content) + RECORD_OVERHEAD_BYTES
        at = now - (now * 1000 + self.wall_offset_ms - message.ts_ms) / 1000
        said = (message.user, message.username, message.content, message.offset, message.ts_ms)
        return (*said, size, at, message.to)

    def remember(self, key: tuple[str, str, str], receipt: Receipt, now: float) -> None:
        """What became of the message that was sent with this key of a user in a room."""
        if self.has_ended:
            return
        keys = self.keys
        keys[key] = receipt
        self.deadlines.arm("key", key, now)
        while len(keys) > self.limits.keys:
            oldest = next(iter(keys))
            del keys[oldest]
            self.deadlines.cancel("key", oldest)

    def has_place(self) -> bool:
        """Whether one more room or mailbox may be in memory."""
        return len(self.rooms) + len(self.mailboxes) < self.limits.rooms

    def may_store(self, name: str) -> bool:
        """Whether the store may have a room of this name."""
        store = self.store
        if store is None or name in store.rooms:
            return True
        return len(store.rooms) + len(self.rooms) + len(self.mailboxes) < self.limits.stored_rooms

    def give(self, session: Session[C], kind: str, fields: Mapping[str, Any]) -> None:
        """A message of v1 for one session alone."""
        lane = session.lane
        assert lane.talker is not None
        frame = lane.direct(lane.talker.notice(kind, fields))
        self.delivery.give(session, [frame], wire_bytes(frame))

    def give_later(
        self,
        session: Session[C],
        kind: str,
        make: Callable[[], Mapping[str, Any]],
    ) -> None:
        """The same, but its fields are looked up when it is pulled: for what may be large."""
        lane = session.lane
        talker = lane.talker
        assert talker is not None
        self.delivery.give_later(session, Reply(lambda: lane.direct(talker.notice(kind, make()))))

    def tell_passing(self, room: Room[C]) -> None:
        """What is to be told to who is in the room now goes out."""
        slots = self.passing.pop(room)
        if any(lane.talker is not None for lane in room.lanes):
            for message in slots.values():
                room.append(message)
            self.grow(room)

    def grow(self, room: Room[C]) -> None:
        """The room has a new entry."""
        self.grown[room] = None
        self.delivery.soil(room)
