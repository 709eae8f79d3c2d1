"""Rooms' histories in one SQLite file, written by a thread of its own.

The hub's calls leave their wish in a queue and go on. What waits there is written in batches, one transaction each, and
reported once it is committed. ``history_file`` has what is in the file.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Final, Literal, NamedTuple, TypeAlias

from roomhub.core.sanctions import Sanction
from roomhub.core.storage import Loaded, Report, Snapshot, Stored, StoredMessage, StoreFailed
from roomhub.stores.history_file import HistoryFile, Keep

__all__ = ["SqliteHistory"]

_log = logging.getLogger("roomhub")

MESSAGE_OVERHEAD_BYTES: Final = 64
"""What a message counts with beside its strings, so that empty ones are bounded in bytes too."""
LOADS: Final = 10_000
"""How many loads may wait."""
LOADS_PER_TURN: Final = 32
"""How many loads are answered before the next batch is written."""
SANCTIONS_WAITING: Final = 10_000
"""So many bans and mutes are taken beside a full queue: a flood must not keep out the ban of who floods."""
TIDY_INTERVAL_S: Final = 1.0
"""Seconds from a write to the next look for what need not be kept any more."""
IDLE_TIDY_INTERVAL_S: Final = 60.0
"""The same where nothing is written, if messages expire by age."""


_Append: TypeAlias = tuple[StoredMessage, Hashable, float]
"""A message, its ref, and what it counts in bytes. A plain tuple: every message is one."""


class _Call:
    """Something else to do to the file, in a batch of its own."""

    __slots__ = ("do", "ref")

    def __init__(self, do: Callable[[HistoryFile], None], ref: Hashable) -> None:
        self.do: Callable[[HistoryFile], None] = do
        self.ref: Hashable = ref


class _Load(NamedTuple):
    room: str
    ref: Hashable
    after: int | None
    before: int | None
    limit: int
    most_bytes: float
    behind: int  # how many appends and calls were asked for before


class SqliteHistory:
    """A durable history, for one process at a time: ``open``, then the other calls from any thread, then ``close``.

    Only ``open`` and ``close`` wait for the disk. What is not taken, or fails, is a gap in its room's history and never
    holds the hub up. The hub's part in "no offset is given twice": it appends every message, in order, before
    ``close``; it gives no offset above what ``StoredRoom.reserved`` and ``Stored.reserved`` allow. A room that is new,
    or has a new epoch, begins with ``reserve`` offsets.

    While it is open the file belongs to this process alone: not even a reader gets in.

    Args:
        path: the file; it is made if it is not there. SQLite adds ``-wal`` beside it.
        keep_messages: how many messages a room keeps; some more for a second or so after a burst.
        keep_bytes: the same in bytes: each message's text and 64 for the rest of it.
        keep_age_s: how many seconds a message is kept; it may stay a minute longer.
        key_ttl_s: how many seconds an idempotency key is remembered.
        commit_interval_s: how many seconds the first message of a batch waits for others; may be 0.
        commit_messages: most messages in a batch; one that is full does not wait.
        queue_messages: how many messages may wait to be stored.
        queue_bytes: the same in bytes.
        durability: what is safe once it is ``Stored``: after "process" it survives the end of the process, however
            sudden; after "power" that of the machine too, at one or two syncs of the disk a batch. With "process" a
            power cut may take the last seconds, and their offsets are given again.
        reserve: how many offsets a room reserves ahead: as many as may be given before the store is heard of again.
            After a kill those are a gap, so clients may be told of so many lost messages, if there were any.
        now_ms: Unix milliseconds.

    Raises:
        ValueError: a bound is not more than 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep_messages: float = inf,
        keep_bytes: float = inf,
        keep_age_s: float = inf,
        key_ttl_s: float = 300,
        commit_interval_s: float = 0.01,
        commit_messages: int = 500,
        queue_messages: float = 10_000,
        queue_bytes: float = 16 * 1024 * 1024,
        durability: Literal["process", "power"] = "process",
        reserve: int = 20_000,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        for name, value in list(locals().items()):
            # commit_interval_s 0 means: wait for no others.
            if isinstance(value, int | float) and not value > 0 and (value != 0 or name != "commit_interval_s"):
                raise ValueError(f"{name} must be more than 0, not {value!r}")
        self._path = os.fspath(path)
        self._synchronous = {"process": "NORMAL", "power": "FULL"}[durability]
        self._keep = Keep(keep_messages, keep_bytes, keep_age_s * 1_000, key_ttl_s * 1_000)
        self._commit_interval_s = commit_interval_s
        self._commit_messages = commit_messages
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._reserve = reserve
        self._now_ms = now_ms
        self._thread: threading.Thread | None = None
        # Shared with the callers' threads, under the lock of ``_wake``.
        self._wake = threading.Condition(threading.Lock())
        self._accepting = False
        self._queue: deque[_Append | _Call] = deque()
        self._due = 0.0  # monotonic s: when the first in the queue has waited long enough
        self._bytes = 0.0
        self._asked = self._settled = 0  # appends and calls since ``open``
        self._loads: deque[_Load] = deque()
        self._unstored: dict[tuple[str, str], int] = {}  # by room and epoch: the last offset that is not in the file
        self._short: set[tuple[str, str]] = set()  # those of which more offsets may have to be reserved
        # The writer's own.
        self._file: HistoryFile
        self._report: Callable[[Report], None]
        self._tidy_at = 0.0  # monotonic s
        self._commits = self._failures = 0
        self._is_healthy = True

    # -- from any thread ----------------------------------------------------------------------------------------------

    def open(self, report: Callable[[Report], None]) -> Snapshot:
        """Open or make the file, and begin to store. Blocks.

        Args:
            report: told what became of what was asked for, from the store's thread.

        Raises:
            StoreError: the file cannot be used.
            RuntimeError: it was opened before.
        """
        if self._thread is not None:
            raise RuntimeError("a SqliteHistory is opened once: make another")
        self._file = HistoryFile(
            self._path, synchronous=self._synchronous, reserve=self._reserve, keep=self._keep, now_ms=self._now_ms
        )
        self._report = report
        self._accepting = True
        self._thread = threading.Thread(target=self._run, name=f"roomhub history {self._path}", daemon=False)
        self._thread.start()
        return self._file.snapshot

    def append(self, messages: Sequence[StoredMessage], refs: Sequence[Hashable]) -> int:
        """Have messages stored, their offsets rising in each room.

        Returns:
            How many are taken, from the first on; the others are not.
        """
        sizes = [MESSAGE_OVERHEAD_BYTES + _size(message.content) for message in messages]
        size = sum(sizes)
        with self._wake:
            if not self._accepting:
                return 0
            count = len(messages)
            if self.queued + count > self._queue_messages or self._bytes + size > self._queue_bytes:
                count, size = self._fitting(sizes)
                for message in messages[count:]:
                    self._note_unstored(message)
            if count:
                self._bytes += size
                self._ask(list(zip(messages[:count], refs, sizes, strict=False)))
            return count

    def _fitting(self, sizes: Sequence[float]) -> tuple[int, float]:
        """How many of these still go into the queue, and their bytes."""
        size = 0.0
        for count, each in enumerate(sizes):
            if self.queued + count >= self._queue_messages or self._bytes + size + each > self._queue_bytes:
                return count, size
            size += each
        return len(sizes), size

    def load(
        self,
        room: str,
        ref: Hashable,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        most_bytes: float = inf,
    ) -> bool:
        """Ask for a page; the answer sees all that was appended and erased before. False: too many are asked for.

        Args:
            room: the room's name.
            ref: comes back with the page.
            after: the oldest messages above this offset; without it, the newest.
            before: only messages below this offset.
            limit: most messages in the page.
            most_bytes: as many messages as these bytes hold, but at least one: text, and 64 for the rest of each.

        Raises:
            ValueError: ``limit`` is not more than 0.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        with self._wake:
            if not self._accepting or len(self._loads) >= LOADS:
                return False
            self._loads.append(_Load(room, ref, after, before, limit, most_bytes, self._asked))
            self._wake.notify()
            return True

    def erase_message(self, room: str, offset: int, ref: Hashable = None) -> bool:
        """Erase a message; that none is there is no error. False: it is not taken.

        Once it is ``Stored`` its text is overwritten where it stood, and the write-ahead log is emptied. Its key stays,
        so that sending it again does not bring it back. What SQLite left in the unused part of a page, when it moved
        the message to another one before, goes with the next ``scrub``.
        """
        return self._call(lambda file: file.erase_message(room, offset), ref)

    def erase_user(self, user: str, ref: Hashable = None) -> bool:
        """Erase all that a user said, in all rooms, and the user's keys. As ``erase_message``.

        It is one transaction, of about ten microseconds a message; what is appended behind it waits so long.

        Raises:
            ValueError: ``user`` is ``""``, which is nobody.
        """
        if not user:
            raise ValueError("user must not be empty: that is nobody")
        return self._call(lambda file: file.erase_user(user), ref)

    def scrub(self, ref: Hashable = None) -> bool:
        """Write the whole file anew: once it is ``Stored``, nothing of what was erased before is in it. False: no.

        It gives unused space back too. It takes some seconds a gigabyte, while what is appended waits in the queue, and
        for so long up to twice the file's space beside it. So it is not part of every erasure: do it at a quiet hour.
        """
        return self._call(HistoryFile.scrub, ref)

    def impose(self, sanction: Sanction, ref: Hashable = None) -> bool:
        """Keep a ban or a mute, in place of one of its kind for its user and room. False: it is not taken."""
        return self._call(lambda file: file.impose(sanction), ref, spare=SANCTIONS_WAITING)

    def lift(self, sanction: Sanction, ref: Hashable = None) -> bool:
        """Keep it no more; that there is none is no error. False: it is not taken."""
        return self._call(lambda file: file.lift(sanction), ref, spare=SANCTIONS_WAITING)

    def close(self) -> None:
        """Do what was asked for, then end the thread and close the file. Blocks; again, it does nothing."""
        with self._wake:
            self._accepting = False
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def reserve(self) -> int:
        """How many offsets a room reserves ahead, and a new one begins with."""
        return self._reserve

    @property
    def queued(self) -> int:
        """How many messages, erasures, scrubs, bans and mutes are taken and not yet settled."""
        return self._asked - self._settled

    @property
    def queued_bytes(self) -> int:
        """The same in bytes, each message's text and 64 for the rest of it."""
        return int(self._bytes)

    @property
    def commits(self) -> int:
        """How many batches were committed."""
        return self._commits

    @property
    def failures(self) -> int:
        """How many batches, and steps of tidying up, failed."""
        return self._failures

    @property
    def is_healthy(self) -> bool:
        """False from a failure until a batch is committed."""
        return self._is_healthy

    def _note_unstored(self, message: StoredMessage) -> None:
        place = message.room, message.epoch
        self._unstored[place] = max(self._unstored.get(place, 0), message.offset)
        self._short.add(place)

    def _call(self, do: Callable[[HistoryFile], None], ref: Hashable, *, spare: int = 0) -> bool:
        with self._wake:
            if not self._accepting or self.queued >= self._queue_messages + spare:
                return False
            self._ask([_Call(do, ref)])
            return True

    def _ask(self, items: Sequence[_Append | _Call]) -> None:
        before = len(self._queue)
        if not before:
            self._due = time.monotonic() + self._commit_interval_s
        self._queue.extend(items)
        self._asked += len(items)
        # Only when that ends its waiting: it is asleep without an end, or until the first is due.
        if not before or before < self._commit_messages <= len(self._queue):
            self._wake.notify()

    # -- in the writer's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (turn := self._take()) is not None:
                batch, loads = turn
                if batch:
                    self._write(batch)
                if time.monotonic() >= self._tidy_at:
                    self._tidy()
                for load in loads:
                    self._tell(self._answer(load))
        finally:
            self._accepting = False
            try:
                self._file.close(self._unstored)
            except Exception:
                # What stays reserved will be told as lost, and where the disk fails that may well be so.
                _log.exception("the history in %r was not closed in good order", self._path)

    def _take(self) -> tuple[list[_Append | _Call], list[_Load]] | None:
        """Wait for something to do. The batch is one call, or messages. None: all is done, and no more will come."""
        batch: list[_Append | _Call] = []
        loads: list[_Load] = []
        queue = self._queue
        with self._wake:
            while True:
                now = time.monotonic()
                due = self._due if queue else inf
                flush = not self._accepting or self._loads or len(queue) >= self._commit_messages or due <= now
                if flush or self._tidy_at <= now:
                    break
                until = min(due, self._tidy_at)
                self._wake.wait(min(until - now, threading.TIMEOUT_MAX))
            if not self._accepting and not queue and not self._loads:
                return None
            if flush and queue:
                batch.append(queue.popleft())
                if not isinstance(batch[0], _Call):
                    while queue and len(batch) < self._commit_messages and not isinstance(queue[0], _Call):
                        batch.append(queue.popleft())
            settled = self._settled + len(batch)
            while self._loads and len(loads) < LOADS_PER_TURN and self._loads[0].behind <= settled:
                loads.append(self._loads.popleft())
        return batch, loads

    def _write(self, batch: Sequence[_Append | _Call]) -> None:
        first = batch[0]
        messages = [item for item in batch if not isinstance(item, _Call)]
        ahead = self._ahead()
        reserved: dict[tuple[str, str], int] = {}
        refused: dict[int, str] = {}
        error = ""
        try:
            if isinstance(first, _Call):
                first.do(self._file)
            else:
                reserved, refused = self._file.store(messages, ahead)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
            self._failures += 1
            if isinstance(first, _Call):
                # They are rare, and nobody may be waiting to hear of it.
                _log.error("what was asked of the history in %r was not done: %s", self._path, error)
        else:
            self._commits += 1
        self._is_healthy = not error
        with self._wake:
            self._settled += len(batch)
            self._bytes -= sum([size for _, _, size in messages])
            if error:
                for message, _, _ in messages:
                    self._note_unstored(message)
            elif self._unstored:
                for message, _, _ in messages:
                    if self._unstored.get(message[:2], inf) <= message.offset:
                        del self._unstored[message.room, message.epoch]
        self._tidy_at = min(self._tidy_at, time.monotonic() + TIDY_INTERVAL_S)
        asked = [first.ref] if isinstance(first, _Call) else [ref for _, ref, _ in messages]
        refs = [ref for index, ref in enumerate(asked) if ref is not None and index not in refused]
        self._tell(StoreFailed(refs, error) if error else Stored(refs, reserved))
        for index, reason in refused.items():
            self._tell(StoreFailed([ref for ref in [asked[index]] if ref is not None], reason))

    def _ahead(self) -> dict[tuple[str, str], int]:
        """Up to where rooms have offsets in use that are not in the file, if the store is behind."""
        with self._wake:
            waiting = list(self._queue) if len(self._queue) > self._commit_messages else ()
            ahead = dict(self._unstored)
        for item in waiting:
            if not isinstance(item, _Call):
                ahead[item[0][:2]] = item[0].offset
        return ahead

    def _tidy(self) -> None:
        interval_s = IDLE_TIDY_INTERVAL_S if self._keep.age_ms < inf else inf
        try:
            with self._wake:
                short = {place: self._unstored.get(place, 0) for place in self._short}
            if short:
                # Rooms that ran out of offsets wait for these.
                if reserved := self._file.reserve_ahead(short):
                    self._tell(Stored((), reserved))
                with self._wake:
                    self._short -= {place for place, offset in short.items() if self._unstored.get(place, 0) == offset}
            if self._file.tidy(2 * self._commit_messages):  # more than a batch: it keeps up with any load
                interval_s = 0.0
        except Exception:
            _log.exception("the history in %r could not be tidied up", self._path)
            self._failures += 1
            self._is_healthy = False
            interval_s = TIDY_INTERVAL_S if self._short else IDLE_TIDY_INTERVAL_S
        self._tidy_at = time.monotonic() + interval_s

    def _answer(self, load: _Load) -> Loaded:
        try:
            return Loaded(load.ref, self._file.page(load.room, load.after, load.before, load.limit, load.most_bytes))
        except Exception as error:
            return Loaded(load.ref, None, f"{type(error).__name__}: {error}")

    def _tell(self, report: Report) -> None:
        try:
            self._report(report)
        except Exception:
            _log.exception("what is told of the history in %r raised", self._path)


def _size(text: str) -> float:
    """In UTF-8; too much of it where there is none, which no database takes."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return inf
