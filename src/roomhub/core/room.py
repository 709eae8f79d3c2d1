"""A room is a log, a member is a cursor.

Every entry of the log has an internal index; cursors, lag and trimming count in it. ``head`` is the index the next
entry gets. Only chat entries also have an offset, which clients see. Of an entry two things are kept:

* its frame, once a lane that has members here, until every member has read it (``LaneLog``);
* the message itself, for history, as long as the limits say (``Room.log``).

Serving a room goes in *passes* over its members, a pass in *turns* of so many members, so that a room of 20,000 stops
nobody else. ``floor`` is an index below which every member has read that is neither blocked nor told to pull; those
two kinds are in ``behind``. So frames below ``min(floor, cursors of behind)`` can go, and the floor never passes a
healthy member that merely waits for its turn.
"""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from roomhub.core.codec import Chunk, Frame, Lane, wire_bytes
from roomhub.core.message import CHAT, PASSING, Message, Position, Record
from roomhub.core.roster import Item, Roster

if TYPE_CHECKING:
    from roomhub.core.session import Session

__all__ = ["LaneLog", "Member", "Receipt", "Room", "RoomTalk", "Share"]

C = TypeVar("C", bound=Hashable)

RECORD_OVERHEAD_BYTES = 64
"""What a logged message is counted with beside its text, so that empty ones are bounded in bytes too."""


class LaneLog:
    """The frames of a room's newest entries in one lane, with running byte totals beside them.

    Attributes:
        passing: the bytes, by index, of the entries that who does not keep up is spared: what only who is here now
            should hear, and what the lane's dialect has no words for.
        silent: those of its entries that have no offset, ascending.
    """

    __slots__ = (
        "_chunk",
        "_chunk_head",
        "_chunk_next",
        "_chunk_start",
        "base",
        "frames",
        "lane",
        "members",
        "passing",
        "silent",
        "totals",
    )

    def __init__(self, lane: Lane, base: int) -> None:
        self.lane: Lane = lane
        self.members: int = 0
        self.base: int = base
        self.frames: list[Frame] = []
        # totals[i] is how many bytes came before frames[i]; lag in bytes is one subtraction.
        self.totals: list[int] = [0]
        self._chunk_start = self._chunk_head = self._chunk_next = -1
        self._chunk: Chunk = lane.nothing
        self.passing: dict[int, int] = {}
        self.silent: list[int] = []

    def append(self, message: Message) -> None:
        lane = self.lane
        text = lane.codec.encode(message)
        frame = lane.frame(text) if text else lane.empty
        size = len(frame) if isinstance(frame, bytes) else wire_bytes(frame)
        if lane.talker is not None and not message.offset:
            index = self.base + len(self.frames)
            self.silent.append(index)
            if message.kind == PASSING:
                self.passing[index] = size
        elif not text:
            self.passing[self.base + len(self.frames)] = size
        self.frames.append(frame)
        self.totals.append(self.totals[-1] + size)

    def lag_bytes(self, cursor: int) -> int:
        return self.totals[-1] - self.totals[cursor - self.base]

    def lag(self, cursor: int) -> tuple[int, int]:
        """How many entries, and bytes, from ``cursor`` on count against who is behind."""
        sizes = [size for index, size in self.passing.items() if index >= cursor]
        return self.base + len(self.frames) - cursor - len(sizes), self.lag_bytes(cursor) - sum(sizes)

    def count_silent(self, cursor: int) -> int:
        """How many of the entries from ``cursor`` on have no offset."""
        return len(self.silent) - bisect_left(self.silent, cursor)

    def read(self, cursor: int, most_bytes: float) -> tuple[Chunk, int]:
        """The frames from ``cursor`` on, at least one and at most ``most_bytes``, and the cursor behind them.

        Members at one cursor get the same object.
        """
        head = self.base + len(self.frames)
        if cursor == self._chunk_start and head == self._chunk_head:
            return self._chunk, self._chunk_next
        first = cursor - self.base
        totals = self.totals
        budget = totals[first] + most_bytes
        last = len(self.frames) if totals[-1] <= budget else max(first + 1, bisect_right(totals, budget) - 1)
        only = self.frames[first] if last == first + 1 else None
        self._chunk = only if isinstance(only, bytes) else self.lane.join(self.frames[first:last])
        self._chunk_start, self._chunk_head, self._chunk_next = cursor, head, self.base + last
        return self._chunk, self._chunk_next

    def trim(self, index: int) -> None:
        """Forget the frames before ``index``."""
        count = index - self.base
        if count <= 0:
            return
        if count == len(self.frames):
            self.frames.clear()
            self.totals = [0]
        else:
            del self.frames[:count]
            del self.totals[:count]
        self.base = index
        if self.silent:
            del self.silent[: bisect_left(self.silent, index)]
        if self.passing:
            self.passing = {at: size for at, size in self.passing.items() if at >= index}
        self._chunk_start = -1
        self._chunk = self.lane.nothing


class Share(Generic[C]):
    """One chunk and the clients that get it, each of which wants exactly this next.

    Attributes:
        chunk: what to write to each.
        frames: how many frames that is.
        clients: to whom.
    """

    __slots__ = ("chunk", "clients", "frames")

    def __init__(self, chunk: Chunk, frames: int, clients: Sequence[C]) -> None:
        self.chunk: Chunk = chunk
        self.frames: int = frames
        self.clients: Sequence[C] = clients


class Member(Generic[C]):
    """A session's place in one room.

    Attributes:
        cursor: index of the first entry it has not been given.
        alone: served by pulling, not together with the others of its room.
        gone: it left; a pass that still has it in hand skips it.
    """

    __slots__ = ("alone", "client", "cursor", "gone", "log", "room", "session")

    def __init__(self, session: "Session[C]", room: "Room[C]", log: LaneLog) -> None:
        self.session: Session[C] = session
        self.client: C = session.client
        self.room: Room[C] = room
        self.log: LaneLog = log
        self.cursor: int = room.head
        self.alone: bool = True
        self.gone: bool = False


class Receipt:
    """What became of a message whose sender wants to know.

    Attributes:
        epoch, offset, ts_ms: its place.
        waiting: who is to be told once it is stored, None if it is.
        error: why it could not be stored.
    """

    __slots__ = ("epoch", "error", "offset", "room", "ts_ms", "waiting")

    def __init__(self, room: str, epoch: str, offset: int, ts_ms: int) -> None:
        self.room: str = room
        self.epoch: str = epoch
        self.offset: int = offset
        self.ts_ms: int = ts_ms
        self.waiting: list[Any] | None = None
        self.error: str = ""


class RoomTalk:
    """What only a room has that v1 clients have been in.

    Attributes:
        roster: who is here, as told.
        metas: the metadata of users here that have any.
        users: those here with a v1 session, or had one since they came.
        due_s: when the next change of the roster is due that is told at once (``rates.Rate``).
        typing_due_s: when the next sign of a user's typing may go out.
    """

    __slots__ = ("due_s", "metas", "roster", "typing_due_s", "users")

    def __init__(self, roster: Roster) -> None:
        self.roster: Roster = roster
        self.metas: dict[str, Mapping[str, Any]] = {}
        self.users: set[str] = set()
        self.due_s: float = 0.0
        self.typing_due_s: dict[str, float] = {}


class Room(Generic[C]):
    """One room: its log, its members, and which user is here with how many sessions."""

    __slots__ = (
        "_next_floor",
        "_part",
        "_walk",
        "_walk_at",
        "arrivals",
        "began_at",
        "behind",
        "departures",
        "epoch",
        "floor",
        "head",
        "home",
        "is_loaded",
        "lanes",
        "log",
        "log_bytes",
        "members",
        "name",
        "names",
        "offset",
        "reserved",
        "speaker",
        "talk",
        "ts_ms",
        "users",
    )

    def __init__(self, name: str, epoch: str) -> None:
        self.name: str = name
        self.epoch: str = epoch
        self.members: dict[C, Member[C]] = {}
        self.users: dict[str, int] = {}
        self.names: dict[str, str] = {}  # of users here whose name differs from their key
        self.lanes: dict[Lane, LaneLog] = {}
        self.head: int = 0
        self.offset: int = 0
        # With a store: up to where offsets may be given, and whether the log has what the store has of it.
        self.reserved: float = math.inf
        self.is_loaded: bool = True
        # A store that fell too far behind: the epoch and offset where it goes on once the store can take more.
        self.home: Position | None = None
        self.began_at: int = -1  # the index of the notice that offsets began anew, if they did
        self.ts_ms: int = 0
        self.talk: RoomTalk | None = None
        self.log: deque[Record] = deque()
        self.log_bytes: int = 0
        # The plain dialect's presence that has not gone out yet, by user in order of time; with their names.
        self.arrivals: dict[str, str] = {}
        self.departures: dict[str, str] = {}
        # Serving
        self.floor: int = 0
        self.behind: dict[Member[C], None] = {}
        self.speaker: Member[C] | None = None
        self._walk: list[Member[C]] | None = None  # the pass under way; empty if its first turn looks at all
        self._walk_at = 0
        self._next_floor = 0
        self._part: list[Member[C]] = []

    def append(self, message: Message) -> None:
        """One entry: encoded once a lane, whatever the number of members."""
        for log in self.lanes.values():
            log.append(message)
        self.head += 1

    def record(self, message: Message, now: float, most_messages: float, most_bytes: float) -> None:
        """Keep a chat message for history, and let go of what the bounds no longer allow."""
        log = self.log
        content = message.content
        size = (len(content) if content.isascii() else wire_bytes(content)) + RECORD_OVERHEAD_BYTES
        log.append((message.user, message.username, content, message.offset, message.ts_ms, size, now, message.to))
        self.log_bytes += size
        while log and (len(log) > most_messages or self.log_bytes > most_bytes):
            self.log_bytes -= log.popleft()[5]

    def forget(self, before: float) -> None:
        """Let go of the messages logged before this monotonic time. Frames that somebody has yet to get stay."""
        log = self.log
        while log and log[0][6] < before:
            self.log_bytes -= log.popleft()[5]

    def erase(self, is_gone: Callable[[Record], bool], *, is_stored: bool) -> None:
        """Let go of some messages; where there is a store, of those before them too: it knows why the others lack."""
        kept: deque[Record] = deque()
        for record in self.log:
            if not is_gone(record):
                kept.append(record)
            elif is_stored:
                kept.clear()
        if len(kept) != len(self.log):
            self.log = kept
            self.log_bytes = sum(record[5] for record in kept)

    def prepend(self, records: Sequence[Record]) -> None:
        """Put older messages, oldest first, before those that are logged."""
        self.log.extendleft(reversed(records))
        self.log_bytes += sum(record[5] for record in records)

    def messages(self, limit: float) -> list[Message]:
        """The newest logged messages, oldest first."""
        skipped = 0 if limit >= len(self.log) else len(self.log) - int(limit)
        return [
            Message(CHAT, self.name, user, username, content, offset, ts_ms, epoch=self.epoch)
            for user, username, content, offset, ts_ms, _, _, _ in islice(self.log, skipped, None)
        ]

    def enter(self, session: "Session[C]") -> Member[C]:
        """Add a member whose cursor is at the head."""
        log = self.lanes.get(session.lane)
        if log is None:
            log = self.lanes[session.lane] = LaneLog(session.lane, self.head)
        log.members += 1
        member = Member(session, self, log)
        self.members[session.client] = member
        if session.blocked:
            self.behind[member] = None
        user = session.user
        if user not in self.users and session.username != user:
            self.names[user] = session.username
        self.users[user] = self.users.get(user, 0) + 1
        return member

    def name_of(self, user: str) -> str:
        """How a user here is called: as its first session here spells it."""
        return self.names.get(user, user)

    def item_of(self, user: str) -> Item | None:
        """How a user is here, for the roster; None if it is not. Who may be back soon is here as it was."""
        assert self.talk is not None
        devices = self.users.get(user)
        if devices is None:
            return None
        if not devices:
            return self.talk.roster.told.get(user)
        meta = self.talk.metas.get(user)
        item = {"user": user, "username": self.name_of(user), "devices": devices}
        return item if meta is None else {**item, "meta": meta}

    def begin_talk(self, rev: int) -> RoomTalk:
        """A v1 client comes in, the first one: from now on there is a roster with revisions, this one to begin with."""
        items = [
            {"user": user, "username": self.name_of(user), "devices": devices} for user, devices in self.users.items()
        ]
        self.talk = RoomTalk(Roster(items, rev))
        return self.talk

    def exit(self, member: Member[C]) -> bool:
        """Remove a member; True if its user has no other session here. Then ``users`` still has the user, with 0."""
        del self.members[member.client]
        self.catch_up(member)
        member.gone = member.alone = True
        if self.speaker is member:
            self.speaker = None
        member.log.members -= 1
        if not member.log.members:
            del self.lanes[member.log.lane]
        self.users[member.session.user] -= 1
        return not self.users[member.session.user]

    # -- serving ------------------------------------------------------------------------------------------------------

    def turn(self, most_members: int, chunk_bytes: float, named: dict[C, None], *, name_all: bool) -> "Share[C] | None":
        """Serve the next members of the pass, beginning one if none is under way. With it ended the floor has risen.

        Members that pull alone are put into ``named``. The others that stand at one cursor in one lane share a chunk.
        None if this turn had none of those.
        """
        head = self.head
        part = self._part
        if self._walk is None:
            part = list(self.members.values())
            self._next_floor = head
            self._walk = []
            if len(part) > most_members:
                self._walk = part
                self._walk_at = most_members
                part = part[:most_members]
            if self.speaker is not None:
                # Whoever spoke last is served first: publishers that wait for their own echo set the room's pace.
                part.insert(0, self.speaker)
        elif not part:
            part = self._walk[self._walk_at : self._walk_at + most_members]
            self._walk_at += most_members
        rest: list[Member[C]] = []
        clients: list[C] = []
        log: LaneLog | None = None
        chunk: Chunk = b""
        cursor = after = -1
        for member in part:
            if member.alone or name_all:
                if not member.gone and member.cursor < head:
                    self._name(member, named)
            elif member.cursor == cursor and member.log is log:
                member.cursor = after
                clients.append(member.client)
            elif member.cursor == head:
                pass  # it joined, or pulled, since
            elif log is None:
                log, cursor = member.log, member.cursor
                chunk, after = log.read(cursor, chunk_bytes)
                member.cursor = after
                clients.append(member.client)
                if after < self._next_floor:
                    self._next_floor = after
            else:
                rest.append(member)
        self._part = rest
        if not rest and (not self._walk or self._walk_at >= len(self._walk)):
            self._walk = None
            self.floor = self._next_floor
            self.trim()
        return Share(chunk, after - cursor, clients) if chunk else None

    def _name(self, member: Member[C], named: dict[C, None]) -> None:
        self.behind[member] = None
        member.alone = True
        session = member.session
        if not session.blocked and not session.waiting:
            session.waiting = True
            named[member.client] = None

    def catch_up(self, member: Member[C]) -> None:
        """It has been given all there is, or will be given no more: what was kept for it alone can go."""
        if member in self.behind:
            del self.behind[member]
            if not self.behind:
                self.trim()

    def trim(self) -> None:
        """Let go of frames that every member has been given."""
        keep = self.floor
        if self.behind:
            log = next(iter(self.lanes.values()), None)
            # Finding the slowest is a walk over those behind; not worth it for every few entries.
            if log is None or self.floor - log.base < 32:
                return
            keep = min(keep, min(member.cursor for member in self.behind))
        for log in self.lanes.values():
            log.trim(keep)
