"""Every Python block of the README and of docs/ runs.

A block under a comment ``<!-- test: name -->`` is driven by the function ``drive_name`` here; any other is a whole
program that ends by itself with status 0. There is no way to leave one out.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from roomhub.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[^\n]*$")
COMMENT = re.compile(r"^ *<!-- test: (?P<name>.*?) *-->$")


class Block(NamedTuple):
    language: str
    text: str
    line: int
    test: str | None
    """What its comment says, None if it has none."""


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    comment: str | None = None
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
            found.append(Block(opening["language"], "".join(text + "\n" for text in body), number, comment))
            comment = None
        elif line.strip():
            said = COMMENT.match(line)
            comment = said["name"] if said else None
    return found


PROGRAMS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"))
    if block.language in ("python", "py", "python3")
]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("block", PROGRAMS)
def test_the_block_runs(block: Block, tmp_path: Path) -> None:
    if block.test is not None:
        drive = globals().get(f"drive_{block.test}")
        assert drive, f"no drive_{block.test}() here, and no block may be left out"
        drive(block.text, tmp_path)
        return
    program = tmp_path / "program.py"
    program.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_readme_embeds_the_hub_in_ten_lines() -> None:
    embed = [block for block in blocks(PAGES[0].read_text(encoding="utf-8")) if block.test == "embed"]
    assert len(embed) == 1
    assert len([line for line in embed[0].text.splitlines() if line.strip()]) <= 10


def test_the_commands_of_the_pages_exist() -> None:
    commands = [
        shlex.split(line.removeprefix("$ "), comments=True)
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.language == "console"
        for line in block.text.splitlines()
        if line.startswith("$ roomhub serve ")
    ]
    assert commands
    for command in commands:
        assert _parser().parse_args(command[1:]).command == "serve"


def drive_embed(text: str, folder: Path) -> None:
    """A server that runs until Ctrl-C, on both event loops."""
    assert text.count("port=8080") == 1
    assert text.count("anyio.run(main)") == 1
    text = text.replace("port=8080", "port=0")
    _talk_and_interrupt(text, folder / "on_asyncio.py")
    _talk_and_interrupt(text.replace("anyio.run(main)", 'anyio.run(main, backend="trio")'), folder / "on_trio.py")


def _talk_and_interrupt(text: str, program: Path) -> None:
    program.write_text(text, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(program)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"(ws://\S+?/ws/lobby\?username=)you", line)
            assert found, line
            with connect(f"{found[1]}ann", proxy=None) as ann, connect(f"{found[1]}bob", proxy=None) as bob:
                ann.send("hello")
                while '"chat"' not in (heard := str(bob.recv(10))):
                    pass
                assert heard == '{"type":"chat","content":"hello","room":"lobby","username":"ann"}'
                assert process.stdout.readline() == "ann says hello\n"
                # trio raises KeyboardInterrupt in whatever runs; only an idle program is sure to get it in main().
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                with pytest.raises(ConnectionClosed) as caught:
                    _receive_all(bob.recv)
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 1012
            _, errors = process.communicate(timeout=20)
            assert "KeyboardInterrupt" in errors.splitlines()[-1] + errors.splitlines()[-2]
            assert "Exception ignored" not in errors
        finally:
            watchdog.cancel()
            process.kill()


def _receive_all(receive: Callable[[float], object]) -> None:
    while True:
        receive(10)


# -- the extractor itself ----------------------------------------------------------------------------------------------

SAMPLE = """
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
        Block("python", "one = 1\n\ntwo = 2\n", 3, "first"),
        Block("python", "three = 3\n", 10, None),
        Block("python", 'if True:\n    "```"\n', 18, "second"),
        Block("console", "$ ls\n", 22, None),
    ]


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 2"):
        blocks("text\n```python\nx\n")


@pytest.mark.parametrize("comment", ["skip because of reasons", "nobody_drives_this"])
def test_no_block_can_be_left_out(comment: str, tmp_path: Path) -> None:
    (block,) = blocks(f"<!-- test: {comment} -->\n```python\n1 / 0\n```\n")
    with pytest.raises(AssertionError, match="no block may be left out"):
        test_the_block_runs(block, tmp_path)


def test_a_block_that_fails_fails(tmp_path: Path) -> None:
    (block,) = blocks("```python\n1 / 0\n```\n")
    with pytest.raises(AssertionError, match="division by zero"):
        test_the_block_runs(block, tmp_path)
