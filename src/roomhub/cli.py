"""The command line: ``roomhub serve``, ``chat``, ``mod`` and ``token``."""

import argparse
import errno
import functools
import gc
import logging
import math
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Final, NoReturn

import anyio

from roomhub.core.limits import FIELD_NAMES, Limits
from roomhub.core.storage import StoreError
from roomhub.ports import Authenticator, HistoryStore
from roomhub.runtime import Runtime
from roomhub.terminal import command
from roomhub.transports.websocket.server import choose_driver, networks, serve

__all__ = ["main"]

_log = logging.getLogger("roomhub")

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080
GC_THRESHOLD: Final = 50_000
"""How many new objects make the collector look. A server's objects live long, and what dies with a connection dies by
reference count; at the default of 700 each look is work for nothing."""
ALGORITHMS: Final = ("HS256", "RS256", "EdDSA", "Ed25519")
"""Those of ``roomhub.jwt``, which is not there without its extra."""


class UsageError(Exception):
    """A flag, or a pair of flags, that cannot be; its text is one line that says how to mend it."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line: the usage before it would hide it."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 where a server failed or refused, 2 for what one line can mend."""
    options = _parser().parse_args(arguments)
    try:
        return {"serve": _serve, "chat": _client, "mod": _client, "token": _token}[options.command](options)
    except UsageError as error:
        print(f"roomhub {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="roomhub", description="Live chat rooms over WebSockets.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"roomhub {version('roomhub')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    serve_ = commands.add_parser(
        "serve",
        help="serve chat rooms at /ws/{room}?username=",
        description="Serve chat rooms at /ws/{room}?username=, with /health and /metrics beside them. "
        "SIGTERM and SIGINT end it cleanly.",
        allow_abbrev=False,
    )
    add = serve_.add_argument
    add("--host", help="address to listen at (default 127.0.0.1)")
    add("--port", type=_port, help="TCP port, 0 for a free one (default 8080)")
    add("--uds", metavar="PATH", help="listen at a Unix socket instead of --host and --port")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM: serve wss")
    add("--tls-key", metavar="FILE", help="its private key in PEM")
    add(
        "--backend",
        choices=("asyncio", "trio"),
        default="asyncio",
        help="event loop (default asyncio); trio needs roomhub[trio]",
    )
    add("--uvloop", action="store_true", help="asyncio on uvloop (needs roomhub[uvloop])")
    add(
        "--driver",
        choices=("reactor", "streams"),
        help="how sockets are driven: reactor, for plain TCP (default there), or streams, for TLS and Unix sockets too",
    )
    add("--compression", choices=("off", "on"), default="off", help="permessage-deflate (default off)")
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allow web pages of this origin, such as https://example.org, or * for all; repeatable",
    )
    add("--require-origin", action="store_true", help="refuse clients that send no Origin")
    add(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="CIDR",
        help="believe the Forwarded and X-Forwarded-* headers of proxies in this network; repeatable",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="LIMIT=VALUE",
        help="change a limit, such as message_bytes=4096; inf lifts it; repeatable",
    )
    add(
        "--slow",
        choices=("close", "skip"),
        default="close",
        help="what becomes of a roomhub.v1.json client that reads too slowly: it is closed and comes back (default), "
        "or it stays and skips what it missed",
    )
    add(
        "--metrics-port",
        type=_metrics_port,
        metavar="PORT",
        help="serve /metrics on this port of the host, and not beside the chat",
    )
    add("--history", metavar="FILE", help="keep what is said in this SQLite file, beyond the end of the server")
    add(
        "--history-durability",
        choices=("process", "power"),
        default="process",
        help="what stored messages survive: the end of the process (default), or a power failure too",
    )
    for what, unit in (("messages", "messages"), ("bytes", "bytes"), ("age-s", "seconds")):
        add(
            f"--history-keep-{what}",
            type=_positive,
            default=math.inf,
            metavar="N",
            help=f"how many {unit} a room's history keeps in the file (default all)",
        )
    add(
        "--jwt-key",
        metavar="FILE",
        help="let in only who shows a JSON Web Token that this key verifies: PEM, JWK or a secret (needs roomhub[jwt])",
    )
    add(
        "--jwt-algorithm",
        choices=ALGORITHMS,
        action="append",
        default=[],
        help="accept tokens of this algorithm alone (default those of the key's type); repeatable",
    )
    add("--jwt-audience", metavar="NAME", help="accept only tokens for this audience; without it, those for none")
    add("--jwt-issuer", metavar="NAME", help="accept only tokens of this issuer")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default info)")
    command.add_chat_arguments(
        commands.add_parser(
            "chat",
            help="talk in a chat from this terminal, or from a script",
            description="Talk in the rooms of a roomhub server from this terminal; /help tells more there. With --json "
            "each event is a JSON object on a line of standard output, and each line of standard input a request of "
            'the v1 protocol, such as {"type":"chat","room":"lobby","content":"hello"}.',
            allow_abbrev=False,
        )
    )
    command.add_mod_arguments(
        commands.add_parser(
            "mod",
            help="kick, ban or mute somebody, or end a ban or a mute",
            description="Moderate at a roomhub server, as somebody whose token allows it: in a room, or everywhere. A "
            "ban or mute holds also for who is not there, and it outlives the server where that keeps a history.",
            allow_abbrev=False,
        )
    )
    token = commands.add_parser(
        "token",
        help="make a token for development, or a key to sign tokens with",
        description="Print a JSON Web Token that a server with --jwt-key lets in. With --new-key, make a key instead: "
        "a secret that both sides have. Needs roomhub[jwt].",
        allow_abbrev=False,
    )
    add = token.add_argument
    add("--key", metavar="FILE", help="the secret, or the private key in PEM or JWK, that signs")
    add("--user", metavar="NAME", help="who the token is for")
    add("--name", metavar="NAME", help="the name that others see (default that of --user)")
    add(
        "--right",
        action="append",
        default=[],
        metavar="RIGHT",
        help="such as mod, mod:lobby, or join:team-* for these rooms alone; repeatable",
    )
    add("--ttl-s", type=_positive, default=3600.0, metavar="N", help="seconds until it expires (default 3600)")
    add("--audience", metavar="NAME", help="the --jwt-audience of the server")
    add("--issuer", metavar="NAME", help="the --jwt-issuer of the server")
    add("--new-key", metavar="FILE", help="write a new secret to this file, which must not be there yet")
    return parser


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {text!r}")
    return port


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be a number of more than 0, not {text!r}")
    return number


def _metrics_port(text: str) -> int:
    port = _port(text)
    if port == 0:
        raise argparse.ArgumentTypeError("must be a port of its own, not 0: nothing would tell which it is")
    return port


def event_loop_options(options: argparse.Namespace) -> dict[str, bool]:
    """What ``anyio.run`` needs beside the backend for ``--backend`` and ``--uvloop``.

    Raises:
        UsageError: the two exclude each other, or what one of them needs is not installed.
    """
    if options.uvloop and options.backend == "trio":
        raise UsageError("--uvloop and --backend trio exclude each other: uvloop is an event loop of asyncio")
    for flag, module, wanted in (
        ("--uvloop", "uvloop", options.uvloop),
        ("--backend trio", "trio", options.backend == "trio"),
    ):
        if wanted and find_spec(module) is None:
            raise UsageError(f"{flag} needs {module}: pip install 'roomhub[{module}]'")
    return {"use_uvloop": True} if options.uvloop else {}


def _client(options: argparse.Namespace) -> int:
    event_loop_options(argparse.Namespace(uvloop=False, backend=options.backend))
    try:
        return command.chat(options) if options.command == "chat" else command.moderate(options)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _token(options: argparse.Namespace) -> int:
    try:
        from roomhub.jwt import load_key, make_token
        from roomhub.jwt_keys import write_new_key
    except ImportError as error:
        raise UsageError(str(error)) from None
    if options.new_key is not None:
        if options.key is not None or options.user is not None:
            raise UsageError("--new-key excludes --key and --user: make the key first, then a token with it")
        try:
            write_new_key(options.new_key)
        except ValueError as error:
            raise UsageError(f"--new-key: {error}") from None
        print(f"{options.new_key} is a new secret for HS256: who has it can be anybody, so keep it as a password")
        return 0
    for flag, value in (("--key FILE", options.key), ("--user NAME", options.user)):
        if not value:
            raise UsageError(f"needs {flag} (a new key is made by --new-key FILE)")
    try:
        keys = load_key(options.key)
        keys.signing()
    except ValueError as error:
        raise UsageError(f"--key: {error}") from None
    try:
        token = make_token(
            keys,
            options.user,
            name=options.name,
            rights=options.right,
            ttl_s=options.ttl_s,
            audience=options.audience,
            issuer=options.issuer,
        )
    except ValueError as error:
        raise UsageError(str(error).replace("ttl_s", "--ttl-s")) from None
    print(token)
    return 0


def _authenticator(options: argparse.Namespace) -> Authenticator | None:
    if options.jwt_key is None:
        for flag in ("algorithm", "audience", "issuer"):
            if getattr(options, f"jwt_{flag}") not in (None, []):
                raise UsageError(f"--jwt-{flag} needs --jwt-key: the file with the key that verifies tokens")
        return None
    # Imported where it is needed: joserfc is an extra.
    try:
        from roomhub.jwt import JwtAuthenticator, load_key
    except ImportError as error:
        raise UsageError(f"--jwt-key: {error}") from None
    try:
        keys = load_key(options.jwt_key)
        if not keys.algorithms:
            raise ValueError(f"{options.jwt_key}: {keys.description} that may not verify: see its key_ops")
    except ValueError as error:
        raise UsageError(f"--jwt-key: {error}") from None
    try:
        return JwtAuthenticator(
            keys,
            algorithms=options.jwt_algorithm or keys.algorithms,
            audience=options.jwt_audience,
            issuer=options.jwt_issuer,
        )
    except ValueError as error:
        flag = next((flag for flag in ("audience", "issuer") if str(error).startswith(flag)), "algorithm")
        raise UsageError(f"--jwt-{flag}: {error}") from None


def _serve(options: argparse.Namespace) -> int:
    limits = _limits(options.set)
    if options.uds is not None and (options.host is not None or options.port is not None):
        raise UsageError("--uds and --host or --port exclude each other: a server listens at one of them")
    backend_options = event_loop_options(options)
    if options.metrics_port is not None and options.metrics_port == _listening_port(options):
        raise UsageError(f"--metrics-port and --port are both {options.metrics_port}: give them different ports")
    tls = _tls(options.tls_cert, options.tls_key)
    try:
        choose_driver(options.driver, uds=options.uds is not None, tls=tls is not None)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    try:
        networks(options.trusted_proxy)
    except ValueError as error:
        raise UsageError(f"--trusted-proxy: {error}; write it as 10.0.0.0/8") from None
    for origin in options.allow_origin:
        if origin not in ("*", "null") and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin) is None:
            raise UsageError(
                f"--allow-origin: {origin!r} is no origin; write it as https://example.org, without a path"
            )
    authenticator = _authenticator(options)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _raise_open_file_limit()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    run = functools.partial(_run, options, limits, tls, authenticator)
    try:
        anyio.run(run, backend=options.backend, backend_options=backend_options)
    except _CannotListen as error:
        raise UsageError(str(error)) from None
    except StoreError as error:
        raise UsageError(f"--history: {error}") from None
    return 0


def _history(options: argparse.Namespace) -> HistoryStore | None:
    if options.history is None:
        for flag in ("messages", "bytes", "age-s"):
            if math.isfinite(getattr(options, f"history_keep_{flag.replace('-', '_')}")):
                raise UsageError(f"--history-keep-{flag} needs --history: the file that keeps it")
        if options.history_durability != "process":
            raise UsageError("--history-durability needs --history: the file that it is about")
        return None
    # Imported where it is needed: without a history SQLite is memory for nothing.
    from roomhub.stores.sqlite import SqliteHistory

    return SqliteHistory(
        options.history,
        keep_messages=options.history_keep_messages,
        keep_bytes=options.history_keep_bytes,
        keep_age_s=options.history_keep_age_s,
        durability=options.history_durability,
    )


def _listening_port(options: argparse.Namespace) -> int | None:
    if options.uds is not None:
        return None
    return DEFAULT_PORT if options.port is None else int(options.port)


async def _run(
    options: argparse.Namespace, limits: Limits, tls: ssl.SSLContext | None, authenticator: Authenticator | None
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            Runtime(
                limits=limits, slow=options.slow, authenticator=authenticator, history=_history(options)
            ) as runtime,
            AsyncExitStack() as stack,
        ):
            serving = serve(
                runtime,
                host=options.host or DEFAULT_HOST,
                port=_listening_port(options) or 0,
                uds=options.uds,
                tls=tls,
                driver=options.driver,
                compression=options.compression == "on",
                allow_origins=options.allow_origin,
                require_origin=options.require_origin,
                trusted_proxies=options.trusted_proxy,
                metrics_port=options.metrics_port,
            )
            try:
                server = await stack.enter_async_context(serving)
            except (OSError, UnicodeError, BaseExceptionGroup) as error:
                raise _cannot_listen(options, error) from None
            if authenticator is None:
                _log.info("there is no authenticator: a username is each client's own word (--jwt-key asks for tokens)")
            print(f"listening on {server.url}", flush=True)
            async for number in signals:
                _log.info("%s: closing %d connections", number.name, server.connections)
                break
            await runtime.drain()


class _CannotListen(Exception):
    pass


def _cannot_listen(options: argparse.Namespace, error: BaseException) -> BaseException:
    """What to say of an error at the start; the error itself if it is none of listening."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, OSError | UnicodeError):
        return error
    host = options.host or DEFAULT_HOST
    flag, where = "--port", f"{host}:{_listening_port(options)}"
    if isinstance(error, UnicodeError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        flag = "--host"
    elif options.uds is not None:
        flag, where = "--uds", options.uds
    if options.metrics_port is not None and _is_taken(host, options.metrics_port):
        flag, where = "--metrics-port", f"{host}:{options.metrics_port}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return _CannotListen(f"{flag}: cannot listen at {where}: {reason}; choose another")


def _is_taken(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return False
    except (OSError, UnicodeError):
        return True


def _limits(assignments: Sequence[str]) -> Limits:
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set: {assignment!r} is not LIMIT=VALUE")
        values[name] = value
    try:
        limits = Limits().override(values)
        # A drain ends with closes: to keep its time, none of them may take longer.
        return replace(limits, close_timeout_s=min(limits.close_timeout_s, limits.drain_timeout_s))
    except ValueError as error:
        hint = (
            ""
            if "no limit is called" not in str(error) or "did you mean" in str(error)
            else f"; the limits are {', '.join(FIELD_NAMES)}"
        )
        raise UsageError(f"--set: {error}{hint}") from None


def _tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise UsageError("--tls-key needs --tls-cert: the certificate that the key belongs to")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for flag, path in (("--tls-cert", cert), ("--tls-key", key)):
        if path is not None and not os.access(path, os.R_OK):
            raise UsageError(f"{flag}: cannot read {path}; give a PEM file that this user may read")
    try:
        context.load_cert_chain(cert, key, password="")  # an encrypted key: an error, not a question at a terminal
    except (ssl.SSLError, OSError) as error:
        where = f"{cert} and {key}" if key else f"{cert} (--tls-key names the key's file)"
        raise UsageError(
            f"--tls-cert, --tls-key: no certificate with its unencrypted key in {where}: {error}"
        ) from None
    return context


def _raise_open_file_limit() -> None:
    """Each connection is an open file, and the usual soft limit is 1,024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            _log.warning("the open-file limit stays at %d: it cannot be raised to %d", soft, hard)
