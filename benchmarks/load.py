"""The load generator: ``load.c`` compiled, started, and what it prints read."""

import json
import os
import resource
import select
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["BUILD", "ROOT", "CannotMeasure", "Load", "allow_open_files", "compile_load"]

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "benchmarks" / "load.c"
BUILD: Final = ROOT / "build" / "bench"
"""Where what is compiled goes; ``make clean`` removes it."""
JOIN_TIMEOUT_S: Final = 240.0
MEASURE_TIMEOUT_S: Final = 240.0


class CannotMeasure(Exception):
    """Something a measurement needs is missing or went wrong; its text says what, in a line."""


def compile_load() -> Path:
    """The load generator's program, compiled if its source is newer.

    Raises:
        CannotMeasure: there is no C compiler, or it fails.
    """
    program = BUILD / "load"
    if program.exists() and program.stat().st_mtime >= SOURCE.stat().st_mtime:
        return program
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotMeasure("no C compiler: install gcc or clang, or name one in CC")
    BUILD.mkdir(parents=True, exist_ok=True)
    # Under a name of its own first: several test runs may compile at once.
    fresh = BUILD / f"load.{os.getpid()}"
    command = [compiler, "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(fresh), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMeasure(f"load.c does not compile: {done.stderr.strip()}")
    fresh.replace(program)
    return program


def allow_open_files(count: int) -> None:
    """Let this process and those it starts open so many files.

    Raises:
        CannotMeasure: the hard limit is lower and may not be raised.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
        except (ValueError, OSError):
            raise CannotMeasure(
                f"{count} open files are needed and {hard} allowed: raise the hard limit (ulimit -Hn {count})"
            ) from None
    elif soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else hard, hard))


class Load:
    """A running load generator, with every member joined and quiet once it is made.

    Args:
        port: where the server listens, on 127.0.0.1.
        options: the program's own, ``in_flight=16`` for ``--in-flight 16``; ``load`` without any lists them.

    Attributes:
        joined: what it printed when all were in, ``took_s`` among it.

    Raises:
        CannotMeasure: it cannot be compiled, or ends before all are in.
    """

    def __init__(self, port: int, **options: str | float) -> None:
        command = [str(compile_load()), "--port", str(port)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            self.joined: dict[str, Any] = self._read("joined", JOIN_TIMEOUT_S)
        except BaseException:
            self._end()
            raise

    def measure(self) -> dict[str, Any]:
        """Let them talk; returns what it measured. The members stay connected until the ``with`` block ends.

        Raises:
            CannotMeasure: the load generator ended, or nothing came of it in time.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; why is read below
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._read("measured", MEASURE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _read(self, what: str, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # It prints whole lines and nothing else, so a readable pipe has one.
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise CannotMeasure(f"the load generator: not {what} after {timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise CannotMeasure(self._process.stderr.read().strip() or "the load generator ended without a word")
        found: dict[str, Any] = json.loads(line)[what]
        return found

    def _end(self) -> None:
        process = self._process
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(2)
        except (subprocess.TimeoutExpired, OSError):
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
