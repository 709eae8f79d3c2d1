"""Every block of code in the README and in docs/ runs.

A Python block is a whole program that ends by itself with status 0, on asyncio and on trio. Comments before it say
more:

- ``<!-- test: name -->``: the function ``drive_name`` here drives it instead;
- ``<!-- file: name.py -->``: it lies under this name beside the page's later programs, which may import it. Without a
  ``test`` it must import.

A ``text`` block under ``<!-- test: output -->`` is what the program before it prints. Commands are checked against what
they call, and each further language has its function in ``CHECKS``. There is no way to leave a block out.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from roomhub import Runtime
from roomhub.cli import _parser
from roomhub.transports import memory

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\s`]*)[^\n`]*$")
COMMENT = re.compile(r"^ *<!-- (?P<what>test|file): (?P<name>.*?) *-->$")
PYTHON = ("python", "py", "python3")


class Block(NamedTuple):
    language: str
    text: str
    line: int
    test: str | None = None
    file: str | None = None


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page, with what the comments before them say."""
    found: list[Block] = []
    said: dict[str, str] = {}
    lines = iter(enumerate(markdown.splitlines(), 1))
    for number, line in lines:
        if opening := FENCE.match(line):
            body: list[str] = []
            for _, inner in lines:
                if inner.strip() == opening["fence"]:
                    break
                body.append(inner.removeprefix(opening["indent"]))
            else:
                raise ValueError(f"line {number}: the block has no end")
            text = "".join(text + "\n" for text in body)
            found.append(Block(opening["language"], text, number, said.get("test"), said.get("file")))
            said = {}
        elif comment := COMMENT.match(line):
            said[comment["what"]] = comment["name"]
        elif line.strip():
            said = {}
    return found


class Program(NamedTuple):
    """A Python block with what it needs of its page."""

    block: Block
    files: dict[str, str]
    """Those above it on the page, and itself if it is one."""
    output: str | None = None
    """What it prints, None where the page does not say."""


def programs(markdown: str) -> list[Program]:
    found: list[Program] = []
    files: dict[str, str] = {}
    for block in blocks(markdown):
        if block.language in PYTHON:
            if block.file is not None:
                files[block.file] = block.text
            found.append(Program(block, dict(files)))
        elif block.test is not None:
            assert (block.language, block.test) == ("text", "output"), f"line {block.line}: what is that test for?"
            assert found, f"line {block.line}: output of no program"
            assert found[-1].output is None, f"line {block.line}: a second output of one program"
            found[-1] = found[-1]._replace(output=block.text)
    return found


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


PROGRAMS = [
    pytest.param(program, id=f"{page.relative_to(ROOT)}:{program.block.line}")
    for page in PAGES
    for program in programs(read(page))
]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_runs(program: Program, tmp_path: Path) -> None:
    block = program.block
    for name, text in program.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    if block.test is not None:
        drive = globals().get(f"drive_{block.test}")
        assert drive, f"no drive_{block.test}() here, and no block may be left out"
        drive(block.text, tmp_path)
        return
    if block.file is not None:
        assert program.output is None
        run(tmp_path, "-c", f"import {block.file.removesuffix('.py')}")
        return
    for name, text in on_both_event_loops(block.text).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        printed = run(tmp_path, name)
        assert program.output in (None, printed)


def on_both_event_loops(text: str) -> dict[str, str]:
    """The program as it is, and on trio where it leaves the choice to anyio."""
    found = {"program.py": text}
    if "anyio.run(main)" in text:
        assert text.count("anyio.run(main)") == 1
        found["program_on_trio.py"] = text.replace("anyio.run(main)", 'anyio.run(main, backend="trio")')
    return found


def run(folder: Path, *arguments: str) -> str:
    """What Python prints, run in this folder. It must succeed, and have nothing to say of errors."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_readme_embeds_the_hub_in_ten_lines() -> None:
    embed = [block for block in blocks(read(PAGES[0])) if block.test == "embed"]
    assert len(embed) == 1
    assert len([line for line in embed[0].text.splitlines() if line.strip()]) <= 10


# -- programs that do not end by themselves ----------------------------------------------------------------------------


def drive_embed(text: str, folder: Path) -> None:
    """A server that tells what is said, until Ctrl-C or SIGTERM."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        for name, program in on_both_event_loops(text).items():
            with serving(program, folder / name) as (process, url):
                assert process.stdout is not None
                with connect(f"{url}ann", proxy=None) as ann, connect(f"{url}bob", proxy=None) as bob:
                    talk(ann.send, bob.recv)
                    assert process.stdout.readline() == "ann hello\n"
                    interrupt(process, ending, bob.recv)
                output, errors = process.communicate(timeout=20)
                assert (process.returncode, output, errors) == (0, "", "")


def drive_signal(text: str, folder: Path) -> None:
    """A server that SIGTERM ends, with nothing to say."""
    for name, program in on_both_event_loops(text).items():
        with serving(program, folder / name) as (process, url):
            with connect(f"{url}ann", proxy=None) as ann, connect(f"{url}bob", proxy=None) as bob:
                talk(ann.send, bob.recv)
                interrupt(process, signal.SIGTERM, bob.recv)
            output, errors = process.communicate(timeout=20)
            assert (process.returncode, output, errors) == (0, "", "")


@contextmanager
def serving(text: str, program: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The program on a free port, and the URL it prints, up to the username."""
    text, count = re.subn(r"port=808\d", "port=0", text)
    assert count == 1
    program.write_text(text, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, program.name],
        cwd=program.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"(ws://\S+?/ws/lobby\?username=)you", line)
            assert found, line
            yield process, found[1]
        finally:
            watchdog.cancel()
            process.kill()


def talk(send: Callable[[str], object], receive: Callable[[float], object]) -> None:
    send("hello")
    while '"chat"' not in (heard := str(receive(10))):
        pass
    assert heard == '{"type":"chat","content":"hello","room":"lobby","username":"ann"}'


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals, receive: Callable[[float], object]) -> None:
    process.send_signal(number)
    with pytest.raises(ConnectionClosed) as caught:
        _receive_all(receive)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012


def _receive_all(receive: Callable[[float], object]) -> None:
    while True:
        receive(10)


def drive_pytest(text: str, folder: Path) -> None:
    """Tests, which pass on both event loops."""
    (folder / "test_page.py").write_text(text, encoding="utf-8")
    options = ("-v", "--rootdir=.", "-p", "no:cacheprovider", "-W", "error", "--color=no")
    said = run(folder, "-m", "pytest", *options, "test_page.py")
    passed = re.findall(r"::(\w+)(?:\[(\w+)[^]]*\])? PASSED", said)
    tests = re.findall(r"^async def (test_\w+)", text, re.MULTILINE)
    assert tests
    assert {(test, loop) for test in tests for loop in ("asyncio", "trio")} <= set(passed)


def drive_transport(text: str, folder: Path) -> None:
    """A module of less than sixty lines; the page's tests are the next block."""
    assert len([line for line in text.splitlines() if line.strip()]) < 60
    run(folder, "-c", "import lines")


def drive_asgi(text: str, folder: Path) -> None:
    """An ASGI application, with a chat that lives as long as it does."""
    assert text.count("port=8081") == 1
    found: dict[str, Any] = {}
    exec(compile(text.replace("port=8081", "port=0"), "webapp.py", "exec"), found)
    for backend in ("asyncio", "trio"):
        anyio.run(_serve_asgi, found["app"], backend=backend)


async def _serve_asgi(app: Callable[..., Coroutine[Any, Any, None]]) -> None:
    state: dict[str, Runtime] = {}
    sent: list[dict[str, Any]] = []
    to_lifespan, lifespan_receives = anyio.create_memory_object_stream[dict[str, str]](1)
    lifespan_sends, from_lifespan = anyio.create_memory_object_stream[dict[str, Any]](1)

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    with to_lifespan, lifespan_receives, lifespan_sends, from_lifespan, anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, {"type": "lifespan", "state": state}, lifespan_receives.receive, lifespan_sends.send)
            await to_lifespan.send({"type": "lifespan.startup"})
            assert await from_lifespan.receive() == {"type": "lifespan.startup.complete"}
            with memory.connect(state["chat"], "ann", "lobby") as ann:
                await app({"type": "http", "path": "/about", "state": dict(state)}, anyio.sleep_forever, send)
                assert [event["type"] for event in sent] == ["http.response.start", "http.response.body"]
                assert sent[1]["body"] == b"ann"
                while '"chat"' not in (heard := await ann.receive()):
                    pass
                assert "somebody looked at /about" in heard
            await to_lifespan.send({"type": "lifespan.shutdown"})
            assert await from_lifespan.receive() == {"type": "lifespan.shutdown.complete"}


# -- commands, and what is not Python ----------------------------------------------------------------------------------


class Surroundings(NamedTuple):
    """What a block that is no Python may refer to."""

    files: frozenset[str]
    """Files that the page tells to save."""
    commands: list[list[str]]
    """All that the page tells to run."""
    folder: Path


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a console block. Nobody checks its output, so it has none."""
    found: list[list[str]] = []
    for line in block.text.splitlines():
        assert line.startswith("$ "), f"line {block.line}: only commands, not {line!r}"
        words = shlex.split(line.removeprefix("$ "), comments=True)
        words = words[: words.index(">")] if ">" in words else words
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found.append(words)
    return found


def check_console(block: Block, around: Surroundings) -> None:
    for name, *arguments in commands_of(block):
        check = COMMANDS.get(name)
        assert check, f"line {block.line}: nobody knows how to check {name!r}"
        check(arguments, around)


def check_roomhub(arguments: list[str], around: Surroundings) -> None:
    assert _parser().parse_args(arguments).command in ("serve", "chat", "mod", "token")


def check_make(arguments: list[str], around: Surroundings) -> None:
    targets = re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE)
    for argument in arguments:
        assert argument in targets or re.fullmatch(r"[A-Z]+=.*", argument), argument


def check_pip(arguments: list[str], around: Surroundings) -> None:
    install, *wanted = arguments
    assert install == "install"
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    tools = [word for name in ("serve.in", "test.in") for word in read(ROOT / "requirements" / name).split()]
    for requirement in wanted:
        own = re.fullmatch(r"\.(?:\[([\w,]+)\])?", requirement)
        assert requirement in tools if own is None else set((own[1] or "").split(",")) <= {*extras, ""}, requirement


def check_websockets(arguments: list[str], around: Surroundings) -> None:
    (url,) = arguments
    parts = urlsplit(url)
    assert parts.scheme in ("ws", "wss")
    assert re.fullmatch(r"/ws/\w+", parts.path)
    assert parts.query.startswith("username=")


def check_python(arguments: list[str], around: Surroundings) -> None:
    assert arguments in (["-m", "venv", ".venv"], *([file] for file in around.files)), arguments


def check_page_file(arguments: list[str], around: Surroundings) -> None:
    assert set(arguments) <= around.files


def check_nothing(arguments: list[str], around: Surroundings) -> None:
    """Not ours, and nothing in it that could be out of date."""


COMMANDS: dict[str, Callable[[list[str], Surroundings], None]] = {
    ".": check_nothing,
    "make": check_make,
    "nc": check_nothing,
    "pip": check_pip,
    "pytest": check_page_file,
    "python": check_python,
    "roomhub": check_roomhub,
    "websockets": check_websockets,
}


def check_js(block: Block, around: Surroundings) -> None:
    """What a browser's console is told, in Node.js with a WebSocket client from npm."""
    assert block.text.count("127.0.0.1:8080") == 1
    server = "import anyio, roomhub.cli; roomhub.cli.main(['serve', '--port', '0', '--log-level', 'error'])"
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ws://").strip()
            script = around.folder / "console.cjs"
            client = 'WebSocket = require("ws");\nsetTimeout(() => process.exit(1), 20000).unref();\n'
            script.write_text(client + block.text.replace("127.0.0.1:8080", url), encoding="utf-8")
            modules = str(ROOT / "tests" / "node" / "node_modules")
            with subprocess.Popen(
                ["node", str(script)], env={**os.environ, "NODE_PATH": modules}, stdout=subprocess.PIPE, text=True
            ) as node:
                assert node.stdout is not None
                kinds = [json.loads(node.stdout.readline())["type"] for _ in range(3)]
                node.kill()
            assert kinds == ["online_users", "user_joined", "chat"]
        finally:
            process.terminate()


def check_proxy(block: Block, around: Surroundings) -> None:
    """Braces match, and the server behind it is one that the page starts."""
    assert block.text.count("{") == block.text.count("}") > 0
    behind = re.findall(r"127\.0\.0\.1:\d+|unix[:/]/[\w/.]+", block.text)
    assert behind
    for options in (_parser().parse_args(words[1:]) for words in around.commands if words[:2] == ["roomhub", "serve"]):
        listening = f"127.0.0.1:{options.port or 8080}" if options.uds is None else f"unix:{options.uds}"
        behind = [place for place in behind if place.replace("unix//", "unix:/") != listening]
    assert not behind, f"nothing on the page listens at {behind}"


def check_nothing_of(block: Block, around: Surroundings) -> None:
    """Not code."""


CHECKS: dict[str, Callable[[Block, Surroundings], None]] = {
    "caddyfile": check_proxy,
    "console": check_console,
    "js": check_js,
    "nginx": check_proxy,
    "text": check_nothing_of,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_python_holds_too(page: Path, tmp_path: Path) -> None:
    found = blocks(read(page))
    files = frozenset(block.file for block in found if block.file is not None)
    commands = [words for block in found if block.language == "console" for words in commands_of(block)]
    for block in found:
        if block.language not in PYTHON and not block.language.startswith("{"):  # a directive of MyST's
            check = CHECKS.get(block.language)
            assert check, f"line {block.line}: nobody knows how to check {block.language!r}"
            check(block, Surroundings(files, commands, tmp_path))


# -- the extractor itself ----------------------------------------------------------------------------------------------

SAMPLE = """
<!-- file: one.py -->
<!-- test: first -->
```python
one = 1

two = 2
```
<!-- test: forgotten -->
text between them
```python
three = 3
```

1. In a list:

   <!-- test: second -->

   ````python
   if True:
       "```"
   ````
```console
$ ls
```
"""


def test_blocks_and_their_comments_are_found() -> None:
    assert blocks(SAMPLE) == [
        Block("python", "one = 1\n\ntwo = 2\n", 4, "first", "one.py"),
        Block("python", "three = 3\n", 11),
        Block("python", 'if True:\n    "```"\n', 19, "second"),
        Block("console", "$ ls\n", 23),
    ]


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 2"):
        blocks("text\n```python\nx\n")


def test_a_program_has_the_files_above_it_and_the_output_below_it() -> None:
    page = (
        "<!-- file: a.py -->\n```python\na = 1\n```\n"
        "```python\nprint(1)\n```\n<!-- test: output -->\n```text\n1\n```\n"
        "<!-- file: a.py -->\n```python\na = 2\n```\n"
    )
    assert [(program.files, program.output) for program in programs(page)] == [
        ({"a.py": "a = 1\n"}, None),
        ({"a.py": "a = 1\n"}, "1\n"),
        ({"a.py": "a = 2\n"}, None),
    ]


@pytest.mark.parametrize("comment", ["skip because of reasons", "nobody_drives_this"])
def test_no_block_can_be_left_out(comment: str, tmp_path: Path) -> None:
    (program,) = programs(f"<!-- test: {comment} -->\n```python\n1 / 0\n```\n")
    with pytest.raises(AssertionError, match="no block may be left out"):
        test_the_program_runs(program, tmp_path)


@pytest.mark.parametrize("comment", ["", "<!-- file: a.py -->\n"])
def test_a_block_that_fails_fails(comment: str, tmp_path: Path) -> None:
    (program,) = programs(f"{comment}```python\n1 / 0\n```\n")
    with pytest.raises(AssertionError, match="division by zero"):
        test_the_program_runs(program, tmp_path)


def test_output_that_differs_fails(tmp_path: Path) -> None:
    (program,) = programs("```python\nprint(1)\n```\n<!-- test: output -->\n```text\n2\n```\n")
    with pytest.raises(AssertionError):
        test_the_program_runs(program, tmp_path)


@pytest.mark.parametrize(
    "block",
    [
        Block("console", "$ roomhub serve --no-such-flag\n", 1),
        Block("console", "$ make nonsense\n", 1),
        Block("console", "$ python missing.py\n", 1),
        Block("console", "$ pip install '.[nonsense]'\n", 1),
        Block("console", "$ frobnicate\n", 1),
        Block("console", "output\n", 1),
        Block("nginx", "server { proxy_pass http://127.0.0.1:9; }\n", 1),
        Block("nginx", "server { proxy_pass http://127.0.0.1:8080;\n", 1),
    ],
)
def test_what_does_not_hold_fails(block: Block, tmp_path: Path) -> None:
    around = Surroundings(frozenset(), [["roomhub", "serve"]], tmp_path)
    with pytest.raises((AssertionError, SystemExit)):
        CHECKS[block.language](block, around)
