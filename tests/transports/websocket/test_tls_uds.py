"""TLS, Unix sockets, IPv6, and streams that the program accepted itself."""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from roomhub import Limits, Runtime
from roomhub.testing import ManualClock
from roomhub.transports.websocket import serve
from roomhub.transports.websocket.server import _tcp_sockets
from tests.transports.websocket.support import (
    Driver,
    Peer,
    chat,
    close,
    frame,
    joined,
    left,
    request,
    roster,
    serving,
    text,
    turn,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class TLSPeer:
    """A blocking TLS client, used in threads."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        try:
            self.sock = context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        except BaseException:
            raw.close()
            raise

    def talk(self, data: bytes, until: bytes) -> bytes:
        self.sock.sendall(data)
        seen = b""
        while until not in seen:
            more = self.sock.recv(65_536)
            assert more, seen
            seen += more
        return seen

    def rest(self) -> bytes:
        """What still comes. A stream that ends without close_notify (RFC 8446 section 6.1) raises SSLEOFError."""
        seen = b""
        while more := self.sock.recv(65_536):
            seen += more
        return seen


async def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    with anyio.fail_after(15):
        return await anyio.to_thread.run_sync(function, *arguments)


async def test_tls_serves_the_same_wire(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with serving("streams", tls=server_tls) as world:
        assert world.server.url.startswith("wss://127.0.0.1:")
        peer = await in_thread(TLSPeer, world.server.port, client_tls)
        with peer.sock:
            seen = await in_thread(peer.talk, request() + text("hi"), b'"content":"hi"')
            assert b"101 Switching" in seen
            assert b"user_joined" in seen
            seen = await in_thread(peer.talk, close(1000), b"\x88\x02\x03\xe8")
            assert await in_thread(peer.rest) == b""
        await until(lambda: world.is_quiet)


async def test_a_close_over_tls_arrives_though_the_peer_said_more(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving("streams", tls=server_tls) as world:
        for _ in range(5):
            peer = await in_thread(TLSPeer, world.server.port, client_tls)
            with peer.sock:
                await in_thread(peer.talk, request(), b"user_joined")
                await in_thread(peer.sock.sendall, frame(3) + b"x" * 300_000)
                assert b"\x88" in await in_thread(peer.rest)
        await until(lambda: world.is_quiet)


async def test_a_silent_or_wrong_tls_handshake_ends_and_stops_nobody(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Row 15, and 59: what has not spoken TLS yet counts and is timed too."""
    async with serving("streams", tls=server_tls, limits=Limits(connections_per_address=2)) as world:
        wrong = world.connect()
        await wrong.send(request())
        await wrong.end()
        world.connect().reset()
        silent = [world.connect() for _ in range(4)]
        await until(lambda: world.server._service.live["127.0.0.1"] == 4)
        more = world.connect()
        assert await more.end() == b""
        world.clock.advance(10.1)
        for peer in silent:
            assert await peer.end() == b""
        assert world.server._service.live["127.0.0.1"] == 0
        peer = await in_thread(TLSPeer, world.server.port, client_tls)
        with peer.sock:
            await in_thread(peer.talk, request(), b"user_joined")


async def test_tls_and_the_request_share_one_time(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with serving("streams", tls=server_tls) as world:
        raw = socket.create_connection(("127.0.0.1", world.server.port), timeout=10)
        await until(lambda: world.server._service.live["127.0.0.1"] == 1)
        world.clock.advance(6)
        with await in_thread(lambda: client_tls.wrap_socket(raw, server_hostname="localhost")) as sock:
            await until(lambda: world.server.connections == 1)
            world.clock.advance(3.9)
            await turn()
            assert world.server._service.refusals["http_408"] == 0
            world.clock.advance(0.2)
            await until(lambda: world.server._service.refusals["http_408"] == 1)
            assert (await in_thread(sock.recv, 65_536)).startswith(b"HTTP/1.1 408 ")
        peer = await in_thread(TLSPeer, world.server.port, client_tls)
        with peer.sock:
            await in_thread(peer.talk, request(), b"user_joined")
            world.clock.advance(10.1)  # no concern of an open connection
            await in_thread(peer.talk, text("on"), b'"content":"on"')


async def test_stopping_during_a_tls_handshake_leaves_nothing(server_tls: ssl.SSLContext) -> None:
    async with serving("streams", tls=server_tls) as world:
        silent = world.connect()
        await until(lambda: world.server._service.live["127.0.0.1"] == 1)
        world.peers.clear()
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                assert await silent.end() == b""
                silent.disconnect()

            tasks.start_soon(watch)
            world.clock.advance(10.1)


async def test_a_unix_socket_serves_the_same_wire(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sock")
    clock = ManualClock()
    # What an earlier run left is no obstacle.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    async with serving("streams", clock=clock, uds=path) as world:
        assert world.server.url == f"ws+unix://{path}"
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        peer = Peer(sock)
        world.peers.append(peer)
        await peer.upgrade(request())
        assert await peer.receive() == roster("ann")
        await peer.receive()
        await peer.say("hi")
        assert await peer.receive() == chat("ann", "hi")
        await peer.send(close(1001))
        assert await peer.close_frame() == (1001, "")
        assert await peer.end() == b""
    assert os.listdir(tmp_path) == []


async def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    async with Runtime() as runtime:
        with pytest.raises(OSError, match="in use"):
            async with serve(runtime, uds=str(path)):
                pass
    assert path.read_text() == "data"


async def test_a_unix_socket_that_a_new_server_has_taken_over_is_left_to_it(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sock")
    listening, leave, gone = anyio.Event(), anyio.Event(), anyio.Event()

    async def old_server(runtime: Runtime) -> None:
        async with serve(runtime, uds=path):
            listening.set()
            await leave.wait()
        gone.set()

    async with Runtime() as runtime, anyio.create_task_group() as tasks:
        tasks.start_soon(old_server, runtime)
        await listening.wait()
        os.unlink(path)
        async with serve(runtime, uds=path) as server:
            leave.set()
            await gone.wait()
            async with await anyio.connect_unix(path):
                await until(lambda: server.connections == 1)
    assert os.listdir(tmp_path) == []


async def test_a_kernel_without_ipv6_serves_the_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoIPv6(socket.socket):
        def __init__(self, family: int, *rest: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *rest)

    async def addresses(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return found

    stream = socket.SOCK_STREAM
    found = [(socket.AF_INET6, stream, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, stream, 6, "", ("127.0.0.1", 0))]
    with monkeypatch.context() as patched:
        patched.setattr(anyio, "getaddrinfo", addresses)
        patched.setattr(socket, "socket", NoIPv6)
        [sock] = await _tcp_sockets("localhost", 0)
        with sock:
            assert sock.family == socket.AF_INET
        del found[1]
        with pytest.raises(OSError, match="not supported"):
            await _tcp_sockets("localhost", 0)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
async def test_ipv6_serves_the_same_wire(driver: Driver) -> None:
    async with serving(driver, host="::1") as world:
        assert world.server.url == f"ws://[::1]:{world.server.port}"
        sock = socket.create_connection(("::1", world.server.port))
        peer = Peer(sock)
        world.peers.append(peer)
        await peer.upgrade(request())
        assert await peer.receive() == roster("ann")


async def test_a_name_with_several_addresses_is_served_at_each_that_is_here(driver: Driver) -> None:
    async with serving(driver, host="localhost") as world:
        ann = await world.join("ann")
        if has_ipv6() and any(family == socket.AF_INET6 for family, *_ in socket.getaddrinfo("localhost", 0)):
            with socket.create_connection(("::1", world.server.port)):
                pass
        await ann.say("here")
        assert await ann.receive() == chat("ann", "here")


async def test_a_taken_port_is_an_error_and_leaves_nothing(driver: Driver) -> None:
    async with serving(driver) as world:
        with pytest.raises(OSError, match=f"in use: '127.0.0.1:{world.server.port}'"):
            async with serve(world.runtime, port=world.server.port, driver=driver):
                pass
        with pytest.raises(OSError, match=r"'nowhere\.invalid:80'"):
            async with serve(world.runtime, host="nowhere.invalid", port=80, driver=driver):
                pass
        with pytest.raises(OSError, match="in use"):
            async with serve(world.runtime, port=0, driver=driver, metrics_port=world.server.port):
                pass
        assert len(world.runtime._timers) == 1


def test_a_driver_that_cannot_do_it_is_refused() -> None:
    from roomhub.transports.websocket.server import choose_driver

    for uds, tls in ((True, False), (False, True)):
        with pytest.raises(ValueError, match="streams"):
            choose_driver("reactor", uds=uds, tls=tls)
        assert choose_driver(None, uds=uds, tls=tls) == "streams"
    assert choose_driver(None, uds=False, tls=False) == "reactor"


async def test_the_program_may_accept_streams_itself(driver: Driver) -> None:
    async with serving(driver) as world:
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        world.peers.append(peer)
        async with anyio.create_task_group() as tasks:
            stream = await anyio.abc.UNIXSocketStream.from_socket(ours)
            tasks.start_soon(world.server.handle, stream)
            await peer.upgrade(request())
            await peer.receive_until(joined("ann"))
            bob = await world.join("bob")
            await peer.receive_until(joined("bob"))
            await bob.say("hi")
            assert await peer.receive() == chat("bob", "hi")
            peer.disconnect()
            assert await bob.receive_until(roster("bob")) == [chat("bob", "hi"), left("ann"), roster("bob")]


async def test_runtime_and_server_may_be_one_with_statement(driver: Driver) -> None:
    async with Runtime() as runtime, serve(runtime, port=0, driver=driver) as server:
        assert server.connections == 0
        await turn(2)


async def test_a_unix_socket_that_a_server_listens_at_is_not_taken_from_it(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sock")
    async with Runtime() as runtime, serve(runtime, uds=path):
        with pytest.raises(OSError, match="in use"):
            async with serve(runtime, uds=path):
                pass
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")  # the first one still answers
    with pytest.raises(OSError, match="No such file"):
        await anyio.connect_unix(path)
