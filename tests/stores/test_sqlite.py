"""The history on SQLite: what is stored stays, offsets are given once, and nobody waits for the disk."""

import os
import queue
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roomhub.core.sanctions import Sanction
from roomhub.core.storage import (
    Loaded,
    Page,
    Report,
    Snapshot,
    Stored,
    StoredGap,
    StoredKey,
    StoredMessage,
    StoredRoom,
    StoreError,
    StoreFailed,
)
from roomhub.stores import history_file, sqlite
from roomhub.stores.history_file import APPLICATION_ID, MIGRATIONS, HistoryFile
from roomhub.stores.sqlite import SqliteHistory

WRITER = Path(__file__).with_name("writer.py")
TIMEOUT_S = 30
NEVER_S = 3_600
NOW_MS = 1_000_000


class Book:
    """A history with what it reports."""

    def __init__(self, path: Path, **options: Any) -> None:
        options.setdefault("reserve", 1_000)
        self.now_ms = NOW_MS
        self.reports: queue.Queue[Report] = queue.Queue()
        settings: dict[str, Any] = {"now_ms": lambda: self.now_ms, "commit_interval_s": 0}
        self.history = SqliteHistory(path, **(settings | options))
        self.snapshot: Snapshot = self.history.open(self.reports.put)

    def append(self, *offsets: int, room: str = "r", epoch: str = "e", **fields: Any) -> None:
        for offset in offsets:
            assert self.offer(message(offset, room, epoch, **fields), offset)

    def offer(self, message: StoredMessage, ref: object = None) -> bool:
        return self.history.append([message], [ref]) == 1

    def next(self) -> Report:
        return self.reports.get(timeout=TIMEOUT_S)

    def page(self, room: str = "r", **wanted: Any) -> Page:
        """What the room has, once all that was asked for before is done; reports of that are passed over."""
        assert self.history.load(room, "page", **{"limit": 10_000} | wanted)
        while True:
            report = self.next()
            if isinstance(report, Loaded):
                assert report.page is not None, report.error
                return report.page

    def offsets(self, room: str = "r") -> list[int]:
        return [message.offset for message in self.page(room).messages]

    def gaps(self, room: str = "r") -> list[tuple[int, int, str]]:
        return [(gap.first, gap.last, gap.reason) for gap in self.page(room).gaps]

    def close(self) -> list[Report]:
        self.history.close()
        return list(self.reports.queue)


def message(offset: int, room: str = "r", epoch: str = "e", **fields: Any) -> StoredMessage:
    given: dict[str, Any] = {"user": "ann", "username": "Ann", "content": f"message {offset}", "ts_ms": NOW_MS} | fields
    return StoredMessage(room, epoch, offset, **given)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def book(path: Path) -> Iterator[Callable[..., Book]]:
    books: list[Book] = []

    def make(path: Path = path, **options: Any) -> Book:
        books.append(Book(path, **options))
        return books[-1]

    yield make
    for each in books:
        each.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What need not be kept goes right after a batch, before any load that is asked for later."""
    monkeypatch.setattr(sqlite, "TIDY_INTERVAL_S", 0)


def crashed(path: Path, name: str = "crashed") -> Path:
    """A copy of an open file, which is what a kill would leave of it."""
    copy = path.with_name(f"{name}.db")
    shutil.copy(path, copy)
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy


def in_files(path: Path, text: str) -> bool:
    return any(text.encode() in file.read_bytes() for file in path.parent.iterdir())


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(statement).fetchall()
    finally:
        database.close()


class Gate:
    """Holds every commit until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        commit = HistoryFile._commit

        def slow(file: HistoryFile) -> None:
            self.reached.set()
            assert self.open.wait(TIMEOUT_S)
            commit(file)

        monkeypatch.setattr(HistoryFile, "_commit", slow)


# -- storing and loading ----------------------------------------------------------------------------------------------


def test_what_was_stored_is_there_after_another_start(book: Callable[..., Book]) -> None:
    odd = [
        StoredMessage("r", "e", 1, "ann", "Ann", 'nul \0, "quotes", \\, \x7f\x1b', 5),
        StoredMessage("r", "e", 2, "", "", "", 6),
        StoredMessage("r", "e", 3, "ünal", "Ünal 🦆", "🦆" * 1_000, 2**53, "ben"),
    ]
    first = book()
    assert first.snapshot == Snapshot([], [], [])
    for each in odd:
        assert first.offer(each)
    assert first.page().messages == odd
    first.close()
    second = book()
    assert second.page() == Page(odd, [], False)
    assert second.snapshot.rooms == [StoredRoom("r", "e", 3, 1_003, 2**53)]


def test_pages_ascend_whichever_way_they_are_asked_for(book: Callable[..., Book]) -> None:
    it = book()
    it.append(*range(1, 11))

    def shown(**wanted: Any) -> tuple[list[int], bool]:
        page = it.page(**wanted)
        assert page.gaps == []
        return [message.offset for message in page.messages], page.more

    assert shown(after=0, limit=3) == ([1, 2, 3], True)
    assert shown(after=7, limit=3) == ([8, 9, 10], False)
    assert shown(after=10, limit=3) == ([], False)
    assert shown(before=4, limit=3) == ([1, 2, 3], False)
    assert shown(before=5, limit=3) == ([2, 3, 4], True)
    assert shown(before=1, limit=3) == ([], False)
    assert shown(before=99, limit=2) == ([9, 10], True)
    assert shown(limit=2) == ([9, 10], True)
    assert it.page("elsewhere") == Page((), (), False)


def test_offsets_that_never_came_are_lost(book: Callable[..., Book]) -> None:
    it = book()
    it.append(3, 4, 7, 8)
    it.append(1, room="other")
    assert it.gaps() == [(1, 2, "lost"), (5, 6, "lost")]
    assert it.gaps("other") == []


def test_gaps_are_cut_to_the_page(book: Callable[..., Book]) -> None:
    it = book()
    it.append(1, 2, 11, 12, 21, 22)
    assert it.page(after=1, limit=1).gaps == []
    assert it.page(after=2, limit=1).gaps == [StoredGap(3, 10, "lost")]
    assert it.page(after=5, limit=2).gaps == [StoredGap(6, 10, "lost")]
    assert it.page(after=5, limit=3).gaps == [StoredGap(6, 10, "lost"), StoredGap(13, 20, "lost")]
    assert it.page(before=16, limit=2).gaps == [StoredGap(13, 15, "lost")]
    assert it.page(before=8, limit=2).gaps == [StoredGap(3, 7, "lost")]


def test_an_offset_that_is_not_above_the_last_is_refused_alone(book: Callable[..., Book]) -> None:
    it = book(commit_interval_s=NEVER_S)
    it.append(1, 2, 2, 1, 3)
    assert it.offsets() == [1, 2, 3]
    it.append(3, 4)
    stored, failed, *_ = it.close()
    assert stored == Stored([4], {})
    assert isinstance(failed, StoreFailed)
    assert failed.refs == [3]
    assert "offset 3 of room 'r'" in failed.error


def test_a_new_epoch_replaces_the_old(book: Callable[..., Book], path: Path, at_once: None) -> None:
    it = book(commit_messages=2)
    it.append(*range(1, 8), content="former")
    it.append(1, 2, epoch="f", content="latter", key="k")
    assert [(message.epoch, message.offset) for message in it.page().messages] == [("f", 1), ("f", 2)]
    it.append(3, epoch="f")
    it.append(1, epoch="g")
    it.append(2, epoch="g")
    it.close()
    again = book()
    assert again.snapshot.rooms == [StoredRoom("r", "g", 2, 1_002, NOW_MS)]
    assert again.snapshot.keys == [StoredKey("r", "ann", "k", "f", 2, NOW_MS)]  # it was said, in whichever epoch
    again.append(3, epoch="g")
    assert again.offsets() == [1, 2, 3]
    again.close()
    assert query(path, "SELECT count(*) FROM rooms") == [(1,)]
    assert query(path, "SELECT count(*) FROM messages") == [(3,)]


def test_two_epochs_in_one_batch(book: Callable[..., Book]) -> None:
    it = book(commit_interval_s=NEVER_S)
    it.append(1, 2)
    it.append(1, epoch="f")
    assert [(message.epoch, message.offset) for message in it.page().messages] == [("f", 1)]


def test_keys_are_known_as_long_as_they_are_young(book: Callable[..., Book], at_once: None, path: Path) -> None:
    it = book(key_ttl_s=10)
    it.append(1, key="one")
    it.append(2, key="two", ts_ms=NOW_MS + 5_000)
    it.append(3, key="one", user="ben", ts_ms=NOW_MS + 5_000)
    it.append(4, ts_ms=NOW_MS + 5_000)
    assert all(message.key is None for message in it.page().messages)
    it.now_ms += 10_000
    it.append(5, ts_ms=NOW_MS + 5_000)
    it.close()
    assert query(path, "SELECT count(*) FROM keys") == [(2,)]
    it = book(key_ttl_s=20)
    assert sorted(it.snapshot.keys) == [
        StoredKey("r", "ann", "two", "e", 2, NOW_MS + 5_000),
        StoredKey("r", "ben", "one", "e", 3, NOW_MS + 5_000),
    ]
    it.close()
    assert book(key_ttl_s=2, now_ms=lambda: NOW_MS + 9_000).snapshot.keys == []


def test_text_that_no_database_takes_is_not_taken(book: Callable[..., Book]) -> None:
    it = book()
    it.append(1)
    assert not it.offer(message(2, content="\ud800"))
    it.append(3)
    assert it.offsets() == [1, 3]
    assert it.gaps() == [(2, 2, "lost")]


def test_threads_may_append_at_once(book: Callable[..., Book]) -> None:
    it = book(commit_messages=7)

    def say(room: str) -> None:
        it.append(*range(1, 201), room=room)

    threads = [threading.Thread(target=say, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [it.offsets(room) for room in "abcd"] == [[*range(1, 201)]] * 4


@pytest.mark.parametrize("seed", range(5))
def test_every_offset_is_that_of_a_message_or_in_a_gap(book: Callable[..., Book], at_once: None, seed: int) -> None:
    chance = random.Random(seed)
    it = book(commit_messages=chance.choice([1, 3, 50]), keep_messages=40, reserve=10)
    model: dict[int, tuple[str, str]] = {}  # offset: user and content
    erased: set[int] = set()
    last = 0
    for _ in range(300):
        match chance.choice(["say"] * 6 + ["skip", "erase", "erase", "user"]):
            case "say":
                last += 1
                model[last] = (chance.choice("abcdefgh"), f"text {last}")
                it.append(last, user=model[last][0], content=model[last][1])
            case "skip":
                last += chance.randint(1, 3)
            case "erase" if last:
                offset = chance.randint(1, last)
                erased |= {offset} & model.keys()
                it.history.erase_message("r", offset)
            case "user":
                user = chance.choice("abcdefgh")
                erased |= {offset for offset, (name, _) in model.items() if name == user}
                it.history.erase_user(user)
        if chance.random() < 0.05:
            page = it.page()
            offsets = {message.offset for message in page.messages}
            expired = {n for gap in page.gaps if gap.reason == "expired" for n in range(gap.first, gap.last + 1)}
            lost = {n for gap in page.gaps if gap.reason == "lost" for n in range(gap.first, gap.last + 1)}
            end = max(model, default=0)
            assert sorted([*offsets, *expired, *lost]) == [*range(1, end + 1)]  # each once
            assert erased <= expired
            assert not lost & model.keys()
            assert {m.offset: (m.user, m.content) for m in page.messages} == {n: model[n] for n in offsets}
            assert model.keys() - erased - offsets <= {*range(1, min(offsets, default=end + 1))}
            walked: list[StoredMessage] = []
            while (part := it.page(after=walked[-1].offset if walked else 0, limit=7)).messages:
                walked += part.messages
            assert walked == page.messages
    it.page()
    assert len(it.offsets()) <= 40


# -- batches and reservations -----------------------------------------------------------------------------------------


def test_messages_are_committed_in_batches(book: Callable[..., Book]) -> None:
    it = book(commit_interval_s=NEVER_S, commit_messages=5)
    it.append(*range(1, 6))
    assert it.next() == Stored([1, 2, 3, 4, 5], {("r", "e"): 1_005})
    it.append(*range(6, 13))
    assert it.next() == Stored([6, 7, 8, 9, 10], {})
    assert (it.history.commits, it.history.queued) == (2, 2)
    assert it.history.queued_bytes == 2 * (64 + len("message 12"))
    assert it.offer(message(13))
    assert it.close() == [Stored([11, 12], {})]
    assert (it.history.commits, it.history.queued, it.history.queued_bytes) == (3, 0, 0)


def test_a_message_does_not_wait_for_a_full_batch(book: Callable[..., Book]) -> None:
    it = book(commit_interval_s=0.001)
    it.append(1)
    assert it.next() == Stored([1], {("r", "e"): 1_001})


def test_a_load_sees_what_was_appended_before_and_waits_for_no_batch(book: Callable[..., Book]) -> None:
    it = book(commit_interval_s=NEVER_S, commit_messages=4)
    it.append(*range(1, 11))
    assert it.offsets() == [*range(1, 11)]


def test_a_room_reserves_more_when_half_is_used(book: Callable[..., Book]) -> None:
    it = book(commit_messages=1, reserve=10)
    raised = {}
    for offset in range(1, 15):
        it.append(offset)
        report = it.next()
        assert isinstance(report, Stored)
        if report.reserved:
            raised[offset] = report.reserved["r", "e"]
    assert raised == {1: 11, 7: 17, 13: 23}


def test_after_a_close_the_next_offset_follows(book: Callable[..., Book]) -> None:
    for first in (1, 4):
        it = book(reserve=10)
        it.append(*range(first, first + 3))
        it.close()
    it = book(reserve=10)
    assert it.snapshot.rooms == [StoredRoom("r", "e", 6, 16, NOW_MS)]
    assert it.gaps() == []


def test_after_a_kill_what_was_reserved_is_lost(book: Callable[..., Book], path: Path) -> None:
    it = book(reserve=10, commit_messages=1)
    for offset in (1, 2, 3):
        it.append(offset)
        it.next()
    it.append(1, room="idle")
    it.page()
    it = book(crashed(path), reserve=10)
    assert [tuple(room)[:4] for room in it.snapshot.rooms] == [("r", "e", 11, 21), ("idle", "e", 11, 21)]
    it.append(12)
    assert it.offsets() == [1, 2, 3, 12]
    assert it.gaps() == [(4, 11, "lost")]
    # Killed again, with nothing said in one of the rooms.
    it = book(crashed(path.with_name("crashed.db"), "twice"), reserve=10)
    assert [tuple(room)[:4] for room in it.snapshot.rooms] == [("r", "e", 21, 31), ("idle", "e", 21, 31)]
    assert it.gaps() == [(4, 11, "lost"), (13, 21, "lost")]
    assert it.gaps("idle") == [(2, 21, "lost")]


def test_killed_right_after_the_start(book: Callable[..., Book], path: Path) -> None:
    """Offsets given before the first commit of a run are not given again."""
    it = book(reserve=10)
    it.append(1)
    it.close()
    it = book(reserve=10)
    given = it.snapshot.rooms[0].reserved
    it = book(crashed(path), reserve=10)
    assert it.snapshot.rooms[0].offset >= given


def test_what_was_not_taken_had_an_offset_too(book: Callable[..., Book]) -> None:
    it = book(queue_messages=2, commit_interval_s=NEVER_S)
    it.append(1, 2)
    assert not it.offer(message(3))
    assert not it.offer(message(1, room="new"))
    it.close()
    it = book()
    assert [tuple(room)[:3] for room in it.snapshot.rooms] == [("r", "e", 3)]
    assert it.gaps() == [(3, 3, "lost")]


def test_five_kills(book: Callable[..., Book], path: Path) -> None:
    given: set[tuple[str, int]] = set()
    stored: set[tuple[str, int]] = set()
    for run in range(5):
        process = subprocess.Popen([sys.executable, str(WRITER), str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        highest = dict.fromkeys("abc", 0)
        for room, offset in given:
            highest[room] = max(highest[room], offset)
        seen = 0
        for line in process.stdout:
            if not line.endswith("\n"):
                break
            what, room, number = line.split()
            if what == "opened":
                assert int(number) >= highest[room]
            elif what == "gave":
                assert (room, int(number)) not in given
                given.add((room, int(number)))
            else:
                stored.add((room, int(number)))
                seen += 1
                if seen == 100 + 37 * run:
                    process.send_signal(signal.SIGKILL)  # what it has said until then is still read
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    it = book()
    assert len(stored) >= 5 * 100
    for kept in it.snapshot.rooms:
        assert kept.offset >= max(offset for name, offset in given if name == kept.name)
        page = it.page(kept.name)
        offsets = {message.offset for message in page.messages}
        assert len(offsets) == len(page.messages)
        assert {offset for name, offset in stored if name == kept.name} <= offsets
        assert {(kept.name, offset) for offset in offsets} <= given
        missing = {n for gap in page.gaps for n in range(gap.first, gap.last + 1)}
        assert offsets | missing == {*range(1, kept.offset + 1)}
        assert not offsets & missing


# -- opening ----------------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        SqliteHistory(path).open(print)
    assert repr(str(path)) in str(caught.value)
    return str(caught.value)


def test_a_file_has_one_history(book: Callable[..., Book], path: Path) -> None:
    it = book()
    assert "another process has it open" in refusal(path)
    program = f"from roomhub.stores.sqlite import SqliteHistory; SqliteHistory({str(path)!r}).open(print)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert "StoreError" in done.stderr
    assert "another process has it open" in done.stderr
    it.append(1)
    assert it.offsets() == [1]
    it.close()
    assert book().offsets() == [1]


@pytest.mark.parametrize("pragma", ["application_id = 7", "user_version = 7", "user_version = 0"])
def test_the_database_of_another_program_is_left_alone(path: Path, pragma: str) -> None:
    query(path, f"PRAGMA {pragma}")
    if "= 0" in pragma:
        query(path, "CREATE TABLE things (id)")
    before = path.read_bytes()
    assert "another program's database" in refusal(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("Dear diary, " * 100)
    assert "it is not a history" in refusal(path)
    assert path.read_text() == "Dear diary, " * 100


def test_a_damaged_file(book: Callable[..., Book], path: Path) -> None:
    it = book()
    it.append(*range(1, 101))
    it.close()
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    assert "it is damaged" in refusal(path)


def test_an_empty_file_will_do(book: Callable[..., Book], path: Path) -> None:
    path.touch()
    assert book().snapshot == Snapshot([], [], [])


def test_where_nothing_can_be_written(path: Path) -> None:
    assert "must be there and writable" in refusal(path / "no" / "such" / "directory")
    assert "must be there and writable" in refusal(path.parent)
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions")
def test_a_directory_that_cannot_be_written(book: Callable[..., Book], path: Path) -> None:
    if os.geteuid() == 0:
        if not Path("/proc/self").exists():
            pytest.skip("root may write everywhere")
        path = Path("/proc/roomhub.db")  # not even root
    else:
        path.parent.chmod(0o555)
    assert "must be there and writable" in refusal(path)
    if os.geteuid() != 0:
        path.parent.chmod(0o755)


def test_a_file_without_a_write_ahead_log() -> None:
    with pytest.raises(StoreError, match="use a file on a local disk"):
        SqliteHistory(":memory:").open(print)


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
def test_what_a_commit_waits_for(book: Callable[..., Book], durability: str, synchronous: int) -> None:
    file = book(durability=durability).history._file
    assert file._number("PRAGMA synchronous") == synchronous
    assert file._number("PRAGMA secure_delete") == 1


def test_older_schemas_are_brought_up(book: Callable[..., Book], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = book()
    it.append(1, content="old")
    it.close()
    more = ("ALTER TABLE messages ADD COLUMN edited_ms INTEGER NOT NULL DEFAULT 0", "UPDATE messages SET edited_ms = 5")
    monkeypatch.setattr(history_file, "MIGRATIONS", (*MIGRATIONS, more))
    it = book()
    it.append(2)
    assert it.offsets() == [1, 2]
    it.close()
    assert query(path, "SELECT edited_ms FROM messages ORDER BY id") == [(5,), (0,)]
    newest = len(MIGRATIONS) + 1
    assert query(path, "PRAGMA user_version") == [(newest,)]
    book(path.with_name("new.db")).close()
    assert query(path.with_name("new.db"), "PRAGMA user_version") == [(newest,)]
    monkeypatch.undo()
    assert f"has schema {newest}, and this roomhub knows {newest - 1}: install the newer roomhub" in refusal(path)


def test_a_file_of_before_there_were_bans(
    book: Callable[..., Book], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_file, "MIGRATIONS", MIGRATIONS[:1])
    database = sqlite3.connect(path)
    for statement in (*MIGRATIONS[0], "PRAGMA user_version = 1", f"PRAGMA application_id = {APPLICATION_ID}"):
        database.execute(statement)
    database.execute("INSERT INTO rooms (name, epoch, last, reserved) VALUES ('r', 'e', 3, 3)")
    database.commit()
    database.close()
    monkeypatch.undo()
    it = book()
    assert [room.name for room in it.snapshot.rooms] == ["r"]
    assert it.history.impose(Sanction("ban", "ann"))
    it.close()
    assert book().snapshot.sanctions == [Sanction("ban", "ann")]


def test_a_schema_changes_wholly_or_not(book: Callable[..., Book], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = book()
    it.append(1)
    it.close()
    before = query(path, "SELECT * FROM sqlite_master")
    with monkeypatch.context() as patch:
        patch.setattr(history_file, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE edits (id)", "no SQL")))
        refusal(path)
    assert query(path, "SELECT * FROM sqlite_master") == before
    assert query(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert book().offsets() == [1]


@pytest.mark.parametrize("options", [{"reserve": 0}, {"keep_age_s": -1}, {"queue_bytes": float("nan")}])
def test_bounds_are_checked(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be more than 0"):
        SqliteHistory(path, **options)


# -- nobody waits -----------------------------------------------------------------------------------------------------


def test_a_slow_disk_holds_up_nobody(book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch) -> None:
    it = book(queue_messages=100, commit_messages=10)
    gate = Gate(monkeypatch)
    it.append(1)
    assert gate.reached.wait(TIMEOUT_S)  # from here on the writer is stuck
    it.append(*range(2, 101))
    assert not it.offer(message(101), 101)
    assert not it.history.erase_message("r", 1)
    assert it.history.queued == 100
    for ref in range(sqlite.LOADS):
        assert it.history.load("r", ref, limit=1)
    assert not it.history.load("r", "one more", limit=1)
    gate.open.set()
    reports = it.close()
    stored = [ref for report in reports if isinstance(report, Stored) for ref in report.refs]
    assert stored == [*range(1, 101)]
    loaded = [report for report in reports if isinstance(report, Loaded)]
    assert [report.ref for report in loaded] == [*range(sqlite.LOADS)]
    assert {report.page and report.page.messages[0].offset for report in loaded} == {100}


def test_the_queue_is_bounded_in_bytes(book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch) -> None:
    it = book(queue_bytes=10_000)
    gate = Gate(monkeypatch)
    assert not it.offer(message(1, content="x" * 10_000))
    it.append(2, content="x" * 4_000)
    it.append(3, content="ü" * 2_000)
    assert not it.offer(message(4, content="x" * 4_000))
    assert 8_000 < it.history.queued_bytes < 8_300
    gate.open.set()
    assert it.offsets() == [2, 3]
    assert it.history.queued_bytes == 0


def test_a_close_writes_what_is_queued(book: Callable[..., Book], path: Path) -> None:
    it = book(queue_messages=1_000, commit_messages=2_000, commit_interval_s=NEVER_S)
    it.append(*range(1, 1_001))
    assert not it.offer(message(1_001))
    thread = it.history._thread
    assert thread is not None
    assert not thread.daemon
    assert it.close() == [Stored([*range(1, 1_001)], {("r", "e"): 2_001})]
    assert not thread.is_alive()
    assert os.listdir(path.parent) == [path.name]  # no write-ahead log left
    it.history.close()
    assert not it.offer(message(1_002))
    assert not it.history.load("r", 1, limit=1)
    assert not it.history.erase_user("ann")
    assert len(book().offsets()) == 1_000


def test_a_history_is_opened_once(book: Callable[..., Book], path: Path) -> None:
    never = SqliteHistory(path)
    assert not never.append([message(1)], [None])
    never.close()
    it = book()
    with pytest.raises(RuntimeError, match="make another"):
        it.history.open(print)


def test_what_asks_for_nonsense(book: Callable[..., Book]) -> None:
    it = book()
    with pytest.raises(ValueError, match="limit must be at least 1"):
        it.history.load("r", 1, limit=0)
    with pytest.raises(ValueError, match="nobody"):
        it.history.erase_user("")


# -- what fails -------------------------------------------------------------------------------------------------------


def test_a_full_disk(book: Callable[..., Book], path: Path) -> None:
    it = book()
    it.append(1)
    assert it.next() == Stored([1], {("r", "e"): 1_001})
    database = it.history._file._database
    database.execute("PRAGMA max_page_count = 1")  # as many as there are
    for offset in (2, 3):
        it.append(offset, content="x" * 50_000)
        failed = it.next()
        assert isinstance(failed, StoreFailed)
        assert failed.refs == [offset]
        assert "full" in failed.error
    assert not it.history.is_healthy
    assert (it.history.failures, it.history.queued, it.history.queued_bytes) == (2, 0, 0)
    assert it.offsets() == [1]  # what there is can be read
    database.execute("PRAGMA max_page_count = 1000000")
    it.append(4)
    assert it.next() == Stored([4], {})
    assert it.history.is_healthy
    assert it.offsets() == [1, 4]
    assert it.gaps() == [(2, 3, "lost")]


def test_what_was_refused_and_what_failed_had_offsets_too(
    book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = book(queue_messages=3, commit_messages=3)
    it.append(1)
    it.page()
    gate = Gate(monkeypatch)
    it.append(2)
    assert gate.reached.wait(TIMEOUT_S)
    it.append(3, 4)
    for offset in (5, 6, 7):
        assert not it.offer(message(offset))

    def broken(file: HistoryFile) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(HistoryFile, "_commit", broken)
    gate.open.set()
    while it.history.queued:
        it.next()
    monkeypatch.undo()
    it.close()
    assert book().snapshot.rooms[0].offset == 7


def test_a_store_that_was_behind_reserves_of_its_own_accord(
    book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms that ran out of offsets wait for it, and give it nothing to store meanwhile."""
    monkeypatch.setattr(sqlite, "TIDY_INTERVAL_S", 0.01)
    it = book(queue_messages=3, reserve=10)
    gate = Gate(monkeypatch)
    it.append(1)
    assert gate.reached.wait(TIMEOUT_S)
    it.append(2, 3)
    assert not it.offer(message(11))
    assert not it.offer(message(10, "new"))
    gate.open.set()
    reserved: dict[tuple[str, str], int] = {}
    while len(reserved) < 2 or reserved["r", "e"] < 21:
        report = it.next()
        assert isinstance(report, Stored)
        reserved |= report.reserved
    assert reserved == {("r", "e"): 21, ("new", "e"): 20}
    it.close()
    assert [room[:3] for room in book().snapshot.rooms] == [("r", "e", 11), ("new", "e", 10)]


def test_offsets_are_reserved_ahead_of_what_waits(book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch) -> None:
    it = book(commit_messages=2, reserve=10)
    gate = Gate(monkeypatch)
    it.append(1)
    assert gate.reached.wait(TIMEOUT_S)
    it.append(*range(2, 10))
    gate.open.set()
    raised = [report.reserved["r", "e"] for report in it.close() if isinstance(report, Stored) and report.reserved]
    assert raised[-1] == 19, "as if all were stored, at the first commit behind which others wait"


def test_what_failed_last_had_an_offset_too(book: Callable[..., Book]) -> None:
    it = book()
    it.append(1)
    it.page()
    it.history._file._database.execute("PRAGMA max_page_count = 1")
    it.append(2, 3, content="x" * 50_000)
    it.page()
    it.close()
    assert book().snapshot.rooms[0].offset == 3


def test_a_commit_that_fails(book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch) -> None:
    it = book()
    it.append(1)
    it.page()

    def broken(file: HistoryFile) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(HistoryFile, "_commit", broken)
        it.append(2)
        assert it.next() == StoreFailed([2], "OperationalError: disk I/O error")
        assert it.history.erase_message("r", 1, "erase")
        assert it.next() == StoreFailed(["erase"], "OperationalError: disk I/O error")
    it.append(3)
    assert it.offsets() == [1, 3]


def test_the_unexpected_is_reported_too(book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch) -> None:
    it = book()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("surprise")

    with monkeypatch.context() as patch:
        for name in ("store", "page", "tidy"):
            patch.setattr(HistoryFile, name, broken)
        it.append(1)
        assert it.next() == StoreFailed([1], "ZeroDivisionError: surprise")
        assert it.history.load("r", "page", limit=1)
        assert it.next() == Loaded("page", None, "ZeroDivisionError: surprise")
    it.append(2)
    assert it.offsets() == [2]


def test_a_listener_that_raises_is_its_own_problem(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: queue.Queue[Report] = queue.Queue()

    def listen(report: Report) -> None:
        heard.put(report)
        raise ZeroDivisionError("surprise")

    history = SqliteHistory(path, commit_interval_s=0)
    history.open(listen)
    for offset in (1, 2):
        history.append([message(offset)], [offset])
        report = heard.get(timeout=TIMEOUT_S)
        assert isinstance(report, Stored)
        assert report.refs == [offset]
    history.close()
    assert "surprise" in caplog.text


def test_a_close_that_fails_is_as_a_kill(
    book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    it = book(reserve=10)
    it.append(1)
    it.page()

    def broken(file: HistoryFile) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(HistoryFile, "_commit", broken)
        it.close()
    assert "not closed in good order" in caplog.text
    assert book().snapshot.rooms[0].offset == 11


# -- erasing ----------------------------------------------------------------------------------------------------------


# -- bans and mutes ----------------------------------------------------------------------------------------------------


def test_bans_and_mutes_are_kept(book: Callable[..., Book]) -> None:
    it = book()
    first = Sanction("ban", "ann", "r", NOW_MS + 5, "why", "mod", NOW_MS - 1)
    kept = [Sanction("ban", "ann", reason="all", ts_ms=NOW_MS), Sanction("mute", "ann", "r", ts_ms=NOW_MS + 1)]
    for number, sanction in enumerate([first, *kept, Sanction("ban", "ben")]):
        assert it.history.impose(sanction, number)
    assert it.history.impose(first._replace(reason="anew"), "again")
    assert it.history.lift(Sanction("ban", "ben"), "lift")
    assert it.history.lift(Sanction("ban", "nobody", "r"), "none there")
    refs = [ref for report in it.close() if isinstance(report, Stored) for ref in report.refs]
    assert refs == [0, 1, 2, 3, "again", "lift", "none there"]
    assert not it.history.impose(first)
    it = book()
    assert it.snapshot.sanctions == [first._replace(reason="anew"), *kept]


def test_bans_survive_a_kill(book: Callable[..., Book], path: Path) -> None:
    it = book()
    assert it.history.impose(Sanction("ban", "ann"), "ref")
    assert it.next() == Stored(["ref"], {})
    assert book(crashed(path)).snapshot.sanctions == [Sanction("ban", "ann")]


def test_what_is_over_is_not_kept(book: Callable[..., Book], path: Path, at_once: None) -> None:
    it = book()
    for user, until_ms in (("ann", NOW_MS), ("ben", NOW_MS + 1)):
        assert it.history.impose(Sanction("mute", user, until_ms=until_ms))
    it.close()
    book(now_ms=lambda: NOW_MS + 10**9).close()  # a clock that is wrong for once sets nobody free
    it = book()
    assert [each.user for each in it.snapshot.sanctions] == ["ben"]
    it.now_ms += history_file.SANCTIONS_KEPT_MS
    it.append(1)
    it.page()  # behind the look for what need not be kept, which a write leads to
    it.page()
    it.close()
    assert query(path, "SELECT user FROM sanctions") == [("ben",)]
    it = book(now_ms=lambda: NOW_MS + history_file.SANCTIONS_KEPT_MS + 1)
    it.append(2)
    it.page()
    it.page()
    it.close()
    assert query(path, "SELECT user FROM sanctions") == []


def test_a_flood_does_not_keep_out_the_ban_of_who_floods(book: Callable[..., Book], path: Path) -> None:
    it = book(queue_messages=3, commit_interval_s=NEVER_S)
    it.append(1, 2, 3)
    assert not it.offer(message(4))
    assert not it.history.erase_message("r", 1)
    assert it.history.impose(Sanction("ban", "ann"))
    assert it.history.lift(Sanction("ban", "ben"))
    it.close()
    assert book().snapshot.sanctions == [Sanction("ban", "ann")]


def test_a_ban_that_is_not_stored_is_told_and_logged(
    book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(file: HistoryFile) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    it = book()
    with monkeypatch.context() as patch:
        patch.setattr(HistoryFile, "_commit", fail)
        assert it.history.impose(Sanction("ban", "ann"), "ref")
        report = it.next()
    assert isinstance(report, StoreFailed)
    assert report.refs == ["ref"]
    assert "was not done" in caplog.text
    it.close()
    assert book().snapshot.sanctions == []


# -- erasing -----------------------------------------------------------------------------------------------------------


def test_an_erased_message_is_nowhere(book: Callable[..., Book], path: Path) -> None:
    it = book(commit_interval_s=NEVER_S)
    it.append(1, 2, 3)
    it.append(4, content="confidential" * 1_000, key="k")  # long enough for pages of its own
    it.append(5, content="confidential")
    it.page()
    assert in_files(path, "confidential")
    for offset in (4, 5):
        assert it.history.erase_message("r", offset, f"erase {offset}")
    it.append(6, content="confidential")  # erased before it is written
    assert it.history.erase_message("r", 6, "erase 6")
    page = it.page()
    assert [message.offset for message in page.messages] == [1, 2, 3]
    assert page.gaps == [StoredGap(4, 6, "expired")]
    assert not in_files(path, "confidential")
    it.close()
    it = book()
    assert it.snapshot.rooms == [StoredRoom("r", "e", 6, 1_006, NOW_MS)]
    assert it.snapshot.keys == [StoredKey("r", "ann", "k", "e", 4, NOW_MS)]  # sent again, it must not come back


def test_erasures_are_reported(book: Callable[..., Book]) -> None:
    it = book()
    assert it.history.erase_message("nowhere", 1, "message")
    assert it.next() == Stored(["message"], {})
    assert it.history.erase_user("nobody", "user")
    assert it.next() == Stored(["user"], {})
    assert it.history.erase_user("nobody")
    assert it.next() == Stored([], {})


def test_gaps_of_a_kind_that_touch_are_one(book: Callable[..., Book]) -> None:
    it = book()
    it.append(*range(1, 6), 8, 9)
    for offset in (2, 4, 3, 8, 5):
        it.history.erase_message("r", offset)
    assert it.gaps() == [(2, 5, "expired"), (6, 7, "lost"), (8, 8, "expired")]


@pytest.mark.parametrize("seed", range(4))
def test_an_erased_user_is_nowhere(book: Callable[..., Book], path: Path, at_once: None, seed: int) -> None:
    chance = random.Random(seed)
    it = book(commit_messages=chance.choice([7, 100]), keep_messages=400)
    last = dict.fromkeys("abc", 0)
    # Messages of all sizes come and go, so that SQLite moves them from page to page.
    for number in range(1_500):
        room, user = chance.choice("abc"), chance.choice(["ann", "ben", "zoe"])
        last[room] += 1
        text = ("confidential " if user == "zoe" else "plain ") * chance.choice([1, 5, 60, 400])
        it.append(last[room], room=room, user=user, content=text, username=user.title(), key=f"{user}-key-{number}")
        if chance.random() < 0.1:
            it.history.erase_message(room, chance.randint(1, last[room]))
    before = {room: it.page(room).messages for room in last}
    assert all(in_files(path, text) for text in ("confidential", "zoe-key", "Zoe"))
    assert it.history.erase_user("zoe")
    for room, messages in before.items():
        assert it.page(room).messages == [message for message in messages if message.user != "zoe"]
    assert it.history.scrub("scrub")
    it.page()
    assert not any(in_files(path, text) for text in ("confidential", "zoe", "Zoe"))
    assert in_files(path, "ben-key")
    it.append(last["a"] + 1, room="a")
    assert it.offsets("a")[-1] == last["a"] + 1
    it.close()
    for room, messages, size in query(path, "SELECT id, messages, bytes FROM rooms"):
        counted = query(path, f"SELECT count(*), sum(bytes) FROM messages WHERE room = {room}")
        assert counted == [(messages, size)]
    assert book().offsets("a")[-1] == last["a"] + 1


def test_a_scrub_gives_space_back(book: Callable[..., Book], path: Path) -> None:
    it = book()
    it.append(1, content="x" * 1_000_000)
    it.history.erase_message("r", 1)
    it.page()
    assert path.stat().st_size > 1_000_000
    assert it.history.scrub("scrub")
    while it.next() != Stored(["scrub"], {}):
        pass
    assert path.stat().st_size < 100_000


# -- what need not be kept --------------------------------------------------------------------------------------------


def test_a_room_keeps_so_many_messages(book: Callable[..., Book], path: Path, at_once: None) -> None:
    it = book(keep_messages=10)
    it.append(*range(1, 26))
    it.append(*range(1, 4), room="small")
    it.page()
    page = it.page()
    assert [message.offset for message in page.messages] == [*range(16, 26)]
    assert page.gaps == [StoredGap(1, 15, "expired")]
    assert it.offsets("small") == [1, 2, 3]
    it.close()
    it = book(keep_messages=3)  # fewer from now on
    it.page()
    assert it.offsets() == [23, 24, 25]


def test_a_room_keeps_so_many_bytes(book: Callable[..., Book], at_once: None) -> None:
    it = book(keep_bytes=1_000)
    it.append(*range(1, 21), content="x" * 200)
    it.page()
    assert it.offsets() == [18, 19, 20]
    it.append(21, content="x" * 2_000)
    it.page()
    page = it.page()
    assert page == Page([], [StoredGap(1, 21, "expired")], False)


def test_messages_are_kept_so_long(book: Callable[..., Book], at_once: None) -> None:
    it = book(keep_age_s=60)
    it.append(1, 2, 5)
    it.append(1, room="old")
    it.append(6, ts_ms=NOW_MS + 30_000)
    it.page()
    it.now_ms += 60_001
    it.append(7, ts_ms=it.now_ms)
    it.page()
    assert it.offsets() == [6, 7]
    assert it.gaps() == [(1, 5, "expired")]
    assert it.offsets("old") == []
    now_ms = it.now_ms
    it.close()
    it = book(keep_age_s=60, now_ms=lambda: now_ms)
    assert [room.name for room in it.snapshot.rooms] == ["r"]  # nothing is left of the other


def test_an_idle_history_forgets_too(book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    monkeypatch.setattr(sqlite, "IDLE_TIDY_INTERVAL_S", 0.01)
    tidied: queue.Queue[int] = queue.Queue()
    tidy = HistoryFile.tidy

    def watched(file: HistoryFile, most: int) -> bool:
        more = tidy(file, most)
        tidied.put(file._now_ms())
        return more

    monkeypatch.setattr(HistoryFile, "tidy", watched)
    it = book(keep_age_s=60)
    it.append(1)
    assert it.offsets() == [1]
    it.now_ms += 60_001
    while tidied.get(timeout=TIMEOUT_S) != it.now_ms:
        pass
    assert it.offsets() == []


def test_much_goes_in_small_steps_between_batches(
    book: Callable[..., Book], path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    it = book()
    for room in "abc":
        it.append(*range(1, 101), room=room)
    it.close()
    removed: list[int] = []
    tidy = HistoryFile.tidy

    def watched(file: HistoryFile, most: int) -> bool:
        before = file._number("SELECT count(*) FROM messages")
        more = tidy(file, most)
        removed.append(before - file._number("SELECT count(*) FROM messages"))
        return more

    monkeypatch.setattr(HistoryFile, "tidy", watched)
    it = book(keep_messages=5, commit_messages=8)
    it.append(*range(101, 201), room="a")
    while len(it.offsets("a")) + len(it.offsets("b")) + len(it.offsets("c")) > 15:
        pass
    assert it.offsets("a") == [*range(196, 201)]
    assert it.offsets("c") == [*range(96, 101)]
    assert max(removed) <= 16
    it.close()
    assert sum(removed) == 385


def test_tidying_that_fails_harms_nothing_else(
    book: Callable[..., Book], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at_once: None
) -> None:
    def broken(file: HistoryFile, most: int) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(HistoryFile, "_tidy_keys", broken)
    it = book()
    it.append(1)
    assert it.offsets() == [1]
    assert "could not be tidied up" in caplog.text
    assert it.history.failures
    it.append(2)
    assert it.offsets() == [1, 2]
