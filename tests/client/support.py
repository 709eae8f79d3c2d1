"""What the client's tests talk to: a server that says what a script tells it, and a cable that can be cut."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup, TaskStatus

from roomhub import Runtime
from roomhub.client import Backoff, Chat, Event, connect
from roomhub.transports.websocket import serve
from roomhub.transports.websocket.frames import (
    CloseReceived,
    FrameLimits,
    FrameReader,
    Item,
    Ping,
    close_frame,
    pong_frame,
    text_frame,
)
from roomhub.transports.websocket.negotiate import accept_token
from tests.core.playbook import check_shape
from tests.transports.websocket.support import PATIENCE_S

QUICK = Backoff(0.01, 0.05)
"""Delays for tests in which time is real."""

Frame: TypeAlias = dict[str, Any]


def dial(url: str, username: str = "ann", **options: Any) -> Chat:
    """A client that is quick to come back."""
    return connect(url, username=username, **{"backoff": QUICK, "open_timeout_s": PATIENCE_S, **options})


async def hear(chat: Chat, kind: type[Event] | tuple[type[Event], ...]) -> Any:
    """The next event of this kind; others are thrown away."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            event = await anext(chat)
            if isinstance(event, kind):
                return event


# -- a server of the test's own ----------------------------------------------------------------------------------------


class Hung(Exception):
    """The client ended the connection; ``close`` is its close frame, None where it sent none."""

    def __init__(self, close: CloseReceived | None) -> None:
        super().__init__(close)
        self.close = close


class Line:
    """One connection of a scripted server."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.pings = 0
        self.request = b""
        self._reader = FrameReader(FrameLimits(2**20, 64, binary=False))
        self._items: list[Item] = []

    async def receive(self) -> bytes:
        try:
            return await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise Hung(None) from None

    async def take_request(self) -> None:
        while b"\r\n\r\n" not in self.request:
            self.request += await self.receive()

    async def accept(self, *more: bytes, subprotocol: str | None = "roomhub.v1.json") -> None:
        await self.take_request()
        key = self.request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0].decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append(f"Sec-WebSocket-Accept: {accept_token(key)}")
        if subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        await self.stream.send("\r\n".join([*lines, "", ""]).encode() + b"".join(more))

    async def refuse(self, status: int, *lines: str, body: bytes = b"") -> None:
        await self.take_request()
        head = [f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", "Connection: close", *lines, "", ""]
        await self.stream.send("\r\n".join(head).encode() + body)

    async def hear(self) -> Frame:
        """What the client says next. Pings are answered and counted."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                while not self._items:
                    self._items += self._reader.feed(await self.receive())
                item = self._items.pop(0)
                if isinstance(item, CloseReceived):
                    raise Hung(item)
                if isinstance(item, Ping):
                    self.pings += 1
                    await self.stream.send(pong_frame(item.payload))
                elif isinstance(item, str):
                    frame: Frame = json.loads(item)
                    return frame

    async def hear_kind(self, kind: str) -> Frame:
        while (frame := await self.hear())["type"] != kind:
            pass
        return frame

    async def say(self, kind: str, **fields: Any) -> None:
        frame = {"type": kind, **fields}
        check_shape({name: value for name, value in frame.items() if name != "expires_ms"})
        await self.say_text(json.dumps(frame))

    async def say_text(self, text: str) -> None:
        await self.stream.send(text_frame(text))

    async def welcome(self, **more: Any) -> Frame:
        """Take the hello and answer it; gives it."""
        hello = await self.hear_kind("hello")
        frame: Frame = {"id": hello["id"], "v": 1, "session": "s", "user": "ann", "username": "ann", "resumed": False}
        place = {"epoch": "", "offset": 0, "recovered": "none"}
        await self.say("welcome", **{**frame, "limits": {}, "rooms": {"@ann": place}, **more})
        return hello

    async def open(self, **more: Any) -> Frame:
        await self.accept()
        return await self.welcome(**more)

    async def close(self, code: int | None, reason: str = "") -> None:
        await self.stream.send(close_frame(code, reason))

    async def rest(self) -> CloseReceived | None:
        """Hear the client out; gives its close frame."""
        try:
            while True:
                await self.hear()
        except Hung as hung:
            return hung.close


Script: TypeAlias = Callable[[Line], Awaitable[object]]


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[str]:
    """A server whose first connection gets the first script, and so on; all further ones get the last."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    taken = 0

    async def handle(stream: SocketStream) -> None:
        nonlocal taken
        script = scripts[min(taken, len(scripts) - 1)]
        taken += 1
        async with stream:
            with suppress(Hung, anyio.BrokenResourceError):
                await script(Line(stream))

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        try:
            yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        finally:
            tasks.cancel_scope.cancel()


# -- a cable -----------------------------------------------------------------------------------------------------------


class Cable:
    """What lies between a client and its server: it can be cut, and then refuses until it is mended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_whole = True
        self.is_frozen = False
        self._thaw = anyio.Event()
        self._scopes: set[anyio.CancelScope] = set()
        self.url = ""

    def cut(self) -> None:
        self.is_whole = False
        for scope in self._scopes:
            scope.cancel()

    def mend(self) -> None:
        self.is_whole = True

    def freeze(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        self._thaw.set()
        self._thaw = anyio.Event()

    async def carry(self, client: SocketStream) -> None:
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        try:
            async with client:
                if not self.is_whole:
                    return
                with scope, suppress(OSError):
                    server = await anyio.connect_tcp("127.0.0.1", self.port)
                    async with server, anyio.create_task_group() as tasks:
                        tasks.start_soon(self._pass_on, client, server, scope)
                        tasks.start_soon(self._pass_on, server, client, scope)
        finally:
            self._scopes.discard(scope)

    async def _pass_on(self, source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive(4096)
                while self.is_frozen:
                    await self._thaw.wait()
                await sink.send(data)
        scope.cancel()


@asynccontextmanager
async def cable_to(port: int) -> AsyncIterator[Cable]:
    cable = Cable(port)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, cable.carry)
        cable.url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        try:
            yield cable
        finally:
            tasks.cancel_scope.cancel()


# -- a server that is stopped and started ------------------------------------------------------------------------------


class Restartable:
    """A real server on one port, in tasks of its own."""

    def __init__(self, make_runtime: Callable[[], Runtime], tasks: TaskGroup) -> None:
        self.url = ""
        self._make_runtime = make_runtime
        self._tasks = tasks
        self._port = 0
        self._stop = anyio.Event()
        self._stopped = anyio.Event()

    async def start(self) -> None:
        await self._tasks.start(self._run)

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        self._stop, self._stopped = anyio.Event(), anyio.Event()
        async with self._make_runtime() as runtime, serve(runtime, port=self._port) as server:
            self._port, self.url = server.port, server.url
            task_status.started()
            await self._stop.wait()
            await runtime.drain()
        self._stopped.set()


@asynccontextmanager
async def restartable(make_runtime: Callable[[], Runtime]) -> AsyncIterator[Restartable]:
    async with anyio.create_task_group() as tasks:
        server = Restartable(make_runtime, tasks)
        await server.start()
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()
