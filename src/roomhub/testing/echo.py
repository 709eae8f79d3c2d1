"""An echo server on roomhub's own handshake, frames and drivers, for suites that test RFC 6455 and RFC 7692.

    python -m roomhub.testing.echo --port 9001 --driver streams --backend trio --compression on

Text comes back as text, binary as binary, each in one frame. A message may come in any number of fragments and take
any time. While much of what a peer was sent waits unread, nothing more is read from it.
"""

import argparse
import functools
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from math import inf
from typing import Final

import anyio

from roomhub.cli import OneLineParser, UsageError, event_loop_options
from roomhub.core.codec import Chunk
from roomhub.core.errors import CloseReason
from roomhub.core.limits import Limits
from roomhub.runtime import Runtime
from roomhub.transports.websocket.connection import Connection, Service
from roomhub.transports.websocket.deflate import Deflated
from roomhub.transports.websocket.frames import FrameLimits, binary_frame, text_frame
from roomhub.transports.websocket.handshake import Policy, Route, Upgrade
from roomhub.transports.websocket.server import Driver, Server, choose_driver, serve_application

__all__ = ["EchoApplication", "main", "serve_echo"]

MESSAGE_BYTES: Final = 64 * 1024 * 1024
WAITING_BYTES: Final = 1024 * 1024
"""Past so many bytes of echoes that wait to be written, a connection is not read from until all are."""


class EchoApplication:
    """Connections that get back what they send.

    Args:
        message_bytes: the longest message, after inflating; past it 1009.
        waiting_bytes: how much may wait to be written before reading is held. What one read completes is always
            answered, so one read's messages can come on top.
    """

    def __init__(self, *, message_bytes: float = MESSAGE_BYTES, waiting_bytes: int = WAITING_BYTES) -> None:
        self._frame_limits = FrameLimits(message_bytes, inf, binary=True)
        self._waiting_bytes = waiting_bytes
        self._echoes: dict[Connection, _Echo] = {}

    def frame_limits(self, upgrade: Upgrade) -> FrameLimits:
        return self._frame_limits

    def refusal(self, address: str) -> CloseReason | None:
        return None

    def admits(self, connection: Connection, upgrade: Upgrade) -> bool:
        return True

    def withdrawn(self, connection: Connection) -> None: ...

    def opened(self, connection: Connection, upgrade: Upgrade) -> None:
        deflate = upgrade.deflate
        self._echoes[connection] = _Echo(None if deflate is None else _deflated(deflate.server_max_window_bits))

    def received(self, connection: Connection, message: str | bytes) -> None:
        echo = self._echoes[connection]
        if not connection.is_blocked:
            echo.waiting_bytes = 0
        frame = echo.frame(message)
        connection.send(frame)
        # Counted from when nothing waited, so what was written since counts too: reading is held a little early.
        echo.waiting_bytes += len(frame)
        if echo.waiting_bytes > self._waiting_bytes:
            connection.hold_reading()

    def heard(self, connection: Connection) -> None: ...

    def pinged(self, connection: Connection) -> CloseReason | None:
        return None

    def warn(self, connections: Sequence[Connection], in_s: float) -> None: ...

    def dismiss(self, connections: Sequence[Connection], reason: CloseReason) -> None:
        for connection in connections:
            connection.close(reason)

    def blocked(self, connection: Connection) -> None: ...

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None:
        del self._echoes[connection]

    def pull(self, connection: Connection) -> Chunk:
        return b""  # echoes are sent at once, in the order of what they answer

    def holds_back(self, connection: Connection) -> bool:
        return False

    async def flushed(self) -> None: ...


class _Echo:
    """How one connection is answered, and how much of the answers waits."""

    __slots__ = ("_deflated", "waiting_bytes")

    def __init__(self, deflated: Deflated | None) -> None:
        self._deflated = deflated
        self.waiting_bytes = 0

    def frame(self, message: str | bytes) -> bytes:
        if self._deflated is None:
            return text_frame(message) if isinstance(message, str) else binary_frame(message)
        if isinstance(message, str):
            return self._deflated.frame(message)
        return self._deflated.binary_frame(message)


@cache
def _deflated(window_bits: int) -> Deflated:
    return Deflated(window_bits)


@asynccontextmanager
async def serve_echo(
    runtime: Runtime,
    application: EchoApplication | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    driver: Driver | None = None,
    compression: bool = False,
) -> AsyncIterator[Server]:
    """Serve the echo at every path, to every origin. The hub of the runtime stays empty: give it a clock and limits.

    Raises:
        OSError: the address cannot be listened at.
        ValueError: this platform cannot do the driver.
    """
    chosen = choose_driver(driver, uds=False, tls=False)
    policy = Policy(
        route=lambda request: Route(),
        allow_origins=frozenset({"*"}),
        compression=compression,
        least_window_bits=9,
    )
    service = Service(application or EchoApplication(), policy, runtime.limits, runtime.clock.now, runtime.reschedule)
    async with serve_application(runtime, service, host=host, port=port, driver=chosen) as server:
        yield server


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns 0. What the caller can mend is said in one line, and exits with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        backend_options = event_loop_options(options)
    except UsageError as error:
        parser.error(str(error))
    try:
        choose_driver(options.driver, uds=False, tls=False)
    except ValueError as error:
        parser.error(f"--{error}")
    run = functools.partial(_run, options)
    try:
        anyio.run(run, backend=options.backend, backend_options=backend_options)
    except OSError as error:
        parser.error(f"cannot listen at {options.host}:{options.port}: {error.strerror or error}")
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m roomhub.testing.echo",
        description="Send back what comes in, for suites that test WebSocket servers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    add("--port", type=_number(0, 65_535), default=9001, help="TCP port, 0 for a free one (default 9001)")
    add("--driver", choices=("reactor", "streams"), help="how sockets are driven (default reactor where it can)")
    add("--backend", choices=("asyncio", "trio"), default="asyncio", help="event loop (default asyncio)")
    add("--uvloop", action="store_true", help="asyncio on uvloop (needs roomhub[uvloop])")
    add(
        "--max-message-bytes",
        type=_number(1, sys.maxsize),
        default=MESSAGE_BYTES,
        metavar="N",
        help="a longer message closes with 1009 (default %(default)s)",
    )
    add("--compression", choices=("off", "on"), default="off", help="permessage-deflate (default off)")
    return parser


def _number(least: int, most: int) -> "functools.partial[int]":
    return functools.partial(_parse_number, least, most)


def _parse_number(least: int, most: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"must be a number from {least} to {most}, not {text!r}")
    return number


async def _run(options: argparse.Namespace) -> None:
    # A suite may cut a message into any number of pieces and send them as slowly as it likes.
    limits = Limits(message_timeout_s=inf, connections_per_address=inf)
    application = EchoApplication(message_bytes=options.max_message_bytes)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            Runtime(limits=limits) as runtime,
            serve_echo(
                runtime,
                application,
                host=options.host,
                port=options.port,
                driver=options.driver,
                compression=options.compression == "on",
            ) as server,
        ):
            print(f"listening on {server.url}", flush=True)
            async for _ in signals:
                break


if __name__ == "__main__":
    sys.exit(main())
