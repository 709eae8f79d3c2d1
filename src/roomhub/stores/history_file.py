"""The SQLite file behind ``SqliteHistory``: what is in it, and all that is done to it. Every call blocks.

**No offset is given twice**, not even if the process is killed. The file says for each room up to where offsets may be
in use (``reserved``), always ahead of those that are. What a process had reserved that ended without ``close`` is never
given again: it becomes a gap.

**Every offset up to the last is that of a message or in a gap**, so a page can tell what is missing, and why.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from math import inf
from typing import Final, NamedTuple

from roomhub.core.sanctions import Sanction
from roomhub.core.storage import Page, Snapshot, StoredGap, StoredKey, StoredMessage, StoredRoom, StoreError

__all__ = ["HistoryFile", "Keep"]

APPLICATION_ID: Final = 0x726F6F6D
"""What marks a file as ours: "room"."""
ROWS_PER_STATEMENT: Final = 100
"""How many rows are written at once; with their columns below 999, the most parameters an old SQLite takes."""
SANCTIONS_KEPT_MS: Final = 30 * 24 * 3_600 * 1_000
"""So long a ban or mute that is over stays in the file."""
LOGS: Final = 10_000
"""How many rooms' rows are kept at hand."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (  # to version 1. Messages are in order of arrival: appending moves no page, and a room is found by the index.
        """CREATE TABLE rooms (
            id INTEGER PRIMARY KEY,
            name TEXT UNIQUE,  -- NULL: an epoch that is over, removed little by little
            epoch TEXT NOT NULL,
            last INTEGER NOT NULL DEFAULT 0,
            reserved INTEGER NOT NULL DEFAULT 0,
            ts_ms INTEGER NOT NULL DEFAULT 0,
            messages INTEGER NOT NULL DEFAULT 0,  -- how many there are, and their bytes
            bytes INTEGER NOT NULL DEFAULT 0)""",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY,
            room INTEGER NOT NULL,
            offset INTEGER NOT NULL,
            user TEXT NOT NULL,
            username TEXT NOT NULL,
            content TEXT NOT NULL,
            ts_ms INTEGER NOT NULL,
            addressee TEXT NOT NULL,
            bytes INTEGER NOT NULL)""",
        "CREATE UNIQUE INDEX messages_by_offset ON messages (room, offset)",
        "CREATE INDEX messages_by_age ON messages (ts_ms)",
        "CREATE INDEX messages_by_user ON messages (user) WHERE user <> ''",
        """CREATE TABLE gaps (
            room INTEGER NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (room, first)) WITHOUT ROWID""",
        """CREATE TABLE keys (
            room TEXT NOT NULL,
            user TEXT NOT NULL,
            key TEXT NOT NULL,
            epoch TEXT NOT NULL,
            offset INTEGER NOT NULL,
            ts_ms INTEGER NOT NULL,
            PRIMARY KEY (user, room, key)) WITHOUT ROWID""",
        "CREATE INDEX keys_by_age ON keys (ts_ms)",
    ),
    (  # to version 2
        """CREATE TABLE sanctions (
            kind TEXT NOT NULL,
            user TEXT NOT NULL,
            room TEXT NOT NULL,  -- '': everywhere
            until_ms INTEGER,  -- NULL: no end
            reason TEXT NOT NULL,
            imposed_by TEXT NOT NULL,
            ts_ms INTEGER NOT NULL,
            PRIMARY KEY (user, room, kind)) WITHOUT ROWID""",
        "CREATE INDEX sanctions_by_end ON sanctions (until_ms) WHERE until_ms IS NOT NULL",
    ),
)
"""The statements that bring a file from the version before to the next. Add to the end; never change one."""

_BUSY = "another process has it open, and a history has one writer. Stop that one, or give this one a file of its own"
_UNWRITABLE = "the file and its directory must be there and writable for this user"
_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_CANTOPEN: _UNWRITABLE,
    sqlite3.SQLITE_READONLY: _UNWRITABLE,
    sqlite3.SQLITE_PERM: _UNWRITABLE,
    sqlite3.SQLITE_NOTADB: "it is not a history. Give roomhub a file of its own",
    sqlite3.SQLITE_CORRUPT: "it is damaged. Bring back a backup, or move it away to begin anew",
    sqlite3.SQLITE_FULL: "make room on the disk",
}


class Keep(NamedTuple):
    """How much is kept: of each room so many messages, so many bytes, for so long; keys for so long."""

    messages: float = inf
    bytes: float = inf
    age_ms: float = inf
    key_age_ms: float = inf


class _Log:
    """A room's row, as of the transaction under way."""

    __slots__ = ("bytes", "epoch", "id", "last", "messages", "name", "reserved", "ts_ms")

    def __init__(
        self, id: int, name: str, epoch: str, last: int = 0, reserved: int = 0, ts_ms: int = 0, messages: int = 0,
        bytes: int = 0,
    ) -> None:  # fmt: skip
        self.id = id
        self.name = name
        self.epoch = epoch
        self.last = last
        self.reserved = reserved
        self.ts_ms = ts_ms
        self.messages = messages
        self.bytes = bytes


class HistoryFile:
    """One open file. Not for two threads at once, but any may call.

    Args:
        path: the file; it is made if it is not there.
        synchronous: SQLite's word for what a commit waits for.
        reserve: how many offsets a room reserves ahead.
        keep: how much is kept.
        now_ms: Unix milliseconds.

    Raises:
        StoreError: the file cannot be used.
    """

    def __init__(self, path: str, *, synchronous: str, reserve: int, keep: Keep, now_ms: Callable[[], int]) -> None:
        self._path = path
        self._reserve = reserve
        self._keep = keep
        self._now_ms = now_ms
        self._logs: dict[str, _Log] = {}
        self._overfull: dict[int, None] = {}  # rooms that have more than they keep
        database = None
        try:
            self._database = database = self._connect()
            self._check_and_lock()
            database.execute(f"PRAGMA synchronous = {synchronous}")
            with self._transaction():
                self._migrate()
                self.snapshot: Snapshot = self._recover()
        except BaseException as error:
            if database is not None:
                database.close()
            if not isinstance(error, sqlite3.Error):
                raise
            # The low byte says what it is; the others only refine it.
            remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "see what SQLite says of it")
            raise StoreError(f"cannot open {path!r} ({error}): {remedy}") from error

    def close(self, unstored: Mapping[tuple[str, str], int]) -> None:
        """Give back the offsets that were reserved and not used, and close.

        Args:
            unstored: the last offset, by room and epoch, of messages that are not in the file: it was used too.
        """
        try:
            with self._transaction():
                self._database.execute("UPDATE rooms SET reserved = last WHERE reserved > last")
                for (room, epoch), offset in unstored.items():
                    self._database.execute(
                        "UPDATE rooms SET reserved = max(last, ?) WHERE name = ? AND epoch = ?", (offset, room, epoch)
                    )
            self._checkpoint()
        finally:
            self._database.close()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)

    def _check_and_lock(self) -> None:
        execute = self._database.execute
        # The lock is the kernel's on the open file, so it ends with the process, however that ends.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("BEGIN EXCLUSIVE")
        mark, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if mark != APPLICATION_ID and (mark or version or self._number("SELECT count(*) FROM sqlite_master")):
            raise StoreError(f"{self._path!r} is another program's database: give roomhub a file of its own")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self._path!r} has schema {version}, and this roomhub knows {len(MIGRATIONS)}: "
                "install the newer roomhub that wrote it, or use another file"
            )
        execute("COMMIT")
        if (mode := execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
            raise StoreError(f"{self._path!r} cannot have a write-ahead log ({mode}): use a file on a local disk")
        execute("PRAGMA secure_delete = ON")

    def _migrate(self) -> None:
        for statement in chain.from_iterable(MIGRATIONS[self._number("PRAGMA user_version") :]):
            self._database.execute(statement)
        # Also where nothing changes: what cannot be written has to show now.
        self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _recover(self) -> Snapshot:
        execute = self._database.execute
        now_ms = self._now_ms()
        # Rooms of which nothing is left. Only at the start can no hub be using them.
        old = now_ms - self._keep.age_ms
        execute("DELETE FROM rooms WHERE messages = 0 AND name IS NOT NULL AND ts_ms < ?", (old,))
        execute("DELETE FROM gaps WHERE room NOT IN (SELECT id FROM rooms)")
        for room, last, reserved in execute("SELECT id, last, reserved FROM rooms WHERE reserved > last").fetchall():
            self._gap(room, last + 1, reserved, "lost")
        # Ahead of the first message too: that is delivered before it is stored.
        execute("UPDATE rooms SET last = reserved, reserved = reserved + ?", (self._reserve,))
        over = execute("SELECT id FROM rooms WHERE messages > ? OR bytes > ?", (self._keep.messages, self._keep.bytes))
        self._overfull = dict.fromkeys(room for (room,) in over)
        rooms = execute("SELECT name, epoch, last, reserved, ts_ms FROM rooms WHERE name IS NOT NULL")
        keys = execute(
            "SELECT room, user, key, epoch, offset, ts_ms FROM keys WHERE ts_ms > ?", (now_ms - self._keep.key_age_ms,)
        )
        columns = "kind, user, room, until_ms, reason, imposed_by, ts_ms"
        in_force = "until_ms IS NULL OR until_ms > ?"
        sanctions = execute(f"SELECT {columns} FROM sanctions WHERE {in_force} ORDER BY ts_ms", (now_ms,))
        return Snapshot(
            [StoredRoom(*row) for row in rooms],
            [StoredKey(*row) for row in keys],
            [Sanction(*row) for row in sanctions],
        )

    # -- storing ------------------------------------------------------------------------------------------------------

    def store(
        self, messages: Sequence[tuple[StoredMessage, object, float]], ahead: Mapping[tuple[str, str], int]
    ) -> tuple[dict[tuple[str, str], int], dict[int, str]]:
        """Store messages in one transaction.

        Args:
            messages: with offsets that rise in each room; each with anything, and its size in bytes.
            ahead: by room and epoch, up to where offsets are in use already.

        Returns:
            The rooms, with their epochs, that have more reserved now, and up to where; the indices of messages that
            were refused, and why.
        """
        reserved: dict[tuple[str, str], int] = {}
        refused: dict[int, str] = {}
        rows: list[tuple[object, ...]] = []
        keys: list[tuple[object, ...]] = []
        touched: dict[int, _Log] = {}
        if len(self._logs) >= LOGS:
            self._logs.clear()
        with self._transaction():
            for index, ((room, epoch, offset, user, username, content, ts_ms, to, key), _, size) in enumerate(messages):
                log = self._log(room, epoch)
                if offset <= log.last:
                    refused[index] = f"offset {offset} of room {room!r} is not above its last one, {log.last}"
                    continue
                if offset > log.last + 1:
                    self._gap(log.id, log.last + 1, offset - 1, "lost")
                log.last = offset
                log.ts_ms = ts_ms
                log.messages += 1
                log.bytes += int(size)
                touched[log.id] = log
                rows.append((log.id, offset, user, username, content, ts_ms, to, size))
                if key is not None:
                    keys.append((room, user, key, epoch, offset, ts_ms))
            for log in touched.values():
                self._reserve_ahead(log, ahead.get((log.name, log.epoch), 0), reserved)
            self._insert("INSERT INTO messages (room, offset, user, username, content, ts_ms, addressee, bytes)", rows)
            self._insert("INSERT OR REPLACE INTO keys (room, user, key, epoch, offset, ts_ms)", keys)
            self._insert(
                "UPDATE rooms SET last = column2, reserved = column3, ts_ms = column4, messages = column5, "
                "bytes = column6 FROM (",
                [(log.id, log.last, log.reserved, log.ts_ms, log.messages, log.bytes) for log in touched.values()],
                ") WHERE id = column1",
            )
        for log in touched.values():
            if log.messages > self._keep.messages or log.bytes > self._keep.bytes:
                self._overfull[log.id] = None
        return reserved, refused

    def reserve_ahead(self, ahead: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """Reserve offsets above those that are in use, though none of their messages is stored; as ``store`` does."""
        reserved: dict[tuple[str, str], int] = {}
        with self._transaction():
            for (room, epoch), offset in ahead.items():
                known = self._database.execute("SELECT epoch FROM rooms WHERE name = ?", (room,)).fetchone()
                if known is None or known[0] == epoch:
                    log = self._log(room, epoch)
                    self._reserve_ahead(log, offset, reserved)
                    self._database.execute("UPDATE rooms SET reserved = ? WHERE id = ?", (log.reserved, log.id))
        return reserved

    def _reserve_ahead(self, log: _Log, in_use: int, reserved: dict[tuple[str, str], int]) -> None:
        in_use = max(in_use, log.last)
        if log.reserved - in_use < self._reserve / 2:
            log.reserved = reserved[log.name, log.epoch] = in_use + self._reserve

    def _log(self, room: str, epoch: str) -> _Log:
        """The room's row, new if this is a new epoch."""
        log = self._logs.get(room)
        if log is None:
            row = self._database.execute(
                "SELECT id, name, epoch, last, reserved, ts_ms, messages, bytes FROM rooms WHERE name = ?", (room,)
            ).fetchone()
            log = _Log(*row) if row else None
        if log is None or log.epoch != epoch:
            if log is not None:
                self._database.execute("UPDATE rooms SET name = NULL WHERE id = ?", (log.id,))
            made = self._database.execute("INSERT INTO rooms (name, epoch) VALUES (?, ?)", (room, epoch))
            assert made.lastrowid is not None
            log = _Log(made.lastrowid, room, epoch)
        self._logs[room] = log
        return log

    def _gap(self, room: int, first: int, last: int, reason: str) -> None:
        """These offsets have no message: one gap with its neighbours, in place of those inside."""
        execute = self._database.execute
        execute("DELETE FROM gaps WHERE room = ? AND first BETWEEN ? AND ?", (room, first, last))
        before = "SELECT first, last, reason FROM gaps WHERE room = ? AND first < ? ORDER BY first DESC LIMIT 1"
        found = execute(before, (room, first)).fetchone()
        if found is not None and found[1:] == (first - 1, reason):
            first = found[0]
        found = execute("SELECT last, reason FROM gaps WHERE room = ? AND first = ?", (room, last + 1)).fetchone()
        if found is not None and found[1] == reason:
            execute("DELETE FROM gaps WHERE room = ? AND first = ?", (room, last + 1))
            last = found[0]
        execute("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?)", (room, first, last, reason))

    # -- erasing ------------------------------------------------------------------------------------------------------

    def erase_message(self, room: str, offset: int) -> None:
        """Erase a message, if it is there. Its key stays, so that sending it again does not bring it back."""
        with self._transaction():
            self._erase("room = (SELECT id FROM rooms WHERE name = ?) AND offset = ?", room, offset)
        self._checkpoint()

    def erase_user(self, user: str) -> None:
        """Erase all that a user said, and the user's keys."""
        with self._transaction():
            self._erase("user = ? AND user <> ''", user)
            self._database.execute("DELETE FROM keys WHERE user = ?", (user,))
        self._checkpoint()

    def scrub(self) -> None:
        """Write the whole file anew, without the copies that SQLite leaves in unused parts of pages.

        With secure_delete it overwrites what is deleted and what is freed; but when it moves rows from a page to its
        neighbour, what it moved stays behind them.
        """
        self._database.execute("VACUUM")
        self._checkpoint()

    def _erase(self, which: str, *values: object) -> None:
        rows = f"SELECT room, offset, bytes FROM messages WHERE {which} ORDER BY room, offset"
        found: list[tuple[int, int, int]] = self._database.execute(rows, values).fetchall()
        self._database.execute(f"DELETE FROM messages WHERE {which}", values)
        # Offsets in a row all differ by the same from their index.
        for (room, _), run in groupby(enumerate(found), lambda each: (each[1][0], each[1][1] - each[0])):
            erased = [row for _, row in run]
            self._gap(room, erased[0][1], erased[-1][1], "expired")
            self._count_out(room, len(erased), sum(size for _, _, size in erased))

    def _count_out(self, room: int, messages: int, size: int) -> None:
        self._logs.clear()
        self._database.execute(
            "UPDATE rooms SET messages = messages - ?, bytes = bytes - ? WHERE id = ?", (messages, size, room)
        )

    # -- bans and mutes -----------------------------------------------------------------------------------------------

    def impose(self, sanction: Sanction) -> None:
        """Keep it, in place of one of its kind for its user and room."""
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO sanctions VALUES (?, ?, ?, ?, ?, ?, ?)", sanction)

    def lift(self, sanction: Sanction) -> None:
        """Keep it no more."""
        with self._transaction():
            self._database.execute(
                "DELETE FROM sanctions WHERE (kind, user, room) = (?, ?, ?)",
                (sanction.kind, sanction.user, sanction.room),
            )

    # -- reading ------------------------------------------------------------------------------------------------------

    def page(self, name: str, after: int | None, before: int | None, limit: int, most_bytes: float = inf) -> Page:
        """The oldest messages above ``after``, otherwise the newest, and only those below ``before``."""
        execute = self._database.execute
        row = execute("SELECT id, epoch, last FROM rooms WHERE name = ?", (name,)).fetchone()
        if row is None:
            return Page((), (), False)
        room, epoch, end = row
        start = 1 if after is None else after + 1
        if before is not None:
            end = min(end, before - 1)
        missing = 0
        if after is not None:
            missing = sum(gap.last - gap.first + 1 for gap in self._gaps_within(room, start, end))
        # One row each, so that the GIL is let go of once: see _insert.
        which = (
            "FROM messages WHERE room = ? AND offset BETWEEN ? AND ? "
            f"ORDER BY offset {'DESC' if after is None else 'ASC'} LIMIT ?"
        )
        sizes = execute(
            f"SELECT json_group_array(json_array(offset, bytes)) FROM (SELECT offset, bytes {which})",
            (room, start, end, limit + 1),
        ).fetchone()[0]
        candidates: list[tuple[int, int]] = json.loads(sizes)
        fitting = _fitting([size for _, size in candidates[:limit]], most_bytes)
        more = len(candidates) > fitting
        if more and after is None:
            start = candidates[fitting - 1][0]
        elif more:
            end = candidates[fitting - 1][0]
        texts = execute(
            "SELECT json_group_array(json_array(offset, user, username, content, ts_ms, addressee)) "
            f"FROM (SELECT * {which})",
            (room, start, end, fitting),
        ).fetchone()[0]
        found = sorted(json.loads(texts))
        gaps = self._gaps_within(room, start, end)
        messages = [
            StoredMessage(name, epoch, offset, user, username, content, ts_ms, to)
            for offset, user, username, content, ts_ms, to in found
        ]
        return Page(messages, gaps, more, missing)

    def _gaps_within(self, room: int, start: int, end: int) -> list[StoredGap]:
        # From the last gap that begins at or below the start: those before do not reach it.
        gaps = self._database.execute(
            "SELECT max(first, ?), min(last, ?), reason FROM gaps WHERE room = ? AND last >= ? AND first BETWEEN "
            "coalesce((SELECT max(first) FROM gaps WHERE room = ? AND first <= ?), ?) AND ? ORDER BY first",
            (start, end, room, start, room, start, start, end),
        )
        return [StoredGap(*gap) for gap in gaps]

    # -- what need not be kept ----------------------------------------------------------------------------------------

    def tidy(self, most: int) -> bool:
        """Remove some of what is too old, too much, or of an epoch that is over: each at most so many. True: go on."""
        with self._transaction():
            # Not at once: a clock that is wrong for a moment must not set anybody free.
            over = (self._now_ms() - SANCTIONS_KEPT_MS,)
            self._database.execute("DELETE FROM sanctions WHERE until_ms <= ?", over)
            more = [self._tidy_keys(most), self._tidy_epochs(most), self._tidy_old(most), self._tidy_overfull(most)]
            return any(more)

    def _tidy_keys(self, most: int) -> bool:
        removed = self._database.execute(
            "DELETE FROM keys WHERE (user, room, key) IN "
            "(SELECT user, room, key FROM keys WHERE ts_ms <= ? ORDER BY ts_ms LIMIT ?)",
            (self._now_ms() - self._keep.key_age_ms, most),
        )
        return removed.rowcount == most

    def _tidy_epochs(self, most: int) -> bool:
        execute = self._database.execute
        over = execute("SELECT id FROM rooms WHERE name IS NULL LIMIT 1").fetchone()
        if over is None:
            return False
        of_it = "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE room = ? LIMIT ?)"
        if execute(of_it, (*over, most)).rowcount < most:
            execute("DELETE FROM gaps WHERE room = ?", over)
            execute("DELETE FROM rooms WHERE id = ?", over)
        return True

    def _tidy_old(self, most: int) -> bool:
        # Within a room times never fall, so what is too old is its beginning.
        too_old: list[tuple[int, int, int]] = self._database.execute(
            "SELECT room, max(offset), count(*) FROM "
            "(SELECT room, offset FROM messages WHERE ts_ms < ? ORDER BY ts_ms, id LIMIT ?) GROUP BY room",
            (self._now_ms() - self._keep.age_ms, most),
        ).fetchall()
        for room, upto, _ in too_old:
            self._expire(room, upto)
        return sum(count for _, _, count in too_old) == most

    def _tidy_overfull(self, most: int) -> bool:
        for room in list(self._overfull):
            if most <= 0:
                return True
            row = self._database.execute("SELECT messages, bytes FROM rooms WHERE id = ?", (room,)).fetchone()
            messages, size = row or (0, 0)
            oldest = "SELECT offset, bytes FROM messages WHERE room = ? ORDER BY offset LIMIT ?"
            upto = removed = 0
            for offset, of_this in self._database.execute(oldest, (room, most)).fetchall():
                if messages - removed <= self._keep.messages and size <= self._keep.bytes:
                    break
                upto, removed, size = offset, removed + 1, size - of_this
            if removed:
                self._expire(room, upto)
            if removed < most:
                del self._overfull[room]
            most -= 1 + removed
        return bool(self._overfull)

    def _expire(self, room: int, upto: int) -> None:
        """Remove the beginning of a room's log, up to this offset."""
        which = "FROM messages WHERE room = ? AND offset <= ?"
        count, size = self._database.execute(f"SELECT count(*), total(bytes) {which}", (room, upto)).fetchone()
        self._database.execute(f"DELETE {which}", (room, upto))
        self._count_out(room, count, int(size))
        self._gap(room, 1, upto, "expired")

    # -- the database -------------------------------------------------------------------------------------------------

    def _number(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._commit()
        except BaseException:
            self._logs.clear()
            if self._database.in_transaction:  # some errors have rolled it back already
                self._database.execute("ROLLBACK")
            raise

    def _commit(self) -> None:
        self._database.execute("COMMIT")

    def _checkpoint(self) -> None:
        """Move everything out of the write-ahead log and empty it: it still has what was erased from the file."""
        if self._number("PRAGMA wal_checkpoint(TRUNCATE)"):
            raise sqlite3.OperationalError("the write-ahead log is in use")

    def _insert(self, before: str, rows: Sequence[tuple[object, ...]], behind: str = "") -> None:
        """``before``, then ``VALUES`` and the rows, then ``behind``: as few statements as can be.

        sqlite3 lets go of the GIL for each step of a statement, and beside a busy event loop it takes 5 ms to get it
        back. With ``executemany`` that is once a row.
        """
        for at in range(0, len(rows), ROWS_PER_STATEMENT):
            part = rows[at : at + ROWS_PER_STATEMENT]
            values = ", ".join(["(" + ", ".join("?" * len(part[0])) + ")"] * len(part))
            self._database.execute(f"{before} VALUES {values} {behind}", [*chain.from_iterable(part)])


def _fitting(sizes: Sequence[int], most_bytes: float) -> int:
    """How many of these go into so many bytes; the first does in any case."""
    for index, size in enumerate(sizes):
        most_bytes -= size
        if most_bytes < 0 and index:
            return index
    return len(sizes)
