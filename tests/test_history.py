"""A history that outlives its server: real processes, real sockets, a real file, and kill -9."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from roomhub import Limits, Runtime
from roomhub.core.commands import Publish
from roomhub.core.hub import Hub
from roomhub.core.storage import Snapshot, StoreError
from roomhub.stores.history_file import HistoryFile
from roomhub.stores.sqlite import SqliteHistory
from roomhub.transports.memory import MemoryClient, v1_lane
from roomhub.transports.memory import connect as connect_memory
from roomhub.transports.websocket import serve

PATIENCE_S = 20


@contextmanager
def serving(path: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """``roomhub serve --history``; ended with SIGTERM if the test did not end it."""
    command = [sys.executable, "-m", "roomhub", "serve", "--port", "0", "--history", str(path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


class Ledger:
    """What all clients together have seen: no offset may ever have two messages."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.said: dict[tuple[str, int], str] = {}
        self.acknowledged: dict[str, tuple[str, int]] = {}

    def see(self, message: dict[str, Any]) -> None:
        place = (message["epoch"], message["offset"])
        with self.lock:
            assert self.said.setdefault(place, message["content"]) == message["content"], place

    def acknowledge(self, reply: dict[str, Any], content: str) -> None:
        self.see({**reply, "content": content})
        with self.lock:
            assert self.acknowledged.setdefault(content, (reply["epoch"], reply["offset"])) is not None


class Talker:
    """A client that says one thing after another, each until it is acknowledged, over as many servers as it takes."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self.ledger = ledger
        self.number = 0
        self.position: dict[str, Any] = {"epoch": "", "offset": 0}
        self.failure: BaseException | None = None

    def run(self, url: str, enough: threading.Semaphore) -> None:
        try:
            with connect(f"{url}/ws?username={self.name}", subprotocols=["roomhub.v1.json"]) as wire:  # type: ignore[list-item]
                self._talk(wire, enough)
        except (ConnectionClosed, OSError):
            pass  # the server was killed
        except BaseException as error:
            self.failure = error

    def _talk(self, wire: ClientConnection, enough: threading.Semaphore) -> None:
        self._say(wire, type="hello", id="hello", resume={"session": "", "rooms": {"lobby": self.position}})
        welcome = self._next(wire)
        place = welcome["rooms"]["lobby"]
        if place["recovered"] == "none":
            assert self.position["epoch"] != place["epoch"], "the same epoch is resumed"
        else:
            # What follows is a contiguous run from here on.
            assert place["offset"] == self.position["offset"]
        self.position = {"epoch": place["epoch"], "offset": place["offset"]}
        while True:
            content = f"{self.name} {self.number}"
            self._say(wire, type="chat", id=content, room="lobby", content=content, key=content)
            while (reply := self._next(wire)).get("id") != content:
                pass
            assert reply["type"] == "ok", reply
            self.ledger.acknowledge(reply, content)
            self.number += 1
            enough.release()

    def _say(self, wire: ClientConnection, **fields: Any) -> None:
        wire.send(json.dumps(fields))

    def _next(self, wire: ClientConnection) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(wire.recv(PATIENCE_S))
        if message["type"] == "gap":
            assert message["from"] == self.position["offset"] + 1
            assert message["reason"] == "lost", message
            self.position["offset"] = message["to"]
        elif message["type"] == "chat":
            assert message["epoch"] == self.position["epoch"]
            assert message["offset"] == self.position["offset"] + 1, "no silent gap, nothing twice"
            self.position["offset"] = message["offset"]
            self.ledger.see(message)
        return message


def test_killed_five_times_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    """G1 to G4 over kill -9, with clients that resume and send again what was not acknowledged."""
    path = tmp_path / "history.db"
    ledger = Ledger()
    talkers = [Talker(name, ledger) for name in ("ann", "ben", "cy")]
    free = ("--set", "message_rate_per_s=inf", "--set", "connections_per_address=inf")
    for _ in range(5):
        with serving(path, *free) as (process, url):
            enough = threading.Semaphore(0)
            threads = [threading.Thread(target=talker.run, args=(url, enough)) for talker in talkers]
            for thread in threads:
                thread.start()
            for _ in range(120):
                assert enough.acquire(timeout=PATIENCE_S), [talker.failure for talker in talkers]
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(PATIENCE_S)
        for talker in talkers:
            if talker.failure is not None:
                raise talker.failure
    assert len(ledger.acknowledged) >= 600
    with serving(path) as (_, url), connect(f"{url}/ws?username=dot", subprotocols=["roomhub.v1.json"]) as wire:  # type: ignore[list-item]
        kept = dict(history(wire))
    for content, place in ledger.acknowledged.items():
        assert kept.get(place) == content
    assert len(set(kept.values())) == len(kept), "nothing was said twice"


def test_a_resume_gets_from_the_file_what_is_not_in_memory_any_more(tmp_path: Path) -> None:
    """G3: as long as it is kept, wherever it is."""
    path = tmp_path / "history.db"
    v1: Any = {"subprotocols": ["roomhub.v1.json"]}
    options = ("--set", "log_messages=10", "--set", "history_page=20", "--set", "message_burst=1000")
    with serving(path, *options) as (_, url), connect(f"{url}/ws/lobby?username=ann", **v1) as ann:
        ann.send('{"type":"hello","id":"h"}')
        for number in range(300):
            ann.send(json.dumps({"type": "chat", "id": number, "room": "lobby", "content": f"m{number}"}))
            while (reply := json.loads(ann.recv(PATIENCE_S))).get("id") != number:
                pass
        for epoch, first in ((reply["epoch"], 5), ("", 0)):
            with connect(f"{url}/ws?username=ben", **v1) as ben:
                rooms = {"lobby": {"epoch": epoch, "offset": first}}
                ben.send(json.dumps({"type": "hello", "id": "h", "resume": {"session": "", "rooms": rooms}}))
                assert json.loads(ben.recv(PATIENCE_S))["rooms"]["lobby"]["recovered"] == "full"
                heard: list[int] = []
                while not heard or heard[-1] != 300:
                    message = json.loads(ben.recv(PATIENCE_S))
                    assert message["type"] in ("chat", "user_joined"), message
                    heard += [message["offset"]] if message["type"] == "chat" else []
                assert heard == list(range(first + 1, 301))


def history(wire: ClientConnection) -> Iterator[tuple[tuple[str, int], str]]:
    """All that a room's history has, page by page."""

    def ask(**fields: Any) -> dict[str, Any]:
        wire.send(json.dumps(fields))
        while (reply := json.loads(wire.recv(PATIENCE_S))).get("id") != fields["id"]:
            pass
        assert reply["type"] in ("welcome", "ok"), reply
        return dict(reply)

    ask(type="hello", id=1)
    ask(type="join", id=2, room="lobby")
    since = {"epoch": "", "offset": 0}
    more = True
    while more:
        page = ask(type="history", id=3, room="lobby", since=since)
        for message in page["messages"]:
            yield (message["epoch"], message["offset"]), message["content"]
            since = {"epoch": message["epoch"], "offset": message["offset"]}
        more = page["more"]


class Client:
    """A v1 client in memory."""

    def __init__(self, runtime: Runtime, user: str) -> None:
        self.wire: MemoryClient = connect_memory(runtime, user, lane=v1_lane(runtime.limits))

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.wire.send(json.dumps({"type": kind, **fields}))
        with anyio.fail_after(PATIENCE_S):
            while (reply := json.loads(await self.wire.receive())).get("id") != fields["id"]:
                pass
        return dict(reply)


@pytest.mark.anyio
async def test_a_program_keeps_its_history_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with Runtime(history=SqliteHistory(path)) as runtime:
        ann = Client(runtime, "ann")
        await ann.ask("hello", id=1)
        await ann.ask("join", id=2, room="lobby")
        first = await ann.ask("chat", id=3, room="lobby", content="before", key="k")
        await ann.ask("dm", id=4, to="ben", content="psst")
    async with Runtime(history=SqliteHistory(path)) as runtime:
        ann, ben = Client(runtime, "ann"), Client(runtime, "ben")
        welcome = await ben.ask("hello", id=1, resume={"session": "", "rooms": {"@ben": {"epoch": "", "offset": 0}}})
        assert welcome["rooms"]["@ben"]["recovered"] == "full"
        assert json.loads(await ben.wire.receive())["content"] == "psst"
        await ann.ask("hello", id=1)
        joined = await ann.ask("join", id=2, room="lobby", history=5)
        assert [message["content"] for message in joined["messages"]] == ["before"]
        again = await ann.ask("chat", id=3, room="lobby", content="before", key="k")
        assert (again["epoch"], again["offset"], again["dup"]) == (first["epoch"], first["offset"], True)
        after = await ann.ask("chat", id=4, room="lobby", content="after")
        assert (after["epoch"], after["offset"]) == (first["epoch"], first["offset"] + 1)


@pytest.mark.anyio
async def test_a_store_that_takes_no_more_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteHistory(tmp_path / "history.db")
    async with Runtime(history=store) as runtime:
        ann = Client(runtime, "ann")
        await ann.ask("hello", id=1)
        await ann.ask("join", id=2, room="lobby")
        monkeypatch.setattr(store, "append", lambda messages, refs: 0)
        monkeypatch.setattr(store, "load", lambda *arguments, **named: False)
        reply = await ann.ask("chat", id=3, room="lobby", content="live")
        assert (reply["type"], reply["name"]) == ("error", "internal")
        ann.wire.send('{"type":"chat","room":"lobby","content":"unasked"}')
        await runtime.flushed()
        assert runtime.statistics().store_failures == 2
        assert [message.content for message in runtime.history("lobby")] == ["live", "unasked"]


def metrics(url: str) -> list[str]:
    address = f"http{url.removeprefix('ws')}/metrics"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode()).splitlines()


@pytest.mark.anyio
async def test_a_store_that_fails_shows_in_metrics_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(history=SqliteHistory(tmp_path / "history.db")) as runtime, serve(runtime, port=0) as server:
        ann = Client(runtime, "ann")
        await ann.ask("hello", id=1)
        await ann.ask("join", id=2, room="lobby")
        shown = await anyio.to_thread.run_sync(metrics, server.url)
        assert {"roomhub_store_queued 0", "roomhub_store_healthy 1", "roomhub_store_failures_total 0"} <= set(shown)

        def broken(*arguments: object) -> None:
            raise OSError("disk")

        with monkeypatch.context() as patch:
            patch.setattr(HistoryFile, "store", broken)
            assert (await ann.ask("chat", id=3, room="lobby", content="live"))["name"] == "internal"
        assert [message.content for message in runtime.history("lobby")] == ["live"]
        shown = await anyio.to_thread.run_sync(metrics, server.url)
        assert {"roomhub_store_healthy 0", "roomhub_store_failures_total 1"} <= set(shown)
        assert (await ann.ask("chat", id=4, room="lobby", content="and well again"))["type"] == "ok"
        assert runtime.statistics().store_is_healthy


@pytest.mark.anyio
async def test_a_file_that_cannot_be_a_history_is_told_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_text("not a database, but long enough to be told from an empty one" * 20)
    with pytest.raises(StoreError, match="not a history"):
        async with Runtime(history=SqliteHistory(path), limits=Limits()):
            pass


def test_the_command_line_names_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_text("not a database, but long enough to be told from an empty one" * 20)
    command = [sys.executable, "-m", "roomhub", "serve", "--port", "0"]
    for options, said in (
        (["--history", str(path)], "--history: cannot open"),
        (["--history", str(tmp_path / "x.db"), "--history-keep-messages", "0"], "must be a number of more than 0"),
        (["--history", str(tmp_path / "x.db"), "--history-keep-age-s", "x"], "must be a number of more than 0"),
    ):
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.anyio
async def test_what_is_erased_is_nowhere_any_more(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for store in (SqliteHistory(path), None):
        async with Runtime(history=store) as runtime:
            ann, ben = Client(runtime, "ann"), Client(runtime, "ben")
            for client in (ann, ben):
                await client.ask("hello", id=1)
                await client.ask("join", id=2, room="lobby")
            for content in ("one", "my address is", "three"):
                place = await ann.ask("chat", id=content, room="lobby", content=content)
            await ben.ask("chat", id=3, room="lobby", content="four")
            await runtime.erase_message("lobby", 2)
            await runtime.erase_message("nowhere", 2)
            page = await ben.ask("history", id=4, room="lobby", before=9)
            assert [message["content"] for message in page["messages"]] == ["four", "three", "one"]
            cy = Client(runtime, "cy")
            await cy.ask("hello", id=1)
            reply = await cy.ask("join", id=2, room="lobby", since={"epoch": place["epoch"], "offset": 0})
            assert reply["recovered"] == "partial"
            heard = [json.loads(await cy.wire.receive()) for _ in range(4)]
            assert [(each["type"], each.get("reason")) for each in heard[:2]] == [("chat", None), ("gap", "expired")]
            await ann.ask("dm", id=5, to="ben", content="psst")
            await runtime.erase_user("ann")
            page = await ben.ask("history", id=6, room="lobby", before=9)
            assert [message["content"] for message in page["messages"]] == ["four"]
            assert (await ben.ask("history", id=7, room="@ben", before=9))["messages"] == []
            with pytest.raises(ValueError, match="user"):
                await runtime.erase_user("")
    async with Runtime(history=SqliteHistory(path)) as runtime:
        dot = Client(runtime, "dot")
        await dot.ask("hello", id=1)
        joined = await dot.ask("join", id=2, room="lobby", history=9)
        assert [message["content"] for message in joined["messages"]] == ["four"]


@pytest.mark.anyio
async def test_an_erasure_that_is_not_done_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteHistory(tmp_path / "history.db")
    async with Runtime(history=store) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(store, "erase_message", lambda *arguments, **named: False)
            with pytest.raises(StoreError, match="try again"):
                await runtime.erase_message("lobby", 1)

        def broken(file: HistoryFile, user: str) -> None:
            raise OSError("disk")

        with monkeypatch.context() as patch:
            patch.setattr(HistoryFile, "erase_user", broken)
            with pytest.raises(StoreError, match="disk"):
                await runtime.erase_user("ann")
        monkeypatch.setattr(store, "erase_user", lambda *arguments, **named: True)  # it never answers
        async with anyio.create_task_group() as tasks:

            async def erase() -> None:
                with pytest.raises(RuntimeError, match="stopped"):
                    await runtime.erase_user("ann")

            tasks.start_soon(erase)
            await anyio.wait_all_tasks_blocked()
            runtime._abandon()


def test_a_start_that_is_cancelled_leaves_the_file_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 65, by asyncio's own cancellation too, which passes by a thread that is waited for."""
    path = tmp_path / "history.db"
    began, may_go_on = threading.Event(), threading.Event()
    open_ = SqliteHistory.open

    def slow(store: SqliteHistory, report: Callable[[Any], None]) -> Any:
        began.set()
        assert may_go_on.wait(PATIENCE_S)
        return open_(store, report)

    monkeypatch.setattr(SqliteHistory, "open", slow)

    async def start() -> None:
        async with Runtime(history=SqliteHistory(path)):
            raise AssertionError("it was cancelled")

    async def main() -> None:
        task = asyncio.create_task(start())
        while not began.is_set():  # noqa: ASYNC110  # set by a thread
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)  # so that the cancellation arrives
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("roomhub history")]
    monkeypatch.undo()
    store = SqliteHistory(path)
    store.open(lambda report: None)
    store.close()


@pytest.mark.anyio
async def test_a_hub_that_cannot_take_a_history_leaves_the_file_free(tmp_path: Path) -> None:
    hub: Any = Hub(epoch="e")
    hub.handle(Publish("lobby", "x"), 0)
    hub.restore(Snapshot((), ()), reserve=1, now=0)
    with pytest.raises(RuntimeError, match="before anything else"):
        async with Runtime(hub, history=SqliteHistory(tmp_path / "history.db")):
            pass
    store = SqliteHistory(tmp_path / "history.db")
    store.open(lambda report: None)
    store.close()
