"""The fast driver: plain TCP on POSIX, every socket of a server in one selector, one task for all.

anyio waits for the selector's own descriptor, so it runs on asyncio, uvloop and trio alike. A tick reads what is
readable, feeds the hub, then lets the runtime write: one non-blocking send per client, whatever the number of messages.
"""

import contextlib
import errno
import logging
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from roomhub.core.codec import Chunk
from roomhub.runtime import Runtime
from roomhub.transports.websocket.connection import GONE, Connection, Phase, Service

__all__ = ["Reactor", "ReactorConnection", "is_available"]

_log = logging.getLogger("roomhub")

READ_BYTES: Final = 16_384
"""What one read takes at most. With more, one peer's small frames would keep the others waiting for tens of ms."""
ACCEPTS_A_TICK: Final = 16
YIELD_AFTER_S: Final = 0.002
"""So long a reactor may work before other tasks of the event loop get their turn."""
TURNS_A_YIELD: Final = 3
"""How many turns the others get then. A task that slept is woken by its timer in one turn of asyncio's loop, by its
future in the next, and runs in the third; were we to work between them, it would be three times as late."""
EVENTS_A_LOOK: Final = 32
"""So many events are worked off between two looks at the clock."""
# Without it a write to a reset connection raises SIGPIPE where the program has restored that signal's default.
SEND_FLAGS: Final = getattr(socket, "MSG_NOSIGNAL", 0)
OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_available() -> bool:
    """Whether this platform's selector has a descriptor of its own to wait for."""
    with selectors.DefaultSelector() as selector:
        return hasattr(selector, "fileno")


async def _yield() -> None:
    for _ in range(TURNS_A_YIELD):
        await checkpoint()


class ReactorConnection(Connection):
    """A connection whose socket the reactor reads and anybody writes, without blocking."""

    shares = True

    __slots__ = ("_behind", "_is_broken", "_is_deaf", "_is_held", "_is_last", "_reactor", "_rest", "_sock")

    def __init__(self, reactor: "Reactor", sock: socket.socket, peer: str) -> None:
        self._reactor = reactor
        self._sock = sock
        # What the socket did not take, and the control frames that must follow it.
        self._rest: memoryview | None = None
        self._behind: list[bytes] | None = None
        self._is_held = False
        self._is_deaf = False  # the peer has ended its side, which would stay readable for ever
        self._is_last = False
        self._is_broken = False
        super().__init__(reactor.service, peer, secure=False)

    @property
    def is_blocked(self) -> bool:
        return self._rest is not None

    def write(self, chunk: Chunk) -> None:
        """One send; what the socket does not take is kept, and the hub told."""
        if self._rest is not None or self._is_broken:
            if self._rest is not None:
                self._keep_behind(chunk)
            return
        try:
            sent = self._sock.send(chunk, SEND_FLAGS)  # type: ignore[arg-type]  # this lane's chunks are bytes
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # Not the end: the peer's last words may still be in the receive buffer. Reading finds the end.
            self._break()
            return
        if sent != len(chunk):
            assert isinstance(chunk, bytes)
            self._rest = memoryview(chunk)[sent:]
            self._reactor.watch(self)
            if self.phase is Phase.OPEN:
                self.service.application.blocked(self)

    def send(self, data: bytes) -> None:
        self.write(data)

    def notify(self) -> None:
        while self._rest is None and not self._is_broken:
            chunk = self.next_chunk()
            if not chunk:
                return
            self.write(chunk)

    def _keep_behind(self, data: Chunk) -> None:
        assert isinstance(data, bytes)
        if self._behind is None:
            self._behind = []
        self._behind.append(data)

    def replace_pongs(self, frame: bytes) -> None:
        if self._behind:
            # 0x8A: a final pong frame (RFC 6455 section 5.2)
            self._behind = [waiting for waiting in self._behind if waiting[0] != 0x8A]
        self._keep_behind(frame)

    def hold_reading(self) -> None:
        if self._rest is not None and not self._is_held:
            self._is_held = True
            self._reactor.watch(self)

    def on_readable(self) -> None:
        if self.phase is GONE:  # in this batch: its descriptor may be another connection's by now
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self.feed(data)
        elif self.eof():
            self._is_deaf = True
            self._reactor.watch(self)

    def on_writable(self) -> None:
        rest = self._rest
        if rest is None:
            return
        try:
            sent = self._sock.send(rest, SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._break()
            return
        if sent < len(rest):
            self._rest = rest[sent:]
            if self.phase is Phase.OPEN:
                self.service.application.blocked(self)  # again, which says that something went out
            return
        self._rest = None
        behind = self._behind
        if behind is not None:
            self._behind = None
            self._rest = memoryview(b"".join(behind))
            self.pongs_taken()
            self.on_writable()
            return
        self._is_held = False
        self._reactor.watch(self)
        if self._is_last:
            self._end_writing()
        elif self.phase is Phase.OPEN:
            self.service.application.writable(self)
        else:
            self.notify()

    def finish(self) -> None:
        self._is_last = True
        if self._rest is None:
            self._end_writing()

    def _end_writing(self) -> None:
        if self._is_broken:
            return
        if self._is_deaf:
            self.cut()  # both sides have said all
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._break()

    def _break(self) -> None:
        self._is_broken = True
        self._rest = self._behind = None
        self._is_held = False
        if self._is_deaf:
            self.cut()
        else:
            self._reactor.watch(self)

    def cut(self) -> None:
        if self.phase is not Phase.GONE:
            self._rest = self._behind = None
            self._is_broken = True
            try:
                self.ended()
            finally:
                self._reactor.bury(self)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def interest(self) -> int:
        """What to wait for: reading, writing, or both. Reading is held only while something waits to be written."""
        if self._rest is None:
            return selectors.EVENT_READ
        is_reading = not self._is_held and not self._is_deaf
        return selectors.EVENT_READ | selectors.EVENT_WRITE if is_reading else selectors.EVENT_WRITE


class Reactor:
    """Serves the connections of some listening sockets until cancelled.

    Args:
        listeners: bound, listening, non-blocking TCP sockets; the reactor closes them.
    """

    def __init__(self, runtime: Runtime, service: Service, listeners: Sequence[socket.socket]) -> None:
        self.runtime = runtime
        self.service = service
        self._selector = selectors.DefaultSelector()
        self._fd: int = self._selector.fileno()
        self._listeners = list(listeners)
        self._graves: list[ReactorConnection] = []
        self._is_working = False
        for listener in listeners:
            self._selector.register(listener, selectors.EVENT_READ, self._acceptor(listener))

    async def run(self) -> None:
        """Serve; ends only by cancellation, and then leaves no socket."""
        runtime = self.runtime
        try:
            while True:
                await anyio.wait_readable(self._fd)
                runtime.hold_flush()
                self._is_working = True
                try:
                    await self._work()
                finally:
                    self._is_working = False
                    runtime.release_flush()
        finally:
            self.stop_listening()
            for connection in list(self.service.connections):
                connection.cut()
            self._close_graves()
            anyio.notify_closing(self._fd)
            self._selector.close()

    async def _work(self) -> None:
        """Tick until there is nothing to do."""
        runtime = self.runtime
        since = time.perf_counter()
        while True:
            events = self._selector.select(0)
            if len(events) > EVENTS_A_LOOK:
                for at in range(0, len(events), EVENTS_A_LOOK):
                    if time.perf_counter() - since > YIELD_AFTER_S:
                        await _yield()
                        since = time.perf_counter()
                    self._tick(events[at : at + EVENTS_A_LOOK])
            elif events:
                self._tick(events)
            is_settled = runtime.flush()
            if self._graves:
                self._close_graves()
            if not events and is_settled:
                return
            if time.perf_counter() - since > YIELD_AFTER_S:
                await _yield()
                since = time.perf_counter()

    def _tick(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        pressing = self.runtime.hub.pressing
        holds_back = self.service.application.holds_back
        for key, mask in events:
            connection = key.data
            if not isinstance(connection, ReactorConnection):
                connection()
                continue
            if pressing and mask & selectors.EVENT_READ:
                # Much was taken in: write it before more is read, and nothing more from who floods.
                self.runtime.flush()
                if holds_back(connection):
                    mask &= ~selectors.EVENT_READ
            try:
                if mask & selectors.EVENT_WRITE:
                    connection.on_writable()
                if mask & selectors.EVENT_READ:
                    connection.on_readable()
            except Exception:
                # A fault of ours or the program's is that connection's end, not the server's.
                _log.exception("serving a connection raised; the server goes on")
                try:
                    connection.cut()
                except Exception:
                    _log.exception("and so did its end")

    # -- sockets ------------------------------------------------------------------------------------------------------

    def _acceptor(self, listener: socket.socket) -> Callable[[], None]:
        def accept() -> None:
            for _ in range(ACCEPTS_A_TICK):
                try:
                    sock, address = listener.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    return
                except OSError as error:
                    if error.errno in OUT_OF_DESCRIPTORS:
                        # A listener that stays readable would spin; rest until descriptors may be back.
                        self._selector.unregister(listener)
                        self.service.arm("accept", resume)
                    return
                self._open(sock, address)

        def resume() -> None:
            if listener in self._listeners:
                self._selector.register(listener, selectors.EVENT_READ, accept)

        return accept

    def _open(self, sock: socket.socket, address: object) -> None:
        peer = address[0] if isinstance(address, tuple) else ""
        sock.setblocking(False)
        refusal = self.service.admission(peer)
        if refusal is not None:
            with sock, contextlib.suppress(OSError):
                sock.send(refusal.data, SEND_FLAGS)
            return
        try:
            prepare_socket(sock, self.service.limits.send_buffer_bytes)
            self._selector.register(sock, selectors.EVENT_READ)
        except OSError:  # reset already, or the kernel watches no more
            sock.close()
            return
        self._selector.modify(sock, selectors.EVENT_READ, ReactorConnection(self, sock, peer))

    def watch(self, connection: ReactorConnection) -> None:
        """Wait for what the connection waits for now."""
        if connection.phase is not Phase.GONE:
            self._selector.modify(connection.sock, connection.interest, connection)

    def bury(self, connection: ReactorConnection) -> None:
        """Close its socket after this batch of events, so that its number is not reused within it."""
        self._selector.unregister(connection.sock)
        self._graves.append(connection)
        if not self._is_working:
            self._close_graves()

    def _close_graves(self) -> None:
        for connection in self._graves:
            connection.sock.close()
        self._graves.clear()

    def stop_listening(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(KeyError):  # it rests, for want of descriptors
                self._selector.unregister(listener)
            listener.close()
        self._listeners.clear()


def prepare_socket(sock: socket.socket, send_buffer_bytes: float) -> None:
    """Small frames go at once, and the kernel holds no megabytes for a peer that does not read."""
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(send_buffer_bytes))
