"""Many clients under load while their server is killed again and again, on one history file.

    python -m tests.client.storm --clients 500 --kills 3

Each client speaks in its room all the time and notes what was acknowledged and what it heard. In the end the rooms'
histories are read from the server: every acknowledged message must stand there once, where its ``ok`` said; and what
each client heard must be its room's log, each message once, without a hole that nobody named.

A server tells a message to whoever is there before it is stored, and acknowledges it afterwards. So what was said just
before a kill may have been heard and not stored; its sender says it again, and it has another place then. Such ghosts
are counted. None of them was acknowledged.
"""

import argparse
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from roomhub.client import (
    Chat,
    Connected,
    Disconnected,
    Message,
    Missed,
    NotAnswered,
    Restarted,
    Room,
    Sent,
    connect,
)
from roomhub.core.message import Position

SERVING_S = 30.0
"""How long a server may take to listen, and a client to come back."""
SETTINGS = (
    "connections_per_address=inf",
    "log_messages=200000",
    "log_bytes=inf",
    "v1_lag_messages=200000",
    "lag_bytes=inf",
)


class Victim:
    """A ``roomhub serve`` on one port and one history file, in a process of its own."""

    def __init__(self, history: Path) -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        self._command = [sys.executable, "-m", "roomhub", "serve", "--port", str(self.port), "--history", str(history)]
        self._command += [*settings, "--log-level", "error"]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)  # noqa: ASYNC220  # it takes a moment
        assert self._process.stdout is not None
        with anyio.fail_after(SERVING_S):
            await anyio.to_thread.run_sync(self._process.stdout.readline)

    def kill(self) -> None:
        """As a machine that fails: no handler runs, nothing is written any more."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Record:
    """What one client saw."""

    room: str
    acknowledged: dict[str, Sent] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    heard: list[Message | Missed | Restarted] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    ghosts: set[str] = field(default_factory=set)


@dataclass
class Result:
    """What became of it all, and what was wrong."""

    records: list[Record]
    logs: dict[str, list[Message]]
    faults: list[str]

    @property
    def waited_s(self) -> list[float]:
        """How long clients waited before their tries, up to the one that succeeded, each time that they came back.

        As the jitter had it, and not as it was measured here: one process for all of them is late.
        """
        return sorted(seconds for record in self.records for seconds in record.waited_s)


async def _listen(chat: Chat, record: Record) -> None:
    waited_s = math.nan
    async for event in chat:
        if isinstance(event, Message | Missed | Restarted):
            record.heard.append(event)
        elif isinstance(event, Disconnected):
            waited_s = event.retry_in_s + (0.0 if math.isnan(waited_s) else waited_s)
        elif isinstance(event, Connected) and not math.isnan(waited_s):
            record.waited_s.append(waited_s)
            waited_s = math.nan


async def _speak(room: Room, name: str, record: Record, pause_s: float, enough: anyio.Event) -> None:
    number = 0
    while not enough.is_set():
        number += 1
        content = f"{name} {number}"
        try:
            record.acknowledged[content] = await room.send(content, timeout_s=SERVING_S)
        except NotAnswered:
            record.unsure.add(content)
        await anyio.sleep(pause_s)


async def _until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(3 * SERVING_S):
        while not condition():  # noqa: ASYNC110  # of many clients, and nobody is in a hurry
            await anyio.sleep(0.05)


async def _log_of(chat: Chat, name: str) -> list[Message]:
    room = await chat.join(name)
    log: list[Message] = []
    while True:
        since = Position(room.position.epoch, log[-1].offset if log else 0)
        page = await room.history(since=since, limit=100)
        log += page.messages
        if not page.more:
            return log


async def storm(
    clients: int, kills: int, history: Path, *, rooms: int = 6, pause_s: float = 0.1, load_s: float = 1.0
) -> Result:
    """Run it; what was wrong is in the result."""
    server = Victim(history)
    records = [Record(f"room-{number % rooms}") for number in range(clients)]
    enough = anyio.Event()
    ready = 0

    async def client(number: int) -> None:
        nonlocal ready
        record, name = records[number], f"user-{number}"
        chat = connect(server.url, username=name, open_timeout_s=SERVING_S, timeout_s=SERVING_S)
        async with chat, anyio.create_task_group() as tasks:
            tasks.start_soon(_listen, chat, record)
            room = await chat.join(record.room, presence=False)
            ready += 1
            await _speak(room, name, record, pause_s, enough)
            # Whoever still speaks is heard by all in the room, until everybody has stopped.
            ready -= 1
            await _until(lambda: not ready)
            offsets[record.room] = max([offsets[record.room], *(sent.offset for sent in record.acknowledged.values())])
            await _until(lambda: room.position.offset >= offsets[record.room])
            tasks.cancel_scope.cancel()

    offsets: dict[str, int] = defaultdict(int)
    await server.start()
    try:
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(client, number)
            await _until(lambda: ready == clients)
            for kill in range(1, kills + 1):
                await anyio.sleep(load_s)
                server.kill()
                await server.start()
                await _until(lambda kill=kill: all(len(record.waited_s) >= kill for record in records))  # type: ignore[misc]
            await anyio.sleep(load_s)
            enough.set()
        async with connect(server.url, username="judge") as judge:
            logs = {name: await _log_of(judge, name) for name in sorted({record.room for record in records})}
    finally:
        server.kill()
    return Result(records, logs, [*_faults(records, logs)])


def _faults(records: Iterable[Record], logs: dict[str, list[Message]]) -> Iterable[str]:
    for room, log in logs.items():
        if any(b.offset <= a.offset for a, b in itertools.pairwise(log)):
            yield f"{room}: the log is out of order"
        twice = [content for content, count in Counter(message.content for message in log).items() if count > 1]
        if twice:
            yield f"{room}: said twice: {twice[:3]}"
    for number, record in enumerate(records):
        where = {message.content: message for message in logs[record.room]}
        for content, sent in record.acknowledged.items():
            found = where.get(content)
            if found is None or (found.epoch, found.offset) != (sent.epoch, sent.offset):
                yield f"user-{number}: {content!r} was acknowledged at {sent.offset}, and is {found}"
        yield from (f"user-{number}: {fault}" for fault in _faults_of_run(record, logs[record.room]))


def _faults_of_run(record: Record, log: list[Message]) -> Iterable[str]:
    """What a client heard must be a run of the log's offsets, but for what was named."""
    stored = {(message.epoch, message.offset): message.content for message in log}
    last: int | None = None
    heard: set[str] = set()
    for event in record.heard:
        if isinstance(event, Restarted):
            yield f"{record.room} began anew, on the same file"
            continue
        first = event.offset if isinstance(event, Message) else event.first
        if last is not None and first != last + 1:
            yield f"{first} came after {last}"
        if isinstance(event, Message):
            last = event.offset
            here = stored.get((event.epoch, event.offset))
            if here is None:
                record.ghosts.add(event.content)
            elif here != event.content:
                yield f"{event.content!r} was heard at {event.offset}, where {here!r} is"
            elif event.content in heard:
                yield f"{event.content!r} was heard twice"
            else:
                heard.add(event.content)
        else:
            last = event.last
            if event.reason == "unknown":
                yield f"{event.first} to {event.last} were left out without a word"
            kept = [offset for offset in range(event.first, event.last + 1) if (event.epoch, offset) in stored]
            if kept:
                yield f"{event.reason} gap over {event.first} to {event.last}, of which {len(kept)} are stored"


def histogram(seconds: Iterable[float], *, step_s: float = 0.25) -> str:
    """A line for each quarter of a second, with a bar."""
    counts = Counter(int(second / step_s) for second in seconds)
    if not counts:
        return "nobody waited"
    widest = max(counts.values())
    return "\n".join(
        f"{at * step_s:6.2f} s {counts[at]:5d} {'#' * math.ceil(50 * counts[at] / widest)}"
        for at in range(max(counts) + 1)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a server under load and look for what is lost.")
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two messages of a client")
    parser.add_argument("--trio", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        run = partial(storm, options.clients, options.kills, Path(folder) / "history.db", pause_s=options.pause)
        result = anyio.run(run, backend="trio" if options.trio else "asyncio")
    acknowledged = sum(len(record.acknowledged) for record in result.records)
    stored = sum(len(log) for log in result.logs.values())
    waited_s = result.waited_s
    print(f"{options.clients} clients, {options.kills} kills: {acknowledged} acknowledged, {stored} stored")
    ghosts = len({content for record in result.records for content in record.ghosts})
    print(f"{ghosts} heard before a kill and not stored then: said again by who was not told ok")
    print(f"came back {len(waited_s)} times, after waits of in all")
    print(histogram(waited_s))
    print(*(result.faults or ["no acknowledged message lost, none twice, no silent gap"]), sep="\n")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
