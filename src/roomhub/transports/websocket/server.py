"""A WebSocket server for a runtime: listening sockets, a driver, and a clean end.

    async with Runtime() as runtime, serve(runtime, port=8080) as server:
        print(server.url)
        await anyio.sleep_forever()
"""

import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import anyio
from anyio.abc import ByteStream, SocketListener, SocketStream
from anyio.streams.tls import TLSStream

from roomhub.core.errors import DRAINING
from roomhub.runtime import Runtime
from roomhub.transports.websocket import reactor as reactor_driver
from roomhub.transports.websocket.chat import ChatApplication
from roomhub.transports.websocket.connection import Application, Service
from roomhub.transports.websocket.handshake import Network, Page, Policy, Refusal, Router, chat_route
from roomhub.transports.websocket.pages import health_page, metrics_page
from roomhub.transports.websocket.reactor import OUT_OF_DESCRIPTORS, Reactor
from roomhub.transports.websocket.streams import STREAM_ERRORS, serve_stream

__all__ = ["Driver", "Server", "serve", "serve_application"]

Driver: TypeAlias = Literal["reactor", "streams"]
BACKLOG = 2_048


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
    """
    chosen = choose_driver(driver, uds=uds is not None, tls=tls is not None)
    limits = runtime.limits
    application = ChatApplication(runtime, shares=chosen == "reactor")
    all_pages: dict[str, Callable[[], Page]] = {"/health": lambda: health_page(draining=runtime.hub.draining)}

    def metrics_now() -> Page:
        return metrics_page(runtime.statistics(), service.refusals)

    if metrics and metrics_port is None:
        all_pages["/metrics"] = metrics_now
    all_pages.update(pages or {})
    policy = Policy(
        route=route or chat_route(name_bytes=limits.name_bytes, room_bytes=limits.room_bytes),
        header_bytes=limits.header_bytes,
        max_headers=limits.headers,
        target_bytes=limits.target_bytes,
        allow_origins=frozenset(allow_origins),
        require_origin=require_origin,
        trusted_proxies=networks(trusted_proxies),
        compression=compression,
        pages=all_pages,
    )
    service = Service(application, policy, limits, runtime.clock.now, runtime.reschedule)
    async with serve_application(runtime, service, host=host, port=port, uds=uds, tls=tls, driver=chosen) as server:
        if metrics_port is None:
            yield server
            return
        beside_pages = {"/metrics": metrics_now, "/health": all_pages["/health"]}
        beside_policy = Policy(route=lambda request: Refusal(404, "no such path: there is /metrics"), pages=beside_pages)
        beside = Service(application, beside_policy, limits, runtime.clock.now, runtime.reschedule)
        async with serve_application(runtime, beside, host=host, port=metrics_port, driver=chosen):
            yield server


def choose_driver(driver: Driver | None, *, uds: bool, tls: bool) -> Driver:
    """The driver asked for, or the best that can do it.

    Raises:
        ValueError: the reactor is asked for and cannot serve this.
    """
    if driver == "reactor":
        if tls or uds:
            raise ValueError(f"driver reactor serves plain TCP alone: with {'TLS' if tls else 'a Unix socket'} use streams")
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
    bound_port = 0 if uds is not None else int(sockets[0].getsockname()[1])
    shown = f"[{host}]" if ":" in host else host
    scheme = "ws" if tls is None else "wss"
    url = f"ws+unix://{uds}" if uds is not None else f"{scheme}://{shown}:{bound_port}"
    server = Server(service, url, bound_port)
    unwatch = runtime.watch(service.deadlines, service.expire)
    try:
        async with anyio.create_task_group() as tasks:
            if driver == "reactor":
                reactor = Reactor(runtime, service, sockets)
                stop_listening = reactor.stop_listening
                tasks.start_soon(reactor.run, name="roomhub reactor")
            else:
                accepting = anyio.CancelScope()
                stop_listening = accepting.cancel
                for sock in sockets:
                    listener = await SocketListener.from_socket(sock)
                    tasks.start_soon(_accept_forever, service, listener, tls, accepting, name="roomhub accept")
            try:
                yield server
            finally:
                stop_listening()
                # Shielded: a cancelled server says goodbye too, and it takes no longer than the limit.
                with anyio.CancelScope(shield=True):
                    await _say_goodbye(runtime, service)
                tasks.cancel_scope.cancel()
    finally:
        unwatch()
        for sock in sockets:
            sock.close()
        if uds is not None:
            _remove_socket(uds)


async def _say_goodbye(runtime: Runtime, service: Service) -> None:
    for connection in list(service.connections):
        connection.leave(DRAINING)
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
    service: Service, listener: SocketListener, tls: ssl.SSLContext | None, accepting: anyio.CancelScope
) -> None:
    async def handle(stream: SocketStream) -> None:
        if tls is None:
            await serve_stream(service, stream, secure=False)
            return
        try:
            with anyio.fail_after(service.limits.handshake_timeout_s):
                secured = await TLSStream.wrap(stream, server_side=True, ssl_context=tls, standard_compatible=False)
        except (*STREAM_ERRORS, ssl.SSLError, TimeoutError):
            await anyio.aclose_forcefully(stream)
            return
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        await serve_stream(service, secured, secure=True)

    async with listener, anyio.create_task_group() as connections:
        with accepting:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in OUT_OF_DESCRIPTORS:
                        continue
                    await anyio.sleep(0.1)
                    continue
                connections.start_soon(handle, stream, name="roomhub connection")


async def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            if os.name == "posix":
                # On Windows it would let two programs share a port.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # All addresses of a host share the port, also one that the first was given by the system.
            taken = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            sock.bind((address[0], taken, *address[2:]))
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _unix_socket(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_socket(path)
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_socket(path: str) -> None:
    """What an earlier run left there; never anything but a socket."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
