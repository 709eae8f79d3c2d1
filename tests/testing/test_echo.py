"""The echo server, through real sockets: what a conformance suite finds, and what none asks, backpressure above all."""

import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest

from roomhub import Runtime
from roomhub.testing import ManualClock
from roomhub.testing.echo import EchoApplication, main, serve_echo
from roomhub.transports.websocket.connection import Connection
from roomhub.transports.websocket.server import Driver, Server
from tests.transports.websocket.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close,
    close_of,
    frame,
    request,
    text,
    turn,
    until,
)

KIB = 1024
SMALL_BUFFER_BYTES = 4 * KIB
RSV1 = 4

both_drivers = pytest.mark.parametrize("driver", ["reactor", "streams"])


class CountingEcho(EchoApplication):
    """An echo that tells how far it has come."""

    def __init__(self, *, waiting_bytes: int) -> None:
        super().__init__(waiting_bytes=waiting_bytes)
        self.pings = 0
        self.received_bytes = 0

    def pinged(self, connection: Connection) -> None:
        self.pings += 1

    def received(self, connection: Connection, message: str | bytes) -> None:
        self.received_bytes += len(message)
        super().received(connection, message)


@asynccontextmanager
async def echoing(
    driver: Driver,
    application: EchoApplication | None = None,
    *,
    clock: ManualClock | None = None,
    compression: bool = False,
) -> AsyncIterator[Server]:
    async with (
        Runtime(clock=clock or ManualClock()) as runtime,
        serve_echo(runtime, application, driver=driver, compression=compression) as server,
    ):
        yield server
    assert server.connections == 0


@asynccontextmanager
async def connected(server: Server, *lines: str, slow: bool = False) -> AsyncIterator[Peer]:
    """An open connection; a slow one has so small a buffer that what it does not read soon waits at the server."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        sock.connect(("127.0.0.1", server.port))
        peer = Peer(sock)
        await peer.upgrade(request("/any/path", lines=lines))
        yield peer
    await until(lambda: server.connections == 0)


def pings(*numbers: int) -> bytes:
    return b"".join(frame(PING, b"%d" % number) for number in numbers)


async def pong_numbers(peer: Peer, count: int) -> list[int]:
    frames = [await peer.frame() for _ in range(count)]
    assert {pong.opcode for pong in frames} == {PONG}
    return [int(pong.payload) for pong in frames]


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@both_drivers
async def test_text_comes_back_as_text_and_binary_as_binary(driver: Driver) -> None:
    async with echoing(driver) as server, connected(server) as peer:
        for opcode, payload in (
            (TEXT, b""),
            (TEXT, "grüße \U0001f600".encode()),
            (BINARY, b""),
            (BINARY, bytes(range(256))),
            (BINARY, b"x" * 70_000),
        ):
            await peer.send(frame(opcode, payload))
            assert await peer.frame() == Frame(opcode, payload)


@pytest.mark.anyio
@both_drivers
async def test_any_number_of_fragments_come_back_as_one_frame_and_pings_between_them_are_answered(
    driver: Driver,
) -> None:
    async with echoing(driver) as server, connected(server) as peer:
        await peer.send(frame(TEXT, b"a", fin=False))
        await peer.send(frame(CONTINUATION, b"b", fin=False) * 5_000 + pings(7))
        assert await pong_numbers(peer, 1) == [7]
        await peer.send(frame(CONTINUATION, b"c"))
        assert await peer.frame() == Frame(TEXT, b"a" + b"b" * 5_000 + b"c")


@pytest.mark.anyio
@both_drivers
async def test_message_of_megabytes_comes_back(driver: Driver) -> None:
    payload = b"0123456789abcdef" * (128 * KIB)
    async with echoing(driver) as server, connected(server) as peer:
        # With a mask of zeros the payload stands as it is.
        await peer.send(b"\x82\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload)
        assert await peer.frame() == Frame(BINARY, payload)


@pytest.mark.anyio
@both_drivers
async def test_message_over_the_limit_closes_with_1009(driver: Driver) -> None:
    async with echoing(driver, EchoApplication(message_bytes=1_000)) as server:
        async with connected(server) as peer:
            await peer.send(text("x" * 1_000))
            assert await peer.frame() == Frame(TEXT, b"x" * 1_000)
            await peer.send(text("x" * 1_001))
            assert (await peer.closed())[0] == 1009
        async with connected(server) as peer:
            await peer.send(frame(BINARY, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 600))
            assert (await peer.closed())[0] == 1009


# -- permessage-deflate -----------------------------------------------------------------------------------------------


@pytest.mark.anyio
@both_drivers
@pytest.mark.parametrize("window_bits", [9, 12, 15])
async def test_compressed_messages_come_back_compressed(driver: Driver, window_bits: int) -> None:
    offer = f"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={window_bits}"
    agreed = min(window_bits, 12)
    async with echoing(driver, compression=True) as server, connected(server, offer) as peer:
        for opcode, payload in ((TEXT, "ärger und freude ".encode() * 1_000), (BINARY, bytes(range(100)) * 200)) * 2:
            compressor = zlib.compressobj(wbits=-15)
            data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
            await peer.send(frame(opcode, data[:-4], rsv=RSV1))
            echo = await peer.frame()
            assert (echo.opcode, echo.rsv1) == (opcode, True)
            # Each message stands alone, and refers back no further than was agreed.
            inflater = zlib.decompressobj(wbits=-agreed)
            assert inflater.decompress(echo.payload + b"\x00\x00\xff\xff") == payload
        # What does not get shorter goes as it is.
        for opcode, payload in ((TEXT, b"short"), (BINARY, os.urandom(1_000))):
            await peer.send(frame(opcode, payload))
            assert await peer.frame() == Frame(opcode, payload)


@pytest.mark.anyio
@both_drivers
async def test_without_compression_a_compressed_frame_is_a_protocol_error(driver: Driver) -> None:
    async with echoing(driver) as server, connected(server, "Sec-WebSocket-Extensions: permessage-deflate") as peer:
        await peer.send(frame(TEXT, b"\x00", rsv=RSV1))
        assert (await peer.closed())[0] == 1002


# -- control frames ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@both_drivers
async def test_pings_are_answered_one_by_one(driver: Driver) -> None:
    async with echoing(driver) as server, connected(server) as peer:
        await peer.send(pings(*range(16)))
        assert await pong_numbers(peer, 16) == list(range(16))
        await peer.send(frame(PONG, b"unasked") + pings(99))
        assert await pong_numbers(peer, 1) == [99]


@pytest.mark.anyio
@both_drivers
async def test_pongs_become_the_newest_alone_only_where_sixteen_wait(driver: Driver) -> None:
    large = b"x" * 512 * KIB
    application = CountingEcho(waiting_bytes=1024 * KIB)
    async with echoing(driver, application) as server, connected(server, slow=True) as peer:
        # The large echo does not fit into the buffers, so everything after it waits.
        await peer.send(frame(BINARY, large) + pings(*range(16)))
        await until(lambda: application.pings == 16)
        assert await peer.frame() == Frame(BINARY, large)
        assert await pong_numbers(peer, 16) == list(range(16))

        await peer.send(frame(BINARY, large) + pings(*range(20)) + text("between") + pings(*range(20, 40)))
        await until(lambda: application.pings == 56)
        assert await peer.frame() == Frame(BINARY, large)
        assert await peer.frame() == Frame(TEXT, b"between")
        # The pings 16 and 32 found sixteen pongs waiting.
        assert await pong_numbers(peer, 8) == list(range(32, 40))

        # And what has been written does not count any more.
        await peer.send(pings(*range(10)))
        assert await pong_numbers(peer, 10) == list(range(10))


@pytest.mark.anyio
@both_drivers
async def test_close_codes_come_back_and_those_that_may_not_be_sent_are_a_protocol_error(driver: Driver) -> None:
    async with echoing(driver) as server:
        for code in (None, 1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999):
            async with connected(server) as peer:
                await peer.send(text("last words") + close(code))
                assert await peer.frame() == Frame(TEXT, b"last words")
                assert close_of(await peer.frame()) == (code, "")
                assert await peer.end() == b""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535):
            async with connected(server) as peer:
                await peer.send(close(code))
                assert (await peer.closed())[0] == 1002


# -- backpressure -----------------------------------------------------------------------------------------------------

WAITING_BYTES = 128 * KIB
MESSAGE = b"m" * 8 * KIB
MESSAGES = 256  # two megabytes, more than the buffers of both sides


async def flood(peer: Peer) -> None:
    await peer.send(frame(BINARY, MESSAGE) * MESSAGES)


@asynccontextmanager
async def flooding(server: Server, application: CountingEcho) -> AsyncIterator[Peer]:
    """A peer that sends and does not read, when the server has stopped reading from it."""
    async with connected(server, slow=True) as peer, anyio.create_task_group() as tasks:
        tasks.start_soon(flood, peer)
        await until(lambda: application.received_bytes > WAITING_BYTES)
        yield peer
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@both_drivers
async def test_who_does_not_read_is_not_read_from_and_loses_nothing(driver: Driver) -> None:
    application = CountingEcho(waiting_bytes=WAITING_BYTES)
    async with echoing(driver, application) as server, flooding(server, application) as peer:
        await turn(100)
        # What was counted, what the kernel took before, and what the last read completed.
        assert application.received_bytes <= WAITING_BYTES + 3 * 64 * KIB
        async with connected_beside(server) as other:
            await other.send(text("nobody else waits"))
            assert await other.frame() == Frame(TEXT, b"nobody else waits")
        for _ in range(MESSAGES):
            assert await peer.frame() == Frame(BINARY, MESSAGE)
        await peer.send(text("on it goes"))
        assert await peer.frame() == Frame(TEXT, b"on it goes")


@asynccontextmanager
async def connected_beside(server: Server) -> AsyncIterator[Peer]:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        peer = Peer(sock)
        await peer.upgrade(request("/"))
        yield peer


@pytest.mark.anyio
@both_drivers
async def test_who_vanishes_while_not_read_from_is_noticed(driver: Driver) -> None:
    application = CountingEcho(waiting_bytes=WAITING_BYTES)
    async with echoing(driver, application) as server:
        async with flooding(server, application):
            pass  # its socket closes with much unread, so the server gets an RST
        assert server.connections == 0


@pytest.mark.anyio
@both_drivers
async def test_who_does_not_read_keeps_no_server_from_stopping(driver: Driver) -> None:
    clock = ManualClock()
    application = CountingEcho(waiting_bytes=WAITING_BYTES)
    stop, stopped = anyio.Event(), anyio.Event()
    servers: list[Server] = []

    async def serve() -> None:
        async with echoing(driver, application, clock=clock) as server:
            servers.append(server)
            await stop.wait()
        stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await until(lambda: servers)
        async with flooding(servers[0], application):
            stop.set()
            await turn()
            assert not stopped.is_set()
            clock.advance(5)  # close_timeout_s
            await until(stopped.is_set)


# -- the command ------------------------------------------------------------------------------------------------------


@contextmanager
def running(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The command and its port."""
    command = [sys.executable, "-W", "error", "-m", "roomhub.testing.echo", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:2] == ["listening", "on"], process.communicate()
            yield process, int(words[2].removeprefix("ws://127.0.0.1:"))
        finally:
            process.kill()


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize(
    "backend", [("--backend", "asyncio"), ("--uvloop",), ("--backend", "trio")], ids=lambda b: b[-1]
)
@pytest.mark.parametrize(
    ("driver", "compression", "number"), [("reactor", "off", signal.SIGTERM), ("streams", "on", signal.SIGINT)]
)
def test_signal_closes_connections_and_exits_with_0(
    driver: str, compression: str, number: signal.Signals, backend: tuple[str, ...]
) -> None:
    with running("--driver", driver, "--compression", compression, "--max-message-bytes", "10", *backend) as (
        process,
        port,
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(request("/", lines=["Sec-WebSocket-Extensions: permessage-deflate"]))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            assert (b"permessage-deflate" in head) is (compression == "on")
            sock.sendall(text("0123456789"))
            assert receive_exactly(sock, 12) == b"\x81\x0a0123456789"
            process.send_signal(number)
            first, length = receive_exactly(sock, 2)
            assert first == 0x80 | CLOSE
            assert receive_exactly(sock, length)[:2] == (1012).to_bytes(2, "big")
            sock.sendall(close(1012))
            assert sock.recv(1) == b""
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, out, errors) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "http"], "'http'"),
        (["--port", "65536"], "65535"),
        (["--max-message-bytes", "0"], "--max-message-bytes"),
        (["--driver", "bus"], "'bus'"),
        (["--backend", "curio"], "'curio'"),
        (["--compression", "maybe"], "'maybe'"),
        (["--comp", "on"], "--comp"),
        (["--uvloop", "--backend", "trio"], "--uvloop and --backend trio"),
        (["--host", "192.0.2.1"], "192.0.2.1:9001"),
    ],
)
def test_bad_flags_are_said_in_one_line_and_exit_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert said in errors


@both_drivers
def test_taken_port_is_said_in_one_line_and_exits_with_2(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as exit_:
            main(["--port", str(port), "--driver", driver])
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in errors
