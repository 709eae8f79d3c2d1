"""What is measured: roomhub and its peers, how each is started, and what it takes of the machine."""

import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from benchmarks.load import BUILD, ROOT, CannotMeasure

__all__ = ["LIFTED", "SERVERS", "Running", "Server", "find_servers", "machine", "roomhub", "running"]

PEERS: Final = Path(__file__).resolve().parent / "peers"
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
LIFTED: Final = ("--set", "message_rate_per_s=inf", "--set", "connections_per_address=inf")
"""A benchmark's clients all come from one address and talk as fast as they can."""
DEBIAN_GO: Final = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go libraries."""


@dataclass(frozen=True)
class Server:
    """A program that serves rooms and prints ``listening on URL`` once it does.

    Attributes:
        versions: of all that it is made of, for a reader.
        dialect: what its clients speak, of those that ``load.c`` knows.
    """

    name: str
    versions: str
    command: tuple[str, ...]
    dialect: str = "plain"


class Running:
    """A server that listens.

    Attributes:
        output: what it printed until it ended.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self._process = process
        self.pid: int = process.pid
        self.port: int = port
        self.output: str = ""

    def resident_kib(self) -> int:
        # Not VmRSS of status, which may be off by 256 KiB a thread.
        return self._kib("smaps_rollup", "Rss:")

    def reset_peak(self) -> None:
        """Begin a new ``peak_resident_kib``."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5): 5 resets the peak resident set size

    def peak_resident_kib(self) -> int:
        return self._kib("status", "VmHWM:")

    def _kib(self, file: str, key: str) -> int:
        try:
            text = Path(f"/proc/{self.pid}/{file}").read_text()
        except OSError as error:
            raise CannotMeasure(f"the server's memory cannot be read: {error}") from None
        for line in text.splitlines():
            if line.startswith(key):
                return int(line.split()[1])
        # A process that has ended and is not waited for has files without these lines.
        raise CannotMeasure("the server has ended")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self.output, _ = self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.output, _ = self._process.communicate()


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Run a server as a child on a free port of loopback.

    Raises:
        CannotMeasure: it does not say in time where it listens.
    """
    process = subprocess.Popen(
        server.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    here = Running(process, 0)
    try:
        assert process.stdout is not None
        line = process.stdout.readline() if select.select([process.stdout], [], [], START_TIMEOUT_S)[0] else ""
        words = line.split()
        if words[:2] != ["listening", "on"]:
            raise CannotMeasure(f"{server.name} does not start: {line.strip() or 'it says nothing'}")
        here.port = int(words[2].rpartition(":")[2].rstrip("/"))
        time.sleep(0.3)  # what it does right after its start is not what its connections take
        yield here
    finally:
        here.stop()


def roomhub(*flags: str, name: str = "roomhub") -> Server:
    """roomhub's own server, with the limits lifted that would stop a benchmark, and further flags."""
    command = (sys.executable, "-m", "roomhub", "serve", "--port", "0", "--log-level", "error", *LIFTED, *flags)
    return Server(name, f"roomhub {version('roomhub')}, Python {platform.python_version()}", command)


def find_servers(names: Iterable[str]) -> tuple[list[Server], dict[str, str]]:
    """Those of ``SERVERS`` that can run here, as asked for; and by name why others cannot."""
    servers: list[Server] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            servers.append(SERVERS[name]())
        except CannotMeasure as error:
            left_out[name] = str(error)
    return servers, left_out


def _python_peer(name: str, *distributions: str) -> Server:
    try:
        versions = ", ".join(f"{distribution} {version(distribution)}" for distribution in distributions)
    except PackageNotFoundError as error:
        raise CannotMeasure(f"{error.name} is not installed (requirements/bench.txt)") from None
    dialect = "socketio" if name == "socketio" else "plain"
    return Server(name, versions, (sys.executable, str(PEERS / f"{name}_hub.py")), dialect)


def _bun() -> Server:
    folder = PEERS / "bun"
    if not (folder / "node_modules").exists():
        npm = shutil.which("npm")
        if npm is None:
            raise CannotMeasure("npm is not installed, which would bring Bun")
        done = subprocess.run(
            [npm, "ci", "--loglevel=error"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotMeasure(f"npm cannot install Bun: {(done.stderr.strip() or 'no reason given').splitlines()[0]}")
    # The package's own start script is made by an install script, which is not run; the binaries are packages too. Of
    # those that npm found fit for this machine, the first that starts: one of them wants AVX2.
    for program in sorted((folder / "node_modules" / "@oven").glob("*/bin/bun")):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Server("bun", f"Bun {done.stdout.strip()}", (str(program), str(folder / "hub.js")))
    raise CannotMeasure("npm has no Bun that starts on this machine")


def _gorilla() -> Server:
    go = shutil.which("go")
    if go is None:
        raise CannotMeasure("Go is not installed (Debian: golang-go, golang-github-gorilla-websocket-dev)")
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "gorilla"
    source = PEERS / "go"
    environment = dict(os.environ)
    library = "gorilla/websocket 1.5.0"  # as go.mod has it
    if (DEBIAN_GO / "src/github.com/gorilla/websocket").exists():
        # Built from Debian's sources, with nothing to fetch.
        environment |= {"GO111MODULE": "off", "GOPATH": f"{BUILD / 'gopath'}{os.pathsep}{DEBIAN_GO}"}
        query = ["dpkg-query", "--show", "--showformat", "${Version}", "golang-github-gorilla-websocket-dev"]
        packaged = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        library = f"gorilla/websocket {packaged or 'of an unknown version'}"
    # The hub's own revision, which Go would ask git for, is of no use.
    command = [go, "build", "-buildvcs=false", "-o", str(program), "."]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise CannotMeasure(f"Go cannot build the hub (Debian: golang-github-gorilla-websocket-dev): {last}")
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout.split()
    return Server("gorilla", f"{library}, Go {said[2].removeprefix('go')}", (str(program),))


SERVERS: Final[dict[str, Callable[[], Server]]] = {
    "roomhub": roomhub,
    "websockets": lambda: _python_peer("websockets", "websockets", "uvloop"),
    "picows": lambda: _python_peer("picows", "picows", "uvloop"),
    "starlette": lambda: _python_peer("starlette", "starlette", "uvicorn", "websockets", "uvloop"),
    "socketio": lambda: _python_peer("socketio", "python-socketio", "uvicorn", "websockets", "uvloop"),
    "bun": _bun,
    "gorilla": _gorilla,
}
"""By name, what makes ready a server to run, or raises ``CannotMeasure``."""


def machine() -> dict[str, object]:
    """What this is measured on; nothing that names the machine itself."""
    processor = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = f"{line.partition(':')[2].strip()} ({platform.machine()})"
                break
    except OSError:
        pass
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }
