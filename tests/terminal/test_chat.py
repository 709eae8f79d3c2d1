"""``roomhub chat`` as it is: in a pseudo-terminal, and through pipes."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from roomhub.cli import main
from roomhub.jwt import load_key, make_token
from roomhub.jwt_keys import write_new_key
from tests.test_cli import Serving

COMMAND = (sys.executable, "-W", "error", "-m", "roomhub", "chat")
PATIENCE_S = 20.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


@pytest.fixture
def server() -> Iterator[Serving]:
    with Serving("--port", "0", "--log-level", "error") as serving:
        yield serving


class Glass:
    """A terminal as far as the program uses it: rows of text, a cursor, and what erases and moves."""

    def __init__(self) -> None:
        self.rows = [""]
        self.column = 0

    def feed(self, text: str) -> None:
        for match in re.finditer(r"\x1b\[([0-9;]*)([A-Za-z])|(.)", text, re.DOTALL):
            numbers, command, character = match.groups()
            row = self.rows[-1]
            if command == "K":
                self.rows[-1] = row[: self.column]
            elif command == "C":
                self.column += int(numbers or 1)
            elif command == "m" or character == "\a":
                pass
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self.rows.append("")
                self.column = 0
            else:
                assert character is not None, f"what is {match[0]!r}?"
                self.rows[-1] = row[: self.column].ljust(self.column) + character + row[self.column + 1 :]
                self.column += 1


class Terminal:
    """A program in a pseudo-terminal, 60 columns wide."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.mode = termios.tcgetattr(slave)
        self.slave = slave
        self.raw = ""
        self.glass = Glass()
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm", **env},
            start_new_session=True,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ready, _, _ = select.select([self.master], [], [], 0.05)
            if ready:
                text = os.read(self.master, 65_536).decode(errors="replace")
                self.raw += text
                self.glass.feed(text)
            assert time.monotonic() < deadline, "\n".join(self.glass.rows)

    def sees(self, pattern: str) -> None:
        self.until(lambda: any(re.search(pattern, row) for row in self.glass.rows))

    def line_is(self, text: str) -> None:
        self.until(lambda: self.glass.rows[-1].rstrip() == text.rstrip())

    def ends(self, code: int = 0) -> None:
        self.until(lambda: self.process.poll() is not None)
        assert self.process.returncode == code
        assert termios.tcgetattr(self.slave) == self.mode, "the terminal is as it was"


def test_two_people_talk(server: Serving) -> None:
    url = f"{server.url}/ws/lobby"
    with ExitStack() as stack:
        ann = stack.enter_context(Terminal(url, "--username", "ann"))
        ann.sees(r"\* you are in lobby")
        ben = stack.enter_context(Terminal(url, "--username", "ben", NO_COLOR="1"))
        ben.sees(r"\* you are in lobby")
        ann.sees(r"\* ben came into lobby")
        ann.type("hello there\r")
        ben.sees(r"^\d\d:\d\d ann: hello there$")
        ann.sees(r"^\d\d:\d\d ann: hello there$")
        assert "\x1b[3" in ann.raw
        assert "\x1b[0m" not in ben.raw, "NO_COLOR is set"
        # Half a line is not garbled by what comes meanwhile.
        ann.type("I am just ty")
        ann.line_is("lobby> I am just ty")
        ben.sees(r"lobby \(ann types\)> ")
        ben.type("interrupting\r")
        ann.sees(r"ben: interrupting")
        ann.line_is("lobby> I am just ty")
        ann.type("\x1b[D\x1b[DX\x7fping\x1b[3~\x1b[3~\r")
        ben.sees(r"ann: I am just ping$")
        ann.type("/who\r")
        ann.sees(r"\* in lobby: ann, ben")
        ann.type("/dm ben psst you\r")
        ben.sees(r"^\d\d:\d\d ann to you: psst you$")
        ann.sees(r"^\d\d:\d\d you to ben: psst you$")
        ann.type("/join kitchen\r")
        ann.line_is("kitchen> ")
        ann.type("//not a command\r")
        ann.sees(r"#kitchen ann: /not a command")
        ann.type("/leave\r")
        ann.line_is("lobby> ")
        ann.type("/history 2\r")
        ann.type("/nonsense\r/dm ben\r/help\r/join a,b\r")
        ann.sees(r"/nonsense: see /help")
        ann.sees(r"usage: /dm USER TEXT")
        ann.sees(r"^/who +who is here")
        ann.sees(r"clients of the plain dialect do not see it")
        ann.sees(r"not done: room may only contain")
        ann.type("/quit\r")
        ann.ends()
        left = time.monotonic()
        ben.sees(r"\* ann left lobby")
        assert time.monotonic() - left < 5, "not after the grace of 10 s"
        ben.type("\x04")
        ben.ends()


def test_history_is_shown_at_the_join(server: Serving) -> None:
    url = f"{server.url}/ws/lobby"
    with Terminal(url, "--username", "ann") as ann:
        ann.sees("you are in lobby")
        ann.type("one\rtwo\rthree\r")
        ann.sees("ann: three")
        with Terminal(url, "--username", "ben", "--history", "2") as ben:
            ben.sees("ann: three")
            ben.sees("ann: two")
            assert not any("ann: one" in row for row in ben.glass.rows)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Serving, Callable[..., str]]]:
    """A server that wants tokens, and what writes one for a user, with rights, into a file."""
    key = tmp_path / "key"
    write_new_key(key)

    def token(user: str, *rights: str, name: str | None = None) -> str:
        path = tmp_path / f"{user}.token"
        path.write_text(make_token(load_key(str(key)), user, name=name or user.title(), rights=rights))
        return str(path)

    flags = ("--port", "0", "--log-level", "warning", "--jwt-key", str(key), "--history", str(tmp_path / "history.db"))
    with Serving(*flags) as serving:
        yield serving, token


def test_a_moderator_at_the_terminal(guarded: tuple[Serving, Callable[..., str]]) -> None:
    server, token = guarded
    url = f"{server.url}/ws/lobby"
    with ExitStack() as stack:
        ann = stack.enter_context(Terminal(url, "--token-file", token("ann", "mod:lobby")))
        ann.sees("you are in lobby")
        ben = stack.enter_context(Terminal(url, "--token-file", token("ben")))
        ann.sees("Ben came into lobby")
        ann.type("/mute Ben 10m calm down\r")
        ann.sees(r"\* mute of Ben in lobby: done, for 10m")
        ben.type("why?\r")
        ben.sees(r"not done: you are muted: calm down; 10m to go")
        ben.type("/ban ann\r")
        ben.sees(r"not done: you may not ban anybody here \(forbidden\)")
        ann.type("/unmute ben\r")
        ann.sees(r"\* unmute of Ben in lobby: done$")
        ben.type("thanks\r")
        ann.sees("Ben: thanks")
        ann.type("/kick Ben off with you\r")
        ben.sees(r"\* you were put out of lobby: off with you")
        ann.sees(r"\* Ben left lobby \(kicked\)")
        ben.type("/join lobby\r")
        ann.until(lambda: sum("Ben came into lobby" in row for row in ann.glass.rows) == 2)
        ann.type("/ban Ben\r")
        ann.sees(r"\* ban of Ben in lobby: done, until /unban")
        ben.sees(r"\* you are banned from lobby$")
        ben.type("/join lobby\r")
        ben.sees(r"not done: you are banned from this room")
        ann.type("/unban BEN\r/unban ben\r/ban\r/mute\r/mute ben 10x\r/ban nobody 7d\r/unmute ann\r")
        ann.sees(r"\* unban of Ben in lobby: done$")
        ann.sees(r"not done: there is no ban of this user")
        ann.sees(r"\* 10x is no time: write 90s, 10m, 2h or 7d")
        ann.sees(r"\* ban of the identity nobody, which was not seen here in lobby: done, for 7d")
        ann.sees(r"not done: nobody may unmute themselves")
        ann.sees(r"usage: /ban USER \[TIME\] \[WHY\]$")
        ann.sees(r"usage: /mute USER")


def test_two_of_one_name_are_told_apart(guarded: tuple[Serving, Callable[..., str]]) -> None:
    server, token = guarded
    url = f"{server.url}/ws/lobby"
    with ExitStack() as stack:
        ann = stack.enter_context(Terminal(url, "--token-file", token("ann", "mod")))
        ann.sees("you are in lobby")
        for user in ("x1", "x2"):
            sam = stack.enter_context(Terminal(url, "--token-file", token(user, name="Sam")))
            sam.sees("you are in lobby")
        ann.type("/mute Sam\r")
        ann.sees(r"\* that may be =x1 \(Sam\) or =x2 \(Sam\): say which")
        ann.type("/mute x2\r")
        ann.sees(r"\* mute of Sam \(x2\) in lobby: done")
        ann.type("/who\r")
        ann.sees(r"in lobby: Ann, Sam \(x1\), Sam \(x2\)")


def test_whom_a_moderator_means(guarded: tuple[Serving, Callable[..., str]]) -> None:
    """A name that somebody chose does not stand for another's identity; and names may have spaces."""
    server, token = guarded
    url = f"{server.url}/ws/lobby"
    with ExitStack() as stack:
        ann = stack.enter_context(Terminal(url, "--token-file", token("ann", "mod")))
        ann.sees("you are in lobby")
        for user, name in (("18", "Ben"), ("31", "18"), ("40", "Eve Lee")):
            terminal = stack.enter_context(Terminal(url, "--token-file", token(user, name=name)))
            terminal.sees("you are in lobby")
        ann.sees("Eve Lee came into lobby")
        ann.type("/ban Ben 1h\r")
        ann.sees(r"\* Ben left lobby \(banned\)")
        ann.type("/mute 18 1h\r")
        ann.sees(r"\* that may be =18 \(Ben\) or =31 \(18\): say which")
        ann.type("/mute =18 1h\r/unban ben\r")
        ann.sees(r"\* mute of Ben \(18\) in lobby: done")
        ann.sees(r"\* unban of Ben \(18\) in lobby: done")
        ann.type("/mute eve lee 2d be quiet\r")
        ann.sees(r"\* mute of Eve Lee \(40\) in lobby: done, for 2d")
        terminal.type("but why?\r")
        terminal.sees(r"not done: you are muted: be quiet; 2d to go")


def test_what_others_write_cannot_command_the_terminal(server: Serving) -> None:
    with Terminal(f"{server.url}/ws/lobby", "--username", "ann") as ann:
        ann.sees("you are in lobby")
        requests = [
            {"type": "join", "id": 1, "room": "lobby"},
            {"type": "chat", "room": "lobby", "content": "\x1b]0;owned\x07\x1b[2J\x9b31m\rfake: hi\nnext \u202eabc"},
        ]
        piped(server, "eve", requests)
        ann.sees(r"eve: \ufffd\]0;owned\ufffd\ufffd\[2J\ufffd31m\ufffdfake: hi ↵ next abc$")
        assert "\x1b[2J" not in ann.raw


def test_a_reconnect_is_shown_and_the_terminal_is_given_back(server: Serving) -> None:
    with Terminal(f"{server.url}/ws/lobby", "--username", "ann", "--backend", "trio") as ann:
        ann.sees("you are in lobby")
        server.process.kill()
        ann.sees(r"\* disconnected: .+; next try in \d\.\d s")
        ann.type("half a line")
        ann.line_is("lobby> half a line")
        ann.type("\x03")
        ann.ends()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(server: Serving, number: signal.Signals) -> None:
    with Terminal(f"{server.url}/ws/lobby", "--username", "ann") as ann:
        ann.sees("you are in lobby")
        ann.process.send_signal(number)
        ann.ends()


def test_a_long_line_is_seen_in_part(server: Serving) -> None:
    with Terminal(f"{server.url}/ws/lobby", "--username", "ann") as ann:
        ann.sees("you are in lobby")
        ann.type("".join(str(number % 10) for number in range(100)))
        ann.line_is("lobby> " + "".join(str(number % 10) for number in range(49, 100)))
        assert len(ann.glass.rows[-1]) < 60
        ann.type("\r")
        ann.sees("ann: 0123456789")


# -- through pipes -----------------------------------------------------------------------------------------------------


def piped(server: Serving, user: str, requests: list[Any], *flags: str) -> list[dict[str, Any]]:
    text = "".join((request if isinstance(request, str) else json.dumps(request)) + "\n" for request in requests)
    done = subprocess.run(
        [*COMMAND, f"{server.url}/ws", "--username", user, "--json", *flags],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_requests_and_events_as_json(server: Serving, backend: str) -> None:
    requests = [
        {"type": "join", "room": "lobby", "history": 5},
        {"type": "chat", "id": "mine", "room": "lobby", "content": "hällo", "key": "k"},
        {"type": "chat", "room": "lobby", "content": "hällo", "key": "k"},
        "",
        {"type": "history", "id": 7, "room": "lobby", "before": 100},
        {"type": "members", "room": "lobby"},
        {"type": "dm", "to": "ann", "content": "to myself"},
        {"type": "history", "room": "@ann", "before": 9},
        {"type": "typing", "room": "lobby", "state": "start"},
        {"type": "event", "room": "lobby", "name": "wave", "content": ""},
        {"type": "presence", "room": "lobby", "meta": {"mood": "fine"}},
        {"type": "ping"},
        {"type": "leave", "room": "lobby"},
    ]
    heard = piped(server, "ann", requests, "--backend", backend)
    replies = {item["line"]: item for item in heard if "line" in item}
    assert sorted(replies) == [1, 2, 3, *range(5, 14)], "each line has its answer, but the empty one"
    assert {item["type"] for item in replies.values()} == {"ok"}
    assert (replies[2]["id"], replies[2]["offset"], "dup" in replies[2]) == ("mine", 1, False)
    assert (replies[3]["offset"], replies[3]["dup"]) == (1, True)
    assert [message["content"] for message in replies[5]["messages"]] == ["hällo"]
    assert [user["user"] for user in replies[6]["users"]] == ["ann"]
    assert [message["content"] for message in replies[8]["messages"]] == ["to myself"]
    kinds = [item["type"] for item in heard if "line" not in item]
    assert kinds[0] == "connected"
    assert {"user_joined", "chat"} <= set(kinds)


def test_the_end_of_input_leaves_at_once(server: Serving) -> None:
    with Terminal(f"{server.url}/ws/lobby", "--username", "ann") as ann:
        ann.sees("you are in lobby")
        piped(server, "bot", [{"type": "join", "room": "lobby"}])
        ended = time.monotonic()
        ann.sees(r"\* bot left lobby")
        assert time.monotonic() - ended < 5


def test_events_have_the_names_of_the_protocol(server: Serving) -> None:
    heard = piped(
        server, "ann", [{"type": "chat", "room": "lobby", "content": "x"}, {"type": "dm", "to": "ann", "content": "y"}],
        "--room", "lobby",
    )  # fmt: skip
    assert not any("ts_ms" in item for item in heard)
    assert {item["type"] for item in heard if "ts" in item and "line" not in item} == {"chat", "dm"}
    kinds = [(item["type"], item.get("room")) for item in heard if "line" not in item]
    assert kinds.index(("ok", "lobby")) < kinds.index(("user_joined", "lobby"))


def test_a_bad_line_is_told_with_its_number_and_disturbs_nothing(server: Serving) -> None:
    requests = [
        "not json", '{"type":"sing"}', '{"type":"chat"}', '{"type":"chat","room":"attic","content":"x"}', "[1]",
        '{"type":"hello","id":1}', '{"type":"chat","room":"lobby","content":"\\ud800"}', '{"type":"join","room":"a b"}',
        '{"type":"join","room":"lobby"}',
    ]  # fmt: skip
    heard = piped(server, "ann", requests)
    replies = [(item["line"], item.get("name", "ok")) for item in heard if "line" in item]
    assert replies == [
        (1, "bad_request"), (2, "unknown_type"), (3, "bad_request"), (4, "unknown_room"), (5, "bad_request"),
        (6, "bad_request"), (7, "bad_request"), (8, "bad_request"), (9, "ok"),
    ]  # fmt: skip


def test_a_file_can_be_the_input_and_a_room_of_the_url_is_joined(server: Serving, tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"type":"chat","room":"lobby","content":"from a file"}')
    with (tmp_path / "in").open() as stdin, (tmp_path / "out").open("w") as stdout:
        command = [*COMMAND, f"{server.url}/ws/lobby?username=ann", "--json"]
        assert subprocess.run(command, stdin=stdin, stdout=stdout, timeout=PATIENCE_S, check=False).returncode == 0
    heard = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [item["offset"] for item in heard if item.get("line") == 1] == [1]
    assert any(item["type"] == "ok" and item.get("users") for item in heard if "line" not in item)


def test_whoever_stops_reading_ends_it_without_a_word(server: Serving) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, f"{server.url}/ws/lobby?username=ann", "--json"],
        stdin=subprocess.PIPE, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert b"connected" in os.read(read, 65_536)
    os.close(read)
    _, errors = process.communicate('{"type":"ping"}\n' * 10, timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_a_script_without_a_traceback(server: Serving, backend: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, f"{server.url}/ws/lobby?username=ann", "--json", "--backend", backend],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run it may be ignored
    )  # fmt: skip
    assert process.stdout is not None
    assert "connected" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "")


def test_plain_lines_through_pipes(server: Serving) -> None:
    done = subprocess.run(
        [*COMMAND, f"{server.url}/ws/lobby?username=ann"], input="hello\n/who\n", capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "in lobby: ann" in done.stdout


def test_a_script_moderates(guarded: tuple[Serving, Callable[..., str]]) -> None:
    server, token = guarded
    requests = [
        {"type": "join", "room": "lobby"},
        {"type": "mod", "room": "lobby", "action": "mute", "user": "ben", "for_ms": 60_000, "reason": "to see it"},
        {"type": "mod", "room": "lobby", "action": "unmute", "user": "ben"},
        {"type": "mod", "id": "mine", "action": "kick", "user": "nobody"},
        {"type": "mod", "action": "flog", "user": "ben"},
        {"type": "mod", "action": "ban", "user": "ann"},
    ]
    heard = piped(server, "ann", requests, "--token-file", token("ann", "mod"))
    answers = [(item["type"], item.get("name"), item.get("field"), item.get("id")) for item in heard if "line" in item]
    assert answers == [
        ("ok", None, None, None),
        ("ok", None, None, None),
        ("ok", None, None, None),
        ("error", "bad_request", "user", "mine"),
        ("error", "bad_request", "action", None),
        ("error", "forbidden", None, None),
    ]


# -- roomhub mod -------------------------------------------------------------------------------------------------------


def test_moderation_from_the_command_line(guarded: tuple[Serving, Callable[..., str]], tmp_path: Path) -> None:
    server, token = guarded

    def mod(*arguments: str, by: str = "ann") -> tuple[int, str]:
        command = [*COMMAND[:-1], "mod", f"{server.url}/ws", *arguments, "--token-file", str(tmp_path / f"{by}.token")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.returncode, done.stdout + done.stderr

    token("ann", "mod")
    ben = token("ben")
    with Terminal(f"{server.url}/ws/lobby", "--token-file", ben) as terminal:
        terminal.sees("you are in lobby")
        assert mod("mute", "ben", "--room", "lobby", "--for", "1h") == (0, "mute of ben in lobby: done\n")
        terminal.type("hello?\r")
        terminal.sees("you are muted")
        assert mod("ban", "ben", "--for", "2h", "--reason", "spam", "--backend", "trio") == (
            0,
            "ban of ben everywhere: done\n",
        )
        terminal.sees(r"^roomhub chat: 4002 banned \(spam\)")
        terminal.ends(1)
    with Terminal(f"{server.url}/ws/lobby", "--token-file", ben) as terminal:
        terminal.sees(r"^roomhub chat: 4002 banned \(spam\)")
        terminal.ends(1)
    assert mod("unban", "ben") == (0, "unban of ben everywhere: done\n")
    code, text = mod("unban", "ben")
    assert (code, text.count("\n")) == (1, 1)
    assert text.startswith("roomhub mod: bad_request: there is no ban of this user everywhere")
    code, text = mod("ban", "ann", by="ben")
    assert (code, text) == (1, "roomhub mod: forbidden: you may not ban anybody here\n")


def test_moderation_where_names_are_anybodys_word(server: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["mod", f"{server.url}/ws/lobby", "ban", "ben", "--username", "ann"]) == 1
    assert said(capfd).startswith("roomhub mod: forbidden: nobody may moderate here")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["ws://x", "flog", "ben"], "invalid choice: 'flog'"),
        (["ws://x", "ban"], "USER"),
        (["ws://x", "ban", "ben", "--for", "10"], "--for: must be a time such as 90s, 10m, 2h or 7d, not '10'"),
        (["ws://x", "ban", "ben", "--for", "0s"], "--for: must be a time such as"),
        (["ws://x", "kick", "ben", "--for", "1m"], "--for is for a ban or a mute: leave it out of kick"),
        (["ws://x/ws/a", "ban", "ben", "--room", "b"], "name two rooms"),
        (["ws://x/ws", "ban", "ben", "--room", "a b"], "--room, 'a b': room may only contain letters"),
        (["ws://x/ws", "ban", "ben", "--room", ""], "room is empty"),
        (["http://x", "ban", "ben"], "ws://"),
    ],
)
def test_what_a_moderator_can_mend(arguments: list[str], fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["mod", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    line = said(capfd)
    assert line.startswith("roomhub mod: ")
    assert fault in line


# -- how it ends -------------------------------------------------------------------------------------------------------


def said(capfd: pytest.CaptureFixture[str]) -> str:
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1, "one line"
    return captured.err


def test_nobody_is_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "ws://127.0.0.1:1/ws?username=ann", "--wait", "0.2"]) == 1
    first, last = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"roomhub chat: 127\.0\.0\.1:1: .*refused; trying for 0\.2 s", first)
    assert re.fullmatch(r"roomhub chat: no connection to ws://127\.0\.0\.1:1/ws in 0\.2 s: .*refused", last)


def test_a_name_that_no_server_has(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "ws://nobody.invalid/ws?username=ann", "--wait", "0.5"]) == 1
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith("roomhub chat: nobody.invalid: ")
    assert "Errno" not in first


def test_the_server_says_no(server: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", f"{server.url}/nowhere?username=ann"]) == 1
    assert said(capfd).startswith("roomhub chat: 404 ")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["http://x"], "ws://"), (["ws://x", "--token-file", "/nonexistent"], "--token-file"),
        (["wss://x", "--ca-file", "/nonexistent"], "--ca-file"),
        (["ws://x/ws?username=a", "--username", "b"], "once"),
        (["foo"], "begins with ws:// or wss://, not 'foo'"),
        (["ws://x:ninety/ws"], "the port in a chat's URL is a number from 1 to 65535, not 'ninety'"),
        (["ws://[x/ws"], "names a host"),
        (["ws://x/ws/lob%20by"], "the room of the URL, 'lob by': room may only contain letters"),
        (["ws://x/ws", "--room", "a b"], "--room, 'a b': room may only contain letters"),
        (["ws://x/ws", "--room", ""], "room is empty"),
    ],
)  # fmt: skip
def test_what_the_caller_can_mend(arguments: list[str], fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", *arguments]) == 2
    line = said(capfd)
    assert line.startswith("roomhub chat: ")
    assert fault in line
