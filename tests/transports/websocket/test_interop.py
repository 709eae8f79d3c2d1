"""Clients no one here wrote: PyPI's ``websockets`` and Node's ``ws`` see exactly the seed's wire."""

import asyncio
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from roomhub.transports.websocket import deflate
from tests.transports.websocket.support import Driver, Wire, chat, joined, left, roster, serving, until

pytestmark = pytest.mark.anyio

NODE = Path(__file__).parents[2] / "node"
needs_node = pytest.mark.skipif(
    os.environ.get("ROOMHUB_WITHOUT_NODE") == "1",
    reason="ROOMHUB_WITHOUT_NODE=1 was asked for",
)
LONG = "all work and no play makes jack a dull boy " * 10


async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    """Run beside the server, whatever its event loop is."""
    with anyio.fail_after(20):
        return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


# -- websockets -------------------------------------------------------------------------------------------------------


async def receive(client: ClientConnection, count: int) -> list[Wire]:
    return [json.loads(await client.recv(decode=True)) for _ in range(count)]


def converse(url: str, compression: str | None) -> dict[str, Any]:
    """Two clients of ``websockets`` in an event loop of their own: what they saw."""

    async def main() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        async with asyncio.timeout(15), AsyncExitStack() as stack:

            async def enter(user: str) -> ClientConnection:
                target = f"{url}/ws/lobby?username={user}"
                return await stack.enter_async_context(connect(target, compression=compression))

            ann = await enter("ann")
            seen["ann"] = await receive(ann, 2)
            bob = await enter("bob")
            seen["ann"] += await receive(ann, 2)
            seen["bob"] = await receive(bob, 2)
            for content in ("hi", LONG, "ünï 漢"):
                await bob.send(content)
            await bob.send(iter(["in ", "", "pieces"]))
            seen["ann"] += await receive(ann, 4)
            seen["bob"] += await receive(bob, 4)
            await (await bob.ping("are you there"))
            await bob.close(4000, "enough")
            seen["bob closed"] = (bob.close_code, bob.close_reason)
            seen["ann"] += await receive(ann, 2)
            await ann.send("x" * 513)
            with pytest.raises(ConnectionClosed):
                await ann.recv()
            seen["ann closed"] = ann.close_code
            seen["extensions"] = [extension.name for extension in ann.protocol.extensions]
        return seen

    return asyncio.run(main())


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_websockets_sees_the_seeds_wire(driver: Driver, compression: str | None) -> None:
    async with serving(driver, compression=compression is not None) as world:
        seen = await in_thread(converse, world.server.url, compression)
        assert seen.pop("extensions") == ([] if compression is None else ["permessage-deflate"])
        said = [chat("bob", content) for content in ("hi", LONG, "ünï 漢", "in pieces")]
        assert seen == {
            "ann": [
                roster("ann"),
                joined("ann"),
                roster("ann", "bob"),
                joined("bob"),
                *said,
                left("bob"),
                roster("ann"),
            ],
            "bob": [roster("ann", "bob"), joined("bob"), *said],
            "bob closed": (4000, ""),
            "ann closed": 1009,
        }
        await until(lambda: world.is_quiet)


async def test_two_lanes_get_equal_text_and_each_message_is_compressed_once(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed: list[str] = []
    frame = deflate.Deflated.frame

    def counting(self: deflate.Deflated, text: str) -> bytes:
        compressed.append(text)
        return frame(self, text)

    monkeypatch.setattr(deflate.Deflated, "frame", counting)

    def converse(url: str) -> list[list[str]]:
        async def main() -> list[list[str]]:
            async with asyncio.timeout(15), AsyncExitStack() as stack:
                clients: list[ClientConnection] = []
                for number in range(8):
                    compression = "deflate" if number % 2 else None
                    target = f"{url}/ws/lobby?username=u{number}"
                    opening = connect(target, compression=compression)
                    clients.append(await stack.enter_async_context(opening))
                    while json.loads(await clients[-1].recv())["type"] != "user_joined":
                        pass
                await clients[0].send(LONG)
                await clients[0].send(LONG + "!")
                texts: list[list[str]] = []
                for client in clients:
                    seen: list[str] = []
                    while not seen or LONG + "!" not in seen[-1]:
                        seen.append(await client.recv(decode=True))
                    texts.append([text for text in seen if LONG in text])
                return texts

        return asyncio.run(main())

    async with serving(driver, compression=True) as world:
        texts = await in_thread(converse, world.server.url)
        assert len(texts) == 8
        assert len(texts[0]) == 2
        assert all(text == texts[0] for text in texts)
        await until(lambda: world.is_quiet)
    assert len([text for text in compressed if LONG + "!" in text]) == 1
    assert len([text for text in compressed if f'"{LONG}"' in text]) == 1


# -- Node ws ----------------------------------------------------------------------------------------------------------


class Node:
    """One client of ``ws`` in a process of its own."""

    def __init__(self, url: str, user: str, *flags: str) -> None:
        self.process = subprocess.Popen(
            ["node", str(NODE / "chat.cjs"), url, "lobby", user, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self.read, args=[self.process.stdout])
        self.reader.start()

    def read(self, lines: IO[str]) -> None:
        for line in lines:
            self.events.put(json.loads(line))

    def event(self) -> dict[str, Any]:
        return self.events.get(timeout=15)

    def messages(self, count: int) -> list[Wire]:
        events = [self.event() for _ in range(count)]
        assert all(event["binary"] is False for event in events), events
        return [event["message"] for event in events]

    def tell(self, **command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


def node_converses(url: str, *flags: str) -> dict[str, Any]:
    if shutil.which("node") is None or not (NODE / "node_modules" / "ws").is_dir():
        pytest.fail("node or its ws is not installed: `make node` does that, ROOMHUB_WITHOUT_NODE=1 does without")
    clients: list[Node] = []
    try:
        ann = Node(url, "ann", *flags)
        clients.append(ann)
        seen: dict[str, Any] = {"open": ann.event()["open"], "ann": ann.messages(2)}
        bob = Node(url, "bob", *flags)
        clients.append(bob)
        bob.event()
        seen["ann"] += ann.messages(2)
        seen["bob"] = bob.messages(2)
        for content in ("hi", LONG, "ünï 漢"):
            bob.tell(say=content)
        seen["ann"] += ann.messages(3)
        seen["bob"] += bob.messages(3)
        bob.tell(ping="are you there")
        assert bob.event() == {"pong": "are you there"}
        bob.tell(close=4000)
        seen["bob closed"] = bob.event()["closed"]
        seen["ann"] += ann.messages(2)
        ann.tell(say="x" * 513)
        seen["ann closed"] = ann.event()["closed"][0]
        return seen
    finally:
        for client in clients:
            client.end()


@needs_node
@pytest.mark.parametrize("flags", [(), ("--deflate",)], ids=["plain", "deflate"])
async def test_node_ws_sees_the_seeds_wire(driver: Driver, flags: tuple[str, ...]) -> None:
    async with serving(driver, compression=bool(flags)) as world:
        seen = await in_thread(node_converses, world.server.url, *flags)
        assert seen.pop("open") == ("permessage-deflate" if flags else "")
        said = [chat("bob", content) for content in ("hi", LONG, "ünï 漢")]
        assert seen == {
            "ann": [
                roster("ann"),
                joined("ann"),
                roster("ann", "bob"),
                joined("bob"),
                *said,
                left("bob"),
                roster("ann"),
            ],
            "bob": [roster("ann", "bob"), joined("bob"), *said],
            "bob closed": [4000, ""],
            "ann closed": 1009,
        }
        await until(lambda: world.is_quiet)
