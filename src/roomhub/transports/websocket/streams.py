"""The general driver: any anyio byte stream (TLS, Unix sockets, Windows), a reading and a writing task each."""

import ipaddress
import socket
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from roomhub.transports.websocket.connection import Connection, Phase, Service
from roomhub.transports.websocket.reactor import READ_BYTES, prepare_socket

__all__ = ["StreamConnection", "serve_stream"]

PATIENCE_FLUSHES: Final = 4
"""A write that several flushes of the hub find still under way is stuck. A healthy one ends within two passes of the
event loop, but nothing tells a stream's user whether its socket refused."""

STREAM_ERRORS: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class StreamConnection(Connection):
    """A connection over one byte stream."""

    __slots__ = ("_flushes", "_is_blocked", "_is_last", "_is_sending", "_pending", "_scope", "_stream", "_wake")

    def __init__(self, service: Service, stream: ByteStream, peer: str, *, secure: bool) -> None:
        self._stream = stream
        self._wake = anyio.Event()
        self._pending: list[bytes] = []
        self._is_sending = False
        self._is_blocked = False
        self._is_last = False
        self._flushes = 0
        self._scope = anyio.CancelScope()
        super().__init__(service, peer, secure=secure)

    @property
    def is_blocked(self) -> bool:
        return self._is_sending or bool(self._pending)

    def send(self, data: bytes) -> None:
        self._pending.append(data)
        self._wake.set()

    def notify(self) -> None:
        if not self._is_sending:
            self._wake.set()
            return
        self._flushes += 1
        if self._flushes >= PATIENCE_FLUSHES and not self._is_blocked:
            self._is_blocked = True
            self.service.application.blocked(self)

    def replace_pongs(self, frame: bytes) -> None:
        # 0x8A: a final pong frame (RFC 6455 section 5.2)
        self._pending = [waiting for waiting in self._pending if waiting[0] != 0x8A]
        self.send(frame)

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
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_forever)
                    await self._read_forever()
                    tasks.cancel_scope.cancel()
        finally:
            self.ended()

    async def _read_forever(self) -> None:
        application = self.service.application
        while True:
            try:
                data = await self._stream.receive(READ_BYTES)
            except STREAM_ERRORS:
                self.eof()
                return
            self.feed(data)
            while application.holds_back(self):
                await checkpoint()

    async def _write_forever(self) -> None:
        application = self.service.application
        while True:
            data = b"".join(self._pending)
            self._pending.clear()
            if not data and self.phase is Phase.OPEN:
                chunk = application.pull(self)
                assert isinstance(chunk, bytes)
                data = chunk
            if not data:
                self.pongs_written()
                if self._is_last:
                    await self._end_writing()
                    return
                await self._wake.wait()
                self._wake = anyio.Event()
                continue
            self._is_sending = True
            self._flushes = 0
            try:
                await self._stream.send(data)
            except STREAM_ERRORS:
                # Not the end: the peer's last words may still come. Reading finds the end.
                return
            self._is_sending = False
            if self._is_blocked:
                self._is_blocked = False
                if self.phase is Phase.OPEN:
                    application.writable(self)

    async def _end_writing(self) -> None:
        try:
            await self._stream.send_eof()
        except STREAM_ERRORS:
            pass
        except NotImplementedError:
            self.cut()  # TLS has no half-closed connection


def unix_peer(service: Service) -> str:
    """What stands for the address of a stream that has none: loopback if that is a trusted proxy, else nothing.

    A reverse proxy in front of a Unix socket is on this machine.
    """
    loopback = ipaddress.ip_address("127.0.0.1")
    return str(loopback) if any(loopback in network for network in service.policy.trusted_proxies) else ""


async def serve_stream(service: Service, stream: ByteStream, *, secure: bool) -> None:
    """Serve one accepted stream until it ends, and close it."""
    peer = unix_peer(service)
    sock = stream.extra(SocketAttribute.raw_socket, None)
    if sock is not None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            address = stream.extra(SocketAttribute.remote_address, None)
            peer = str(address[0]) if isinstance(address, tuple) else ""
        prepare_socket(sock, service.limits.send_buffer_bytes)
    try:
        refusal = service.admission(peer)
        if refusal is not None:
            with anyio.move_on_after(service.limits.close_timeout_s):
                await stream.send(refusal.data)
            return
        await StreamConnection(service, stream, peer, secure=secure).run()
    except STREAM_ERRORS:
        pass
    finally:
        await anyio.aclose_forcefully(stream)
