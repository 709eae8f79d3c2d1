"""A WebSocket client of raw bytes, and a server on loopback for it.

The client shares no code with roomhub: what it sees is what stands on the wire.
"""

import gc
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from roomhub import Limits, Runtime
from roomhub.testing import ManualClock
from roomhub.transports.websocket import Server, serve

PATIENCE_S = 10.0
"""Real time after which a test that waits has failed; none of them waits for time to pass."""
TURNS_BEFORE_SLEEP = 200
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3, as is its answer
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

Driver: TypeAlias = Literal["reactor", "streams"]
Wire: TypeAlias = dict[str, str]
End: TypeAlias = tuple[int | None, str]


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until it holds.

    After some turns it sleeps in between: a loop that never waits keeps the interpreter's lock, and a thread that works
    for it, a store's say, gets that for a moment every 5 ms.
    """
    with anyio.fail_after(PATIENCE_S):
        turns = 0
        while not condition():
            turns += 1
            await (checkpoint() if turns < TURNS_BEFORE_SLEEP else anyio.sleep(0.001))


async def turn(times: int = 20) -> None:
    """Let the event loop turn a few times, for what must not happen."""
    for _ in range(times):
        await checkpoint()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A client's frame, with a fixed mask."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    length = len(payload)
    if length <= 125:
        head += bytes([bit | length])
    elif length < 65_536:
        head += struct.pack("!BH", bit | 126, length)
    else:
        head += struct.pack("!BQ", bit | 127, length)
    if not masked:
        return head + payload
    mask = b"\x37\xfa\x21\x3d"
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def text(content: str) -> bytes:
    return frame(TEXT, content.encode())


def close(code: int | None = 1000, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def request(
    target: str = "/ws/lobby?username=ann",
    *,
    method: str = "GET",
    without: Iterable[str] = (),
    lines: Sequence[str] = (),
    version: str = "13",
) -> bytes:
    """An opening handshake; ``without`` names headers to leave out, ``lines`` are added."""
    headers = [
        "Host: chat.example",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {version}",
        f"Sec-WebSocket-Key: {KEY}",
    ]
    dropped = tuple(name.lower() + ":" for name in without)
    kept = [line for line in headers if not line.lower().startswith(dropped)] if dropped else headers
    return "\r\n".join([f"{method} {target} HTTP/1.1", *kept, *lines, "", ""]).encode("latin-1")


def chat(username: str, content: str, room: str = "lobby") -> Wire:
    return {"type": "chat", "content": content, "room": room, "username": username}


def joined(username: str, room: str = "lobby") -> Wire:
    return {"type": "user_joined", "content": f"{username} joined the room", "room": room, "username": username}


def left(username: str, room: str = "lobby") -> Wire:
    return {"type": "user_left", "content": f"{username} left the room", "room": room, "username": username}


def roster(*names: str, room: str = "lobby") -> Wire:
    return {"type": "online_users", "content": ",".join(names), "room": room, "username": ""}


@dataclass
class Frame:
    opcode: int
    payload: bytes
    fin: bool = True
    rsv1: bool = False


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Gone(Exception):
    """The server ended the connection."""


class Peer:
    """One client socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.buffer = bytearray()

    # -- bytes --------------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Write all of it, however long the server takes to read."""
        view = memoryview(data)
        with anyio.fail_after(PATIENCE_S):
            while view:
                try:
                    view = view[self.sock.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(self.sock)

    async def receive_more(self) -> None:
        """Wait for bytes. Raises Gone at the end, ConnectionResetError for one that was reset."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    data = self.sock.recv(65_536)
                except BlockingIOError:
                    await anyio.wait_readable(self.sock)
                    continue
                if not data:
                    raise Gone
                self.buffer += data
                return

    async def receive_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            await self.receive_more()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def end(self) -> bytes:
        """What comes until the server ends its side, or resets."""
        try:
            while True:
                await self.receive_more()
        except (Gone, ConnectionResetError):
            pass
        rest = bytes(self.buffer)
        self.buffer.clear()
        return rest

    def disconnect(self) -> None:
        """End the connection in good order of TCP's, without a close frame."""
        self.sock.close()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish: the server gets an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    async def response(self) -> Response:
        """A response head, and its body unless it is a 101."""
        while b"\r\n\r\n" not in self.buffer:
            await self.receive_more()
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        body = b"" if status == 101 else await self.receive_exactly(int(headers["content-length"]))
        return Response(status, headers, body)

    async def upgrade(self, data: bytes) -> Response:
        await self.send(data)
        response = await self.response()
        assert response.status == 101, response
        return response

    # -- frames -------------------------------------------------------------------------------------------------------

    async def frame(self) -> Frame:
        first, second = await self.receive_exactly(2)
        assert not second & 0x80, "a server masks nothing"
        length = second
        if length == 126:
            [length] = struct.unpack("!H", await self.receive_exactly(2))
        elif length == 127:
            [length] = struct.unpack("!Q", await self.receive_exactly(8))
        payload = await self.receive_exactly(length)
        return Frame(first & 0xF, payload, bool(first & 0x80), bool(first & 0x40))

    async def receive(self) -> Wire:
        """The next message, which must be text."""
        frame = await self.frame()
        assert frame.opcode == TEXT, frame
        message: Wire = json.loads(frame.payload)
        assert set(message) == {"type", "content", "room", "username"}
        return message

    async def receive_until(self, last: Wire) -> list[Wire]:
        """Messages up to this one, which is the last of the list."""
        messages = [await self.receive()]
        while messages[-1] != last:
            messages.append(await self.receive())
        return messages

    async def say(self, content: str) -> None:
        await self.send(text(content))

    async def close_frame(self) -> End:
        """The server's close frame, as code and reason; what comes before it is thrown away."""
        while (frame := await self.frame()).opcode != CLOSE:
            pass
        return close_of(frame)

    async def closed(self) -> End:
        """The server's close frame, answered, and the end of the connection."""
        end = await self.close_frame()
        with suppress(BrokenPipeError, ConnectionResetError):
            await self.send(close(1000))
        await self.end()
        self.disconnect()
        return end


def close_of(frame: Frame) -> End:
    assert frame.opcode == CLOSE, frame
    if not frame.payload:
        return None, ""
    [code] = struct.unpack("!H", frame.payload[:2])
    return code, frame.payload[2:].decode()


class World:
    """A server, its runtime and clock, and the clients a test made."""

    def __init__(self, runtime: Runtime, server: Server, clock: ManualClock) -> None:
        self.runtime = runtime
        self.server = server
        self.clock = clock
        self.peers: list[Peer] = []

    @property
    def is_quiet(self) -> bool:
        """No connection at all, not even one that is ending."""
        return self.server.connections == 0 and self.runtime.hub.is_empty

    def connect(self, *, receive_buffer_bytes: int | None = None, port: int | None = None) -> Peer:
        """A connection that has said nothing. The kernel takes it, so it needs no event loop."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            sock.connect(("127.0.0.1", port or self.server.port))
        except OSError:
            sock.close()
            raise
        peer = Peer(sock)
        self.peers.append(peer)
        return peer

    async def open(
        self,
        user: str = "ann",
        room: str = "lobby",
        *,
        lines: Sequence[str] = (),
        receive_buffer_bytes: int | None = None,
    ) -> Peer:
        """A client whose frames have not been read yet."""
        peer = self.connect(receive_buffer_bytes=receive_buffer_bytes)
        await peer.upgrade(request(f"/ws/{room}?username={user}", lines=lines))
        return peer

    async def join(self, user: str = "ann", room: str = "lobby", *, receive_buffer_bytes: int | None = None) -> Peer:
        """A client that has read up to its own ``user_joined``."""
        peer = await self.open(user, room, receive_buffer_bytes=receive_buffer_bytes)
        await peer.receive_until(joined(user, room))
        return peer

    async def room_of(self, *users: str, room: str = "lobby") -> list[Peer]:
        """Clients in one room that have read everybody's arrival."""
        peers = [await self.join(user, room) for user in users]
        for peer in peers[:-1]:
            await peer.receive_until(joined(users[-1], room))
        return peers

    async def get(self, path: str, *, method: str = "GET", port: int | None = None) -> Response:
        """One plain HTTP request on a connection of its own."""
        peer = self.connect(port=port)
        await peer.send(f"{method} {path} HTTP/1.1\r\nHost: chat.example\r\n\r\n".encode())
        response = await peer.response()
        assert await peer.end() == b""
        peer.disconnect()
        return response

    async def refused(self, data: bytes) -> Response:
        """The answer to an opening handshake that must not be taken, on a connection of its own."""
        peer = self.connect()
        await peer.send(data)
        response = await peer.response()
        assert await peer.end() == b""
        peer.disconnect()
        return response


def open_files() -> int:
    """How many sockets and selectors this process has open. (An event loop may open others for itself, once.)"""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            kind = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
        count += kind.startswith(("socket:", "anon_inode:[eventpoll]"))
    return count


@asynccontextmanager
async def serving(
    driver: Driver,
    *,
    limits: Limits | None = None,
    runtime: Runtime | None = None,
    clock: ManualClock | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    """A server in virtual time. When it ends nothing may be left of it: no client, no room, no open file."""
    clock = clock or ManualClock()
    gc.collect()
    files = open_files()
    guard = anyio.CancelScope(shield=True)
    failed = anyio.Event()

    async def give_up() -> None:
        """A test that failed while its clients hold the server up must end all the same."""
        with guard:
            with anyio.move_on_after(2 * PATIENCE_S):
                await failed.wait()
            for _ in range(1_000):
                await checkpoint()
                clock.advance(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_up)
        async with Runtime(limits=limits, clock=clock) if runtime is None else runtime as runtime:
            async with serve(runtime, port=0, driver=driver, **options) as server:
                world = World(runtime, server, clock)
                try:
                    yield world
                except BaseException:
                    failed.set()
                    raise
                finally:
                    for peer in world.peers:
                        peer.sock.close()
            assert server.connections == 0
            assert runtime.hub.is_empty
        assert runtime.rooms() == ()
        # A transport of asyncio's closes its socket one turn after it was told to.
        await until(lambda: open_files() <= files)
        guard.cancel()
