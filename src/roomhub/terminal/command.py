"""``roomhub chat``: its flags, and how it ends."""

import argparse
import functools
import getpass
import math
import os
import re
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import anyio

from roomhub.core.names import room_fault

if TYPE_CHECKING:
    from roomhub.client import Chat, Token

__all__ = ["add_arguments", "chat"]

TOKEN_VARIABLE: Final = "ROOMHUB_TOKEN"
_ROOM_PATH: Final = re.compile(r"/ws/([^/]+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="where the chat is, such as ws://127.0.0.1:8080/ws/lobby; the room is joined")
    add("--username", metavar="NAME", help="who you are (default the login name, unless the URL or a token says it)")
    add("--room", action="append", default=[], metavar="ROOM", help="join this room; repeatable")
    add("--history", type=_count, default=20, metavar="N", help="messages to show of a room at its join (default 20)")
    add("--json", action="store_true", help="events as JSON on stdout, requests as JSON on stdin, a line each")
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


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"must be a number from 0, not {text!r}")
    return int(text)


def chat(options: argparse.Namespace) -> int:
    """Run it; 0 for an end that the person wanted, 1 for one that the server or the network did.

    Raises:
        ValueError: a flag or the URL cannot be; its text says how to mend it.
    """
    # Imported where it is needed: a server has no use for it.
    from roomhub.client import ChatError, connect
    from roomhub.client.chat import address_of
    from roomhub.terminal.text import clean

    faults = 0

    def on_fault(fault: str) -> None:
        nonlocal faults
        faults += 1
        if faults == 1:
            print(f"roomhub chat: {clean(fault)}; trying for {options.wait:g} s", file=sys.stderr, flush=True)

    address_of(options.url)
    url, rooms = _url_and_rooms(options.url, options.room)
    connection = connect(
        url,
        username=_username(options, url),
        token=_token(options.token_file),
        ssl_context=_authorities(options.ca_file),
        open_timeout_s=options.wait,
        on_fault=on_fault,
    )
    run = functools.partial(_run, connection, rooms, options.history, options.json)
    try:
        anyio.run(run, backend=options.backend)
    except ChatError as error:
        print(f"roomhub chat: {clean(str(error))}", file=sys.stderr)
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


async def _run(connection: "Chat", rooms: list[str], history: int, is_json: bool) -> None:
    from roomhub.client import ChatError

    error: Exception | None = None
    try:
        async with connection:
            if is_json:
                from roomhub.terminal import json_lines

                await json_lines.run(connection, rooms, history, sys.stdin.fileno(), sys.stdout.fileno())
            else:
                from roomhub.terminal import program

                start = program.Start(rooms, history)
                await program.run(connection, start, sys.stdin.fileno(), sys.stdout.fileno())
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
        ValueError: a name can be none of a room.
    """
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
