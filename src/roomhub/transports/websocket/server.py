"""A WebSocket server for a runtime: listening sockets, a driver, and a clean end.

::

    async with Runtime() as runtime, serve(runtime, port=8080) as server:
        print(server.url)
        await anyio.sleep_forever()
"""

import errno
import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeAlias

import anyio
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream

from roomhub.callbacks import check_plain_function
from roomhub.core.errors import DRAINING
from roomhub.core.json_codec import JsonCodec
from roomhub.runtime import Runtime
from roomhub.transports.websocket import reactor as reactor_driver
from roomhub.transports.websocket.chat import ChatApplication
from roomhub.transports.websocket.connection import Connection, Phase, Service, Timer
from roomhub.transports.websocket.handshake import Network, Page, Policy, Refusal, Router, chat_route
from roomhub.transports.websocket.pages import health_page, metrics_page
from roomhub.transports.websocket.reactor import OUT_OF_DESCRIPTORS, Reactor
from roomhub.transports.websocket.streams import STREAM_ERRORS, peer_address, serve_stream

__all__ = ["Driver", "Server", "serve", "serve_application"]

Driver: TypeAlias = Literal["reactor", "streams"]
BACKLOG = 2_048

_log = logging.getLogger("roomhub")


class Server:
    """A running server.

    Attributes:
        port: the TCP port, 0 for a Unix socket.
        url: where clients connect, ``ws://host:port``; for a Unix socket ``ws+unix://path``.
    """

    def __init__(self, service: Service, url: str, port: int) -> None:
        self._service = service
        self.url = url
        self.port = port

    @property
    def connections(self) -> int:
        """How many connections there are, those in their handshake or their close too."""
        return len(self._service.connections)

    async def handle(self, stream: ByteStream, *, secure: bool = False) -> None:
        """Serve one byte stream that the program accepted itself, until it ends; closes it."""
        await serve_stream(self._service, stream, secure=secure)


@asynccontextmanager
async def serve(
    runtime: Runtime,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    uds: str | None = None,
    tls: ssl.SSLContext | None = None,
    driver: Driver | None = None,
    compression: bool = False,
    allow_origins: Collection[str] = (),
    require_origin: bool = False,
    trusted_proxies: Sequence[str] = (),
    route: Router | None = None,
    pages: Mapping[str, Callable[[], Page]] | None = None,
    metrics: bool = True,
    metrics_port: int | None = None,
) -> AsyncIterator[Server]:
    """Serve the chat at ``/ws/{room}?username=``, with ``/health`` and ``/metrics`` beside it.

    Args:
        host, port: where to listen; port 0 takes a free one.
        uds: a Unix socket's path to listen at instead.
        tls: serve ``wss``; means the ``streams`` driver.
        driver: ``"reactor"`` for plain TCP on POSIX (the default there), ``"streams"`` for everything.
        compression: let clients have permessage-deflate.
        allow_origins: web origins allowed beside the server's own; ``"*"`` for all.
        require_origin: refuse clients without an Origin.
        trusted_proxies: networks (CIDR) whose ``Forwarded`` and ``X-Forwarded-*`` are believed. The peer of a Unix
            socket counts as 127.0.0.1.
        route: which path is which room and user; ``chat_route`` by default.
        pages: further pages by path.
        metrics: serve ``/metrics`` here.
        metrics_port: serve ``/metrics`` on this port of ``host``, and not here.

    On leaving, clients are closed with 1012; who ignores it is cut after ``close_timeout_s``.

    Raises:
        OSError: the address cannot be listened at.
        ValueError: settings that exclude each other.
        TypeError: ``route`` or a page is no plain function.
    """
    chosen = choose_driver(driver, uds=uds is not None, tls=tls is not None)
    limits = runtime.limits
    if route is not None:
        check_plain_function("route(request)", route)
    for path, page in (pages or {}).items():
        check_plain_function(f"the page {path}", page)
    application = ChatApplication(runtime)
    all_pages: dict[str, Callable[[], Page]] = {
        "/health": lambda: health_page(draining=runtime.hub.draining or service.is_stopping)
    }

    def metrics_now() -> Page:
        return metrics_page(runtime.statistics(), service.refusals, service.failures)

    if metrics and metrics_port is None:
        all_pages["/metrics"] = metrics_now
    all_pages.update(pages or {})
    policy = Policy(
        route=route
        or chat_route(
            name_bytes=limits.name_bytes, room_rule=runtime.hub.room_rule, needs_username=not runtime.authenticates
        ),
        header_bytes=limits.header_bytes,
        max_headers=limits.headers,
        target_bytes=limits.target_bytes,
        allow_origins=frozenset(allow_origins),
        require_origin=require_origin,
        trusted_proxies=networks(trusted_proxies),
        compression=compression,
        subprotocols=(JsonCodec.name,),
        pages=all_pages,
    )
    service = Service(application, policy, limits, runtime.clock.now, runtime.reschedule)
    async with serve_application(runtime, service, host=host, port=port, uds=uds, tls=tls, driver=chosen) as server:
        if metrics_port is None:
            yield server
            return
        beside_pages = {"/metrics": metrics_now, "/health": all_pages["/health"]}
        beside_policy = Policy(
            route=lambda request: Refusal(404, "no such path: there are /metrics and /health"),
            header_bytes=limits.header_bytes,
            max_headers=limits.headers,
            target_bytes=limits.target_bytes,
            pages=beside_pages,
        )
        beside = Service(application, beside_policy, limits, runtime.clock.now, runtime.reschedule)
        beside.refusals = service.refusals
        beside.failures = service.failures
        async with serve_application(runtime, beside, host=host, port=metrics_port, driver=chosen):
            yield server


def choose_driver(driver: Driver | None, *, uds: bool, tls: bool) -> Driver:
    """The driver asked for, or the best that can do it.

    Raises:
        ValueError: the reactor is asked for and cannot serve this.
    """
    if driver == "reactor":
        if tls or uds:
            raise ValueError(
                f"driver reactor serves plain TCP alone: with {'TLS' if tls else 'a Unix socket'} use streams"
            )
        if not reactor_driver.is_available():
            raise ValueError("driver reactor needs a selector with a descriptor, as POSIX systems have: use streams")
        return "reactor"
    if driver is None and not tls and not uds and reactor_driver.is_available():
        return "reactor"
    return "streams"


def networks(cidrs: Sequence[str]) -> tuple[Network, ...]:
    """Networks from text such as ``10.0.0.0/8`` or ``::1``.

    Raises:
        ValueError: text that is no network; the message names it.
    """
    return tuple(ipaddress.ip_network(cidr) for cidr in cidrs)


@asynccontextmanager
async def serve_application(
    runtime: Runtime,
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    uds: str | None = None,
    tls: ssl.SSLContext | None = None,
    driver: Driver,
) -> AsyncIterator[Server]:
    """Serve any ``Application`` with a driver; what ``serve`` and the echo server are made of."""
    sockets = [_unix_socket(uds)] if uds is not None else await _tcp_sockets(host, port)
    identity = None if uds is None else _socket_identity(uds)
    bound_port = 0 if uds is not None else int(sockets[0].getsockname()[1])
    shown = f"[{host}]" if ":" in host else host
    scheme = "ws" if tls is None else "wss"
    url = f"ws+unix://{uds}" if uds is not None else f"{scheme}://{shown}:{bound_port}"
    server = Server(service, url, bound_port)
    unwatch = runtime.watch(service.deadlines, service.expire)
    # Shielded: a cancelled server says goodbye too, and it takes no longer than the limit.
    driving = anyio.CancelScope(shield=True)

    async def drive_reactor(reactor: Reactor) -> None:
        with driving:
            await reactor.run()

    async def drive_streams(listeners: Sequence[socket.socket], accepting: anyio.CancelScope) -> None:
        with driving:
            async with anyio.create_task_group() as accepts:
                for listener in listeners:
                    accepts.start_soon(_accept_forever, service, listener, tls, accepting, name="roomhub accept")

    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            if driver == "reactor":
                reactor = Reactor(runtime, service, sockets)
                stop_listening = reactor.stop_listening
                tasks.start_soon(drive_reactor, reactor, name="roomhub reactor")
            else:
                accepting = anyio.CancelScope()
                stop_listening = accepting.cancel
                tasks.start_soon(drive_streams, sockets, accepting, name="roomhub streams")
            try:
                yield server
                stop_listening()
                await _give_notice(runtime, service)
            except BaseException as error:
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                # Passes by the task group, which would wrap it into an ExceptionGroup.
                raised = error
            finally:
                stop_listening()
                with anyio.CancelScope(shield=True):
                    await _say_goodbye(runtime, service)
                driving.cancel()
        if raised is not None:
            raise raised
    finally:
        unwatch()
        for sock in sockets:
            sock.close()
        if uds is not None:
            # A server that took our place while our clients were leaving keeps it.
            _remove_socket(uds, identity)


async def _give_notice(runtime: Runtime, service: Service) -> None:
    """Tell clients some time before that this server ends, unless all of them leave sooner."""
    notice_s = service.limits.drain_notice_s
    leaving = [connection for connection in service.connections if connection.phase is Phase.OPEN]
    if not notice_s or not leaving:
        return
    service.application.warn(leaving, notice_s)
    async with anyio.create_task_group() as waiting:

        async def end() -> None:
            await runtime.clock.sleep_until(runtime.clock.now() + notice_s)
            waiting.cancel_scope.cancel()

        waiting.start_soon(end)
        while service.connections:
            await service.next_end()
        waiting.cancel_scope.cancel()


async def _say_goodbye(runtime: Runtime, service: Service) -> None:
    service.is_stopping = True  # for whoever is still opening: a TLS handshake, a stream of the program's
    service.application.dismiss(
        [connection for connection in service.connections if connection.phase is Phase.OPEN], DRAINING
    )
    for connection in list(service.connections):
        if connection.phase is Phase.HANDSHAKE or connection.phase is Phase.WAITING:
            connection.cut()
    if not service.connections:
        return
    deadline = runtime.clock.now() + service.limits.close_timeout_s
    async with anyio.create_task_group() as waiting:

        async def cut() -> None:
            await runtime.clock.sleep_until(deadline)
            for connection in list(service.connections):
                connection.cut()

        waiting.start_soon(cut)
        while service.connections:
            await service.next_end()
        waiting.cancel_scope.cancel()


async def _accept_forever(
    service: Service, listener: socket.socket, tls: ssl.SSLContext | None, accepting: anyio.CancelScope
) -> None:
    async def handle(sock: socket.socket) -> None:
        try:
            stream = await SocketStream.from_socket(sock)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError | ValueError):
                return  # reset already
            raise
        try:
            if tls is None:
                await serve_stream(service, stream, secure=False)
                return
            opening = _TLSOpening()
            try:
                secured = await secure_stream(service, stream, tls, opening)
                if secured is not None:
                    await serve_stream(service, secured, secure=True, started=opening.go_on)
            finally:
                service.deadlines.cancel("handshake", opening)
        except Exception:
            # A fault of ours is that connection's end, not the server's.
            _log.exception("serving a connection raised; the server goes on")
        finally:
            await anyio.aclose_forcefully(stream)

    # The listener closes before the connections end: nobody shall wait in its queue for a server that is leaving.
    async with anyio.create_task_group() as connections:
        with accepting, listener:
            while True:
                # Not a listener of anyio's: on asyncio a connection that comes as its accept is cancelled is lost.
                await anyio.wait_readable(listener)
                try:
                    sock, _ = listener.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    if error.errno in OUT_OF_DESCRIPTORS:
                        await _rest(service)
                    continue
                connections.start_soon(handle, sock, name="roomhub connection")


async def _rest(service: Service) -> None:
    """Accept nobody for the ``accept`` deadline's time: the listener would be readable again at once."""
    over = anyio.Event()
    wake = over.set
    service.arm("accept", wake)
    try:
        await over.wait()
    finally:
        service.deadlines.cancel("accept", wake)


class _TLSOpening:
    """What the deadlines know of a connection before there is a ``Connection``.

    There is one ``handshake_timeout_s`` for TLS and the request together.
    """

    def __init__(self) -> None:
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self._connection: Connection | None = None

    def go_on(self, connection: Connection) -> None:
        self._connection = connection

    def timed_out(self, kind: Timer) -> None:
        if self._connection is None:
            self.scope.cancel()
        elif self._connection.phase is Phase.HANDSHAKE:
            self._connection.timed_out(kind)


async def secure_stream(
    service: Service, stream: SocketStream, tls: ssl.SSLContext, opening: _TLSOpening
) -> TLSStream | None:
    """The stream with TLS on it; None if that failed, or took over ``handshake_timeout_s``, or too many are at it.

    Refused without a word: an HTTP answer would be noise to a peer that waits for TLS.
    """
    peer = peer_address(service, stream)
    if service.admission(peer) is not None:
        return None
    service.hold(peer)
    service.arm("handshake", opening)
    try:
        with opening.scope:
            return await TLSStream.wrap(stream, server_side=True, ssl_context=tls, standard_compatible=False)
        service.refusals["http_408"] += 1
    except STREAM_ERRORS:  # ssl.SSLError is an OSError
        pass
    finally:
        service.release(peer)
    return None


async def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    try:
        return await _listening(host, port)
    except OSError as error:
        error.filename = f"{host}:{port}"  # which neither the system nor the resolver names
        raise


async def _listening(host: str, port: int) -> list[socket.socket]:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                # A kernel without IPv6: the others will do.
                if error.errno != errno.EAFNOSUPPORT or len(found) == 1:
                    raise
                refused = error
                continue
            sockets.append(sock)
            if os.name == "posix":
                # On Windows it would let two programs share a port.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # All addresses of a host share the port, also one that the first was given by the system.
            taken = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            try:
                sock.bind((address[0], taken, *address[2:]))
            except OSError as error:
                # "localhost" may name ::1 on a machine without IPv6: the others will do.
                if error.errno != errno.EADDRNOTAVAIL or len(found) == 1:
                    raise
                sockets.remove(sock)
                sock.close()
                refused = error
                continue
            sock.listen(BACKLOG)
            sock.setblocking(False)
        if not sockets and refused is not None:
            raise refused
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _unix_socket(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_served(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        _remove_socket(path, _socket_identity(path))  # what an earlier run left there
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_served(path: str) -> bool:
    """Whether a server listens at this Unix socket: taking its name away would cut it off unnoticed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
        return True


def _socket_identity(path: str) -> tuple[int, int, int] | None:
    """What tells the socket at this path from any other; None if there is no socket."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    # The time too: the number of an inode is soon reused.
    return (found.st_dev, found.st_ino, found.st_mtime_ns) if stat.S_ISSOCK(found.st_mode) else None


def _remove_socket(path: str, identity: tuple[int, int, int] | None) -> None:
    """Remove the socket of this identity; never anything else."""
    if identity is not None and _socket_identity(path) == identity:
        with suppress(FileNotFoundError):
            os.unlink(path)
