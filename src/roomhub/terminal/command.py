"""``roomhub chat`` and ``roomhub mod``: their flags, and how they end."""

import argparse
import getpass
import math
import os
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import anyio

from roomhub.core.names import room_fault
from roomhub.core.protocol import MOD_ACTIONS
from roomhub.terminal.durations import seconds_of

if TYPE_CHECKING:
    from roomhub.client import Chat, Token

__all__ = ["add_chat_arguments", "add_mod_arguments", "chat", "moderate"]

TOKEN_VARIABLE: Final = "ROOMHUB_TOKEN"
_ROOM_PATH: Final = re.compile(r"/ws/([^/]+)")


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="where the chat is, such as ws://127.0.0.1:8080/ws/lobby; the room is joined")
    add("--room", action="append", default=[], metavar="ROOM", help="join this room; repeatable")
    add("--history", type=_count, default=20, metavar="N", help="messages to show of a room at its join (default 20)")
    add("--json", action="store_true", help="events as JSON on stdout, requests as JSON on stdin, a line each")
    _add_connection_arguments(parser)


def add_mod_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="where the chat is, such as wss://chat.example/ws, or /ws/lobby for that room alone")
    add(
        "action",
        choices=MOD_ACTIONS,
        metavar="ACTION",
        help=", ".join(MOD_ACTIONS),
    )
    add("user", metavar="USER", help="whom, by the identity that the server gives (a token's sub)")
    add("--room", metavar="ROOM", help="in this room alone, and not everywhere")
    add(
        "--for",
        dest="for_s",
        type=_duration,
        metavar="TIME",
        help="how long a ban or mute lasts: 90s, 10m, 2h, 7d (default for ever)",
    )
    add("--reason", default="", metavar="TEXT", help="a word to the user")
    _add_connection_arguments(parser)


def _add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--username", metavar="NAME", help="who you are (default the login name, unless the URL or a token says it)")
    add(
        "--token-file",
        metavar="FILE",
        help=f"a file with a token, read at each connect; or the variable {TOKEN_VARIABLE} has one",
    )
    add("--ca-file", metavar="FILE", help="certificate authorities in PEM for wss, in place of the system's")
    add("--wait", type=_seconds, default=10.0, metavar="S", help="how long the first connection may take (default 10)")
    add("--backend", choices=("asyncio", "trio"), default="asyncio", help="event loop (default asyncio)")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be a number of more than 0, not {text!r}")
    return seconds


def _duration(text: str) -> float:
    seconds = seconds_of(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 10m, 2h or 7d, not {text!r}")
    return seconds


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"must be a number from 0, not {text!r}")
    return int(text)


def chat(options: argparse.Namespace) -> int:
    """Talk; 0 for an end that the person wanted, 1 for one that the server or the network did.

    Raises:
        ValueError: a flag or the URL cannot be; its text says how to mend it.
    """
    url, rooms = _url_and_rooms(options.url, options.room)

    async def talk(connection: "Chat") -> None:
        if options.json:
            from roomhub.terminal import json_lines

            await json_lines.run(connection, rooms, options.history, sys.stdin.fileno(), sys.stdout.fileno())
        else:
            from roomhub.terminal import program

            start = program.Start(rooms, options.history)
            await program.run(connection, start, sys.stdin.fileno(), sys.stdout.fileno())

    return _run(options, url, talk)


def moderate(options: argparse.Namespace) -> int:
    """Moderate, once; 0 where it is in force, 1 where the server or the network did not let it be.

    Raises:
        ValueError: as ``chat``.
    """
    url, rooms = _url_and_rooms(options.url, [] if options.room is None else [options.room])
    if len(rooms) > 1:
        raise ValueError(f"--room {options.room} and the URL, with {rooms[0]}, name two rooms: leave one out")
    if options.for_s is not None and options.action not in ("ban", "mute"):
        raise ValueError(f"--for is for a ban or a mute: leave it out of {options.action}")
    room = rooms[0] if rooms else None
    for_s = math.inf if options.for_s is None else options.for_s

    async def do(connection: "Chat") -> None:
        timeout_s: float = options.wait
        await connection.moderate(
            options.action, options.user, room, for_s=for_s, reason=options.reason, timeout_s=timeout_s
        )
        print(f"{options.action} of {options.user} {'everywhere' if room is None else f'in {room}'}: done")

    return _run(options, url, do)


def _run(options: argparse.Namespace, url: str, use: Callable[["Chat"], Awaitable[None]]) -> int:
    """Connect and do it; gives the exit code."""
    # Imported where it is needed: a server has no use for it.
    from roomhub.client import ChatError, StayAway, connect
    from roomhub.terminal.text import clean

    name = f"roomhub {options.command}"
    faults = 0

    def on_fault(fault: str) -> None:
        nonlocal faults
        faults += 1
        if faults == 1:
            print(f"{name}: {clean(fault)}; trying for {options.wait:g} s", file=sys.stderr, flush=True)

    connection = connect(
        url,
        username=_username(options, url),
        token=_token(options.token_file),
        ssl_context=_authorities(options.ca_file),
        open_timeout_s=options.wait,
        on_fault=on_fault,
    )
    try:
        anyio.run(_use, connection, use, backend=options.backend)
    except ChatError as error:
        hint = ""
        if isinstance(error, StayAway) and error.code in (401, 4001) and _token(options.token_file) is None:
            hint = f" (give it by --token-file, or in the variable {TOKEN_VARIABLE})"
        print(f"{name}: {clean(str(error))}{hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Nobody reads any more, which is no fault; nor shall Python's own flush find one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return 130
    return 0


async def _use(connection: "Chat", use: Callable[["Chat"], Awaitable[None]]) -> None:
    from roomhub.client import ChatError

    error: Exception | None = None
    try:
        async with connection:
            await use(connection)
    except* (ChatError, BrokenPipeError) as group:
        error = _first(group)
    if error is not None:
        raise error


def _first(error: BaseException) -> Exception:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


def _url_and_rooms(url: str, rooms: list[str]) -> tuple[str, list[str]]:
    """The server's own address for v1, and the rooms; one in the path comes first.

    Raises:
        ValueError: the URL is none of a chat's, or a name none of a room.
    """
    from roomhub.client.chat import address_of

    address_of(url)
    for name in rooms:
        _check_room("--room", name)
    parts = urlsplit(url)
    if found := _ROOM_PATH.fullmatch(parts.path):
        room = unquote(found[1])
        _check_room("the room of the URL", room)
        return urlunsplit(parts._replace(path="/ws")), [room, *(name for name in rooms if name != room)]
    return url, list(dict.fromkeys(rooms))


def _check_room(where: str, name: str) -> None:
    # How long it may be is the server's to say.
    if fault := room_fault(name, max_bytes=math.inf):
        raise ValueError(f"{where}, {name[:64]!r}: {fault}")


def _username(options: argparse.Namespace, url: str) -> str | None:
    if options.username is not None:
        return str(options.username)
    if "username" in parse_qs(urlsplit(url).query) or options.token_file or os.environ.get(TOKEN_VARIABLE):
        return None
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise ValueError("--username: who are you? the system does not know") from None


def _token(path: str | None) -> "Token | None":
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    _read_token(path)

    async def token() -> str:
        return _read_token(path)

    return token


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--token-file: cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if not token:
        raise ValueError(f"--token-file: {path} is empty")
    return token


def _authorities(path: str | None) -> ssl.SSLContext | None:
    if path is None:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"--ca-file: no certificates in {path}: {error}; give a PEM file") from None
