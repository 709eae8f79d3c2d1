"""The general driver: any anyio byte stream (TLS, Unix sockets, Windows), a reading and a writing task each."""

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from roomhub.transports.websocket.connection import Connection, Phase, Service
from roomhub.transports.websocket.reactor import READ_BYTES, prepare_socket

__all__ = ["StreamConnection", "serve_stream"]

WRITE_BYTES: Final = 16_384
"""What one write hands to the stream at most: a slow peer makes progress with each."""
PATIENCE_TURNS: Final = 4
"""A write that is still under way after so many turns of the event loop is stuck. A healthy one ends within two, but
nothing tells a stream's user whether its socket refused."""

STREAM_ERRORS: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class StreamConnection(Connection):
    """A connection over one byte stream."""

    __slots__ = (
        "_drained",
        "_is_blocked",
        "_is_broken",
        "_is_deaf",
        "_is_last",
        "_is_sending",
        "_is_watched",
        "_pending",
        "_reading",
        "_scope",
        "_stream",
        "_tasks",
        "_wake",
        "_writes",
    )

    def __init__(self, service: Service, stream: ByteStream, peer: str, *, secure: bool) -> None:
        self._stream = stream
        self._wake = anyio.Event()
        self._pending: list[bytes] = []
        self._is_sending = False
        self._is_blocked = False
        self._is_broken = False
        self._is_deaf = False
        self._is_last = False
        self._drained: anyio.Event | None = None
        self._is_watched = False
        self._writes = 0
        self._tasks: TaskGroup | None = None
        self._scope = anyio.CancelScope()
        self._reading = anyio.CancelScope()
        super().__init__(service, peer, secure=secure)

    @property
    def is_blocked(self) -> bool:
        return not self._is_broken and (self._is_sending or bool(self._pending) or self._farewell is not None)

    def send(self, data: bytes) -> None:
        if not self._is_broken:
            self._pending.append(data)
            self._wake.set()

    def notify(self) -> None:
        if not self._is_sending:
            self._wake.set()
            return
        if not self._is_watched and not self._is_blocked and self._tasks is not None:
            self._is_watched = True
            self._tasks.start_soon(self._watch_write, self._writes)

    def replace_pongs(self, frame: bytes) -> None:
        # 0x8A: a final pong frame (RFC 6455 section 5.2)
        self._pending = [waiting for waiting in self._pending if waiting[0] != 0x8A]
        self.send(frame)

    def hold_reading(self) -> None:
        if self._drained is None and self.is_blocked:
            self._drained = anyio.Event()

    def finish(self) -> None:
        self._is_last = True
        self._wake.set()

    def cut(self) -> None:
        self._scope.cancel()
        self.ended()

    async def run(self) -> None:
        """Serve the connection to its end."""
        try:
            with self._scope:
                async with anyio.create_task_group() as self._tasks:
                    tasks = self._tasks
                    tasks.start_soon(self._write_forever)
                    with self._reading:
                        await self._read_forever()
                    if self._reading.cancelled_caught:
                        await self._end_tls()
                    tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self.ended()

    async def _watch_write(self, write: int) -> None:
        """There is more to pull behind a write: tell the hub if that one is stuck."""
        for _ in range(PATIENCE_TURNS):
            await checkpoint()
        self._is_watched = False
        if not self._is_sending or self._is_broken or self.phase is not Phase.OPEN:
            return
        if self._writes == write:
            self.write_stuck()
        else:
            self.notify()

    def write_stuck(self) -> None:
        if self._is_sending and not self._is_blocked and self.phase is Phase.OPEN:
            self._is_blocked = True
            self.service.application.blocked(self)

    async def _read_forever(self) -> None:
        application = self.service.application
        while True:
            try:
                data = await self._stream.receive(READ_BYTES)
            except STREAM_ERRORS:
                if self.eof():
                    # The writer ends the connection, or the time for it.
                    self._is_deaf = True
                    await anyio.sleep_forever()
                return
            self.feed(data)
            if self._drained is not None:
                await self._drained.wait()
                self._drained = None
            while application.holds_back(self):
                await application.flushed()

    async def _write_forever(self) -> None:
        application = self.service.application
        while self.phase is not Phase.GONE:
            if self._pending:
                data = b"".join(self._pending)
                self._pending.clear()
                self.pongs_taken()
            else:
                data = self.next_chunk()
            if not data:
                if self._drained is not None:
                    self._drained.set()
                if self._is_last:
                    await self._end_writing()
                    return
                await self._wake.wait()
                self._wake = anyio.Event()
                continue
            try:
                await self._send(data)
            except STREAM_ERRORS:
                # Not the end: the peer's last words may still come. Reading finds the end.
                self._is_broken = True
                self.service.deadlines.cancel("write", self)
                self._pending.clear()
                if self._drained is not None:
                    self._drained.set()
                if self._is_deaf:
                    self.cut()
                return
            if self._is_blocked:
                self._is_blocked = False
                if self.phase is Phase.OPEN:
                    application.writable(self)

    async def _send(self, data: bytes) -> None:
        self._is_sending = True
        for at in range(0, len(data), WRITE_BYTES):
            if at and self._is_blocked and self.phase is Phase.OPEN:
                self.service.application.blocked(self)  # again, which says that something went out
            self._writes += 1
            self.service.arm("write", self)
            await self._stream.send(data[at : at + WRITE_BYTES])
        self._is_sending = False
        self.service.deadlines.cancel("write", self)

    async def _end_writing(self) -> None:
        if isinstance(self._stream, TLSStream):
            self._reading.cancel()  # which goes on with _end_tls: only one task may read
        elif self._is_deaf:
            self.cut()  # both sides have said all
        else:
            try:
                await self._stream.send_eof()
            except STREAM_ERRORS:
                pass
            except NotImplementedError:
                self.cut()  # a stream of the program's that has one end for both sides

    async def _end_tls(self) -> None:
        """Say close_notify (RFC 8446 section 6.1), end the TCP stream, and wait for the peer's end.

        Closing with something of the peer's unread would be a reset, which can take our last words with it.
        """
        assert isinstance(self._stream, TLSStream)
        transport = self._stream.transport_stream
        with suppress(*STREAM_ERRORS):  # also if the peer goes on talking: then its close_notify is not waited for
            await self._stream.unwrap()
        with suppress(*STREAM_ERRORS):
            await transport.send_eof()
            while True:
                await transport.receive()


def peer_address(service: Service, stream: ByteStream) -> str:
    """The peer's address as text, "" where there is none.

    For a Unix socket: loopback if that is a trusted proxy, since a reverse proxy in front of it is on this machine.
    """
    sock = stream.extra(SocketAttribute.raw_socket, None)
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        address = stream.extra(SocketAttribute.remote_address, None)
        return str(address[0]) if isinstance(address, tuple) else ""
    loopback = ipaddress.ip_address("127.0.0.1")
    return str(loopback) if any(loopback in network for network in service.policy.trusted_proxies) else ""


async def serve_stream(
    service: Service, stream: ByteStream, *, secure: bool, started: Callable[[Connection], None] | None = None
) -> None:
    """Serve one accepted stream until it ends, and close it; ``started`` is called with its connection, if any."""
    try:
        peer = peer_address(service, stream)
        sock = stream.extra(SocketAttribute.raw_socket, None)
        if sock is not None:
            prepare_socket(sock, service.limits.send_buffer_bytes)
        refusal = service.admission(peer)
        if refusal is not None:
            with anyio.move_on_after(service.limits.close_timeout_s):
                await stream.send(refusal.data)
            return
        connection = StreamConnection(service, stream, peer, secure=secure)
        if started is not None:
            started(connection)
        await connection.run()
    except STREAM_ERRORS:
        pass
    finally:
        await anyio.aclose_forcefully(stream)
