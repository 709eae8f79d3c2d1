"""The command line: ``roomhub serve``."""

import argparse
import functools
import logging
import math
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import anyio

from roomhub.core.limits import Limits
from roomhub.runtime import Runtime
from roomhub.transports.websocket.server import choose_driver, networks, serve

__all__ = ["main"]


class UsageError(Exception):
    """A flag, or a pair of flags, that cannot be; its text is one line that says how to mend it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        # One line: the usage before it hides what is wrong.
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 for what the caller can mend, said in one line."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except UsageError as error:
        print(f"roomhub serve: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="roomhub", description="Live chat rooms over WebSockets.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"roomhub {version('roomhub')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    serve_ = commands.add_parser(
        "serve",
        help="serve chat rooms at /ws/{room}?username=",
        description="Serve chat rooms at /ws/{room}?username=, with /health and /metrics beside them.",
        allow_abbrev=False,
    )
    add = serve_.add_argument
    add("--host", help="address to listen at (default 127.0.0.1)")
    add("--port", type=_port, help="TCP port, 0 for a free one (default 8080)")
    add("--uds", metavar="PATH", help="listen at a Unix socket instead")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM: serve wss")
    add("--tls-key", metavar="FILE", help="its private key in PEM")
    add("--backend", choices=("asyncio", "trio"), default="asyncio", help="event loop (default asyncio)")
    add("--uvloop", action="store_true", help="asyncio on uvloop (needs roomhub[uvloop])")
    add("--driver", choices=("reactor", "streams"), help="how sockets are driven (default reactor where it can)")
    add("--compression", choices=("off", "on"), default="off", help="permessage-deflate (default off)")
    add("--allow-origin", action="append", default=[], metavar="ORIGIN", help="allow pages of this origin; * for all")
    add("--require-origin", action="store_true", help="refuse clients that send no Origin")
    add("--trusted-proxy", action="append", default=[], metavar="CIDR", help="believe Forwarded and X-Forwarded-* of it")
    add("--set", action="append", default=[], metavar="LIMIT=VALUE", help="change a limit; inf lifts it")
    add("--metrics-port", type=_port, metavar="PORT", help="serve /metrics there, and not here")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default info)")
    return parser


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {text!r}")
    return port


def _serve(options: argparse.Namespace) -> int:
    limits = _limits(options.set)
    if options.uds is not None and (options.host is not None or options.port is not None):
        raise UsageError("--uds and --host or --port exclude each other: a server listens at one of them")
    if options.uvloop and options.backend == "trio":
        raise UsageError("--uvloop and --backend trio exclude each other: uvloop is an event loop of asyncio")
    for flag, module in (("--uvloop", "uvloop"), ("--backend trio", "trio")):
        wanted = options.uvloop if module == "uvloop" else options.backend == "trio"
        if wanted and find_spec(module) is None:
            raise UsageError(f"{flag} needs {module}: pip install 'roomhub[{module}]'")
    tls = _tls(options.tls_cert, options.tls_key)
    try:
        choose_driver(options.driver, uds=options.uds is not None, tls=tls is not None)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    try:
        networks(options.trusted_proxy)
    except ValueError as error:
        raise UsageError(f"--trusted-proxy: {error}") from None
    for origin in options.allow_origin:
        if origin not in ("*", "null") and "://" not in origin:
            raise UsageError(f"--allow-origin: {origin!r} is no origin; write it as https://example.org")
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _raise_open_file_limit()
    run = functools.partial(_run, options, limits, tls)
    backend_options = {"use_uvloop": True} if options.uvloop else {}
    try:
        anyio.run(run, backend=options.backend, backend_options=backend_options)
    except OSError as error:
        where = options.uds or f"{options.host or '127.0.0.1'}:{8080 if options.port is None else options.port}"
        raise UsageError(f"cannot listen at {where}: {error.strerror or error}") from None
    return 0


async def _run(options: argparse.Namespace, limits: Limits, tls: ssl.SSLContext | None) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            Runtime(limits=limits) as runtime,
            serve(
                runtime,
                host=options.host or "127.0.0.1",
                port=8080 if options.port is None else options.port,
                uds=options.uds,
                tls=tls,
                driver=options.driver,
                compression=options.compression == "on",
                allow_origins=options.allow_origin,
                require_origin=options.require_origin,
                trusted_proxies=options.trusted_proxy,
                metrics_port=options.metrics_port,
            ) as server,
        ):
            print(f"listening on {server.url}", flush=True)
            async for _ in signals:
                break
            await runtime.drain()


def _limits(assignments: Sequence[str]) -> Limits:
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set: {assignment!r} is not LIMIT=VALUE")
        values[name] = value
    try:
        return Limits().override(values)
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None


def _tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise UsageError("--tls-key needs --tls-cert: the certificate that the key belongs to")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for flag, path in (("--tls-cert", cert), ("--tls-key", key)):
        if path is not None and not os.access(path, os.R_OK):
            raise UsageError(f"{flag}: cannot read {path}")
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"--tls-cert, --tls-key: no certificate with its key in {cert} and {key or cert} ({error})") from None
    return context


def _raise_open_file_limit() -> None:
    """Each connection is an open file, and the usual soft limit is 1,024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != math.inf:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            logging.getLogger("roomhub").warning("the open-file limit stays at %d: it cannot be raised to %d", soft, hard)
