"""``python -m roomhub serve`` and ``roomhub``: what each flag does, how it ends, and what it says of a bad one."""

import gc
import json
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect, unix_connect
from websockets.typing import Origin

from roomhub.cli import main

SCRIPT = Path(sys.executable).with_name("roomhub")
START_TIMEOUT_S = 30


class Serving:
    """A real ``roomhub serve``, once it listens."""

    def __init__(
        self, *flags: str, command: tuple[str, ...] = (sys.executable, "-W", "error", "-m", "roomhub"), **env: str
    ):
        self.process = subprocess.Popen(
            [*command, "serve", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        self._out: queue.Queue[str] = queue.Queue()
        self._err: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._out.put), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._err.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            line = self._out.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            self.process.kill()
            raise AssertionError(f"it does not listen: {self._err}") from None
        found = re.fullmatch(r"listening on (\S+)\n", line)
        assert found, (line, self._err)
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2]) if self.url[-1].isdigit() else 0

    @staticmethod
    def _read(stream: Any, take: Any) -> None:
        with stream:
            for line in stream:
                take(line)

    def connect(self, path: str = "/ws/lobby?username=ann", **options: Any) -> ClientConnection:
        options.setdefault("compression", None)
        client: ClientConnection = connect(f"{self.url}{path}", open_timeout=10, close_timeout=2, proxy=None, **options)
        return client

    def end(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10) -> str:
        """Send the signal; it must exit with 0 in time. Gives what it wrote to stderr."""
        self.process.send_signal(number)
        try:
            assert self.process.wait(within_s) == 0, self._err
        finally:
            self.process.kill()
            self.process.wait()
            for reader in self._readers:
                reader.join(5)
        text = "".join(self._err)
        assert "Traceback" not in text
        assert "Exception ignored" not in text
        assert self._out.empty()  # stdout is for the one line
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            if error is None:
                self.end()
            self.process.kill()
        self.process.wait()


def fetch(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def refusal(serving: Serving, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        serving.connect(**options)
    return caught.value.response.status_code


def end_of(client: ClientConnection) -> tuple[int, str]:
    """The code and the reason that the server closes with."""
    close = None
    while close is None:
        try:
            client.recv(10)
        except ConnectionClosed as closed:
            close = closed.rcvd
            assert close  # not any error, but what came before it
    return close.code, close.reason


def selectors_of(process: subprocess.Popen[str]) -> int | None:
    """How many epoll descriptors a process has; None where there is no telling."""
    folder = Path(f"/proc/{process.pid}/fd")
    if not folder.is_dir():
        return None
    count = 0
    for entry in folder.iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += "eventpoll" in os.readlink(entry)
    return count


# -- it serves, and ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "imported", "selectors", "number"),
    [
        ((), "asyncio", 2, signal.SIGTERM),
        (("--driver", "reactor", "--uvloop"), "uvloop", 2, signal.SIGINT),
        (("--driver", "reactor", "--backend", "trio"), "trio", 2, signal.SIGTERM),
        (("--driver", "streams", "--backend", "asyncio"), "asyncio", 1, signal.SIGINT),
        (("--driver", "streams", "--uvloop"), "uvloop", 1, signal.SIGTERM),
        (("--driver", "streams", "--backend", "trio"), "trio", 1, signal.SIGINT),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_it_serves_on_what_was_asked_for_and_a_signal_drains_it(
    flags: tuple[str, ...], imported: str, selectors: int, number: signal.Signals
) -> None:
    with Serving("--port", "0", *flags, PYTHONPROFILEIMPORTTIME="1") as serving:
        assert serving.url == f"ws://127.0.0.1:{serving.port}"
        with serving.connect() as ann, serving.connect("/ws/lobby?username=ben") as ben:
            ann.send("hi")
            while '"chat"' not in (text := ben.recv(10)):
                pass
            assert text == '{"type":"chat","content":"hi","room":"lobby","username":"ann"}'
            assert fetch(f"http://127.0.0.1:{serving.port}/health") == (200, '{"status":"ok"}')
            assert selectors_of(serving.process) in (selectors, None)
            begin = time.monotonic()
            log = serving.end(number)
            assert time.monotonic() - begin < 5
            for client in (ann, ben):
                assert end_of(client) == (1012, "draining")
    assert f"{number.name}: closing 2 connections" in log
    names = {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}
    assert imported in names
    assert not {"uvloop", "trio"} - {imported} & names


def test_the_console_script_does_the_same() -> None:
    with Serving("--port", "0", "--host", "localhost", "--log-level", "warning", command=(str(SCRIPT),)) as serving:
        assert serving.url.startswith("ws://localhost:")
        with serving.connect() as ann:
            assert "ann" in str(ann.recv(10))
        assert serving.end() == ""  # the signal is no warning


@pytest.mark.parametrize("command", [(sys.executable, "-m", "roomhub"), (str(SCRIPT),)], ids=["module", "script"])
def test_it_says_its_version(command: tuple[str, ...]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (f"roomhub {version('roomhub')}\n", "")


@pytest.mark.parametrize("limit", ["close_timeout_s", "drain_timeout_s"])
@pytest.mark.parametrize("driver", ["reactor", "streams"])
def test_a_peer_that_ignores_the_close_delays_the_end_by_the_timeout_alone(driver: str, limit: str) -> None:
    flags = ("--port", "0", "--driver", driver, "--set", f"{limit}=0.3", "--log-level", "error")
    with Serving(*flags) as serving, socket.create_connection(("127.0.0.1", serving.port), timeout=10) as deaf:
        deaf.sendall(
            b"GET /ws/lobby?username=deaf HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert deaf.recv(100).startswith(b"HTTP/1.1 101")
        begin = time.monotonic()
        assert serving.end() == ""
        assert 0.25 < time.monotonic() - begin < 4


# -- what each flag does -----------------------------------------------------------------------------------------------


def test_flags_of_a_server_behind_a_proxy() -> None:
    """--compression, --allow-origin, --trusted-proxy, --set, --metrics-port"""
    metrics_port = free_port()
    with Serving(
        *(
            "--port",
            "0",
            "--compression",
            "on",
            "--allow-origin",
            "https://a.example",
            "--trusted-proxy",
            "127.0.0.0/8",
        ),
        *("--allow-origin", "https://b.example", "--set", "connections_per_address=1", "--set", "message_bytes=10"),
        *("--metrics-port", str(metrics_port), "--log-level", "debug"),
    ) as serving:
        with ExitStack() as stack:
            clients = [
                stack.enter_context(
                    serving.connect(
                        f"/ws/lobby?username=u{number}",
                        origin=Origin(f"https://{host}.example"),
                        additional_headers={"X-Forwarded-For": f"10.0.0.{number}"},
                        compression="deflate",
                    )
                )
                for number, host in enumerate("ab")
            ]
            assert [len(client.protocol.extensions) for client in clients] == [1, 1]
            assert refusal(serving, additional_headers={"X-Forwarded-For": "10.0.0.1"}) == 503
            assert refusal(serving, origin=Origin("https://c.example")) == 403
            status, text = fetch(f"http://127.0.0.1:{metrics_port}/metrics")
            assert status == 200
            assert "\nroomhub_connections 2\n" in text
            assert fetch(f"http://127.0.0.1:{serving.port}/metrics")[0] == 404
            clients[0].send("0123456789")
            clients[0].send("0123456789+")
            assert end_of(clients[0])[0] == 1009
        assert "Using selector" in serving.end()  # asyncio says so when debugging


def test_a_slow_client_of_v1_is_closed_or_skips() -> None:
    """--slow"""
    v1: Any = {"subprotocols": ["roomhub.v1.json"], "max_queue": 1}
    limits = ("--set", "v1_lag_messages=20", "--set", "message_burst=1000")
    for flags, end in ((("--slow", "skip"), "gap"), ((), "bye")):
        with Serving("--port", "0", *limits, *flags) as serving:
            ann, ben = (serving.connect(f"/ws/lobby?username={name}", **v1) for name in ("ann", "ben"))
            with ann, ben:
                for client in (ann, ben):
                    client.send('{"type":"hello","id":1}')
                    assert json.loads(client.recv(10))["type"] == "welcome"
                seen = ""
                for number in range(400):
                    ann.send(json.dumps({"type": "chat", "id": number, "room": "lobby", "content": "x" * 30_000}))
                    while json.loads(ann.recv(10)).get("id") != number:
                        pass
                try:
                    while seen != end:
                        seen = json.loads(ben.recv(10))["type"]
                except ConnectionClosed:
                    seen = "bye"  # cut: it took nothing more
                assert seen == end


def test_without_those_flags() -> None:
    """... and --require-origin"""
    with Serving("--port", "0", "--require-origin") as serving:
        own = Origin(f"http://127.0.0.1:{serving.port}")
        assert refusal(serving) == 403
        assert refusal(serving, origin=Origin("https://a.example")) == 403
        with serving.connect(origin=own, compression="deflate") as ann:
            assert ann.protocol.extensions == []
            assert fetch(f"http://127.0.0.1:{serving.port}/metrics")[0] == 200
        assert "Using selector" not in serving.end()
    with Serving("--port", "0", "--set", "connections_per_address=1") as serving, serving.connect():
        assert refusal(serving, additional_headers={"X-Forwarded-For": "10.0.0.2"}) == 503


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_unix_socket(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "chat.sock"
    with Serving("--uds", str(path), "--backend", backend) as serving:
        assert serving.url == f"ws+unix://{path}"
        assert path.is_socket()
        with unix_connect(str(path), "ws://localhost/ws/lobby?username=ann", open_timeout=10, close_timeout=2) as ann:
            assert "ann" in str(ann.recv(10))
        serving.end()
    assert not path.exists()


def test_a_proxy_at_a_unix_socket_is_believed(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sock")
    flags = ("--trusted-proxy", "127.0.0.1/32", "--set", "connections_per_address=1")
    with Serving("--uds", path, *flags) as serving, ExitStack() as stack:
        for address in ("10.0.0.1", "10.0.0.2"):
            headers = {"X-Forwarded-For": address}
            url = "ws://localhost/ws/lobby?username=ann"
            stack.enter_context(unix_connect(path, url, additional_headers=headers, open_timeout=10, close_timeout=2))
        with pytest.raises(InvalidStatus) as caught:
            unix_connect(path, url, additional_headers=headers, open_timeout=10)
        assert caught.value.response.status_code == 503
        serving.end()


class Certificate:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.chain, self.key, self.both = (str(folder / name) for name in ("chain.pem", "key.pem", "both.pem"))
        issued.cert_chain_pems[0].write_to_path(self.chain)
        issued.private_key_pem.write_to_path(self.key)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.encrypted = str(folder / "encrypted.pem")
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        Path(self.encrypted).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize(("backend", "files"), [("asyncio", "two"), ("trio", "one")])
def test_tls(certificate: Certificate, backend: str, files: str) -> None:
    flags: tuple[str, ...] = ("--tls-cert", certificate.chain, "--tls-key", certificate.key)
    if files == "one":
        flags = ("--tls-cert", certificate.both)
    with Serving("--port", "0", "--backend", backend, *flags) as serving:
        assert serving.url.startswith("wss://127.0.0.1:")
        with serving.connect(ssl=certificate.context) as ann:
            assert "ann" in str(ann.recv(10))
        serving.end()


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's limits")
def test_the_open_file_limit_is_raised_to_its_hard_one() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(200, soft)
    assert lowered < hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    try:
        serving = Serving("--port", "0", "--log-level", "error")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with serving:
        assert resource.prlimit(serving.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        assert serving.end() == ""


# -- what is wrong is said in one line ---------------------------------------------------------------------------------


@pytest.fixture
def _gc_threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says, on one line of stderr, before it ends with 2."""
    try:
        code: object = main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err.startswith("roomhub")
    return str(err)


@pytest.mark.parametrize(
    ("arguments", "flag", "fix"),
    [
        ("", "COMMAND", "--help"),
        ("frob", "frob", "serve"),
        ("serve --frob", "--frob", "--help"),
        ("serve extra", "extra", "--help"),
        ("serve --por 1", "--por", "--help"),
        ("serve --host", "--host", "one argument"),
        ("serve --port 70000", "--port", "0 to 65535"),
        ("serve --port -1", "--port", ""),
        ("serve --port http", "--port", "0 to 65535"),
        ("serve --metrics-port x", "--metrics-port", "0 to 65535"),
        ("serve --metrics-port 0", "--metrics-port", "of its own"),
        ("serve --metrics-port 8080", "--metrics-port and --port", "different"),
        ("serve --port 9000 --metrics-port 9000", "--metrics-port and --port", "different"),
        ("serve --backend curio", "--backend", "asyncio"),
        ("serve --driver threads", "--driver", "streams"),
        ("serve --compression maybe", "--compression", "off"),
        ("serve --log-level loud", "--log-level", "info"),
        ("serve --uds /tmp/s --port 1", "--uds", "one of them"),
        ("serve --uds /tmp/s --port 0", "--uds", "one of them"),
        ("serve --uds /tmp/s --host ::1", "--uds", "one of them"),
        ("serve --uds /tmp/s --driver reactor", "--driver reactor", "streams"),
        ("serve --uvloop --backend trio", "--uvloop and --backend trio", "asyncio"),
        ("serve --tls-key k.pem", "--tls-key", "--tls-cert"),
        ("serve --tls-cert /nowhere/c.pem", "--tls-cert", "/nowhere/c.pem; give"),
        ("serve --trusted-proxy nonsense", "--trusted-proxy", "10.0.0.0/8"),
        ("serve --trusted-proxy 10.0.0.1/8", "--trusted-proxy", "10.0.0.0/8"),
        ("serve --allow-origin example.org", "--allow-origin", "https://example.org"),
        ("serve --allow-origin https://example.org/", "--allow-origin", "without a path"),
        ("serve --set rooms", "--set", "LIMIT=VALUE"),
        ("serve --set rooms=many", "--set: rooms", "number"),
        ("serve --set rooms=0", "--set: rooms", "more than 0"),
        ("serve --set rooms=-1", "--set: rooms", "more than 0"),
        ("serve --set rooms=nan", "--set: rooms", "more than 0"),
        ("serve --set nonsense=1", "--set", "the limits are message_bytes, "),
        ("serve --set lag_mesages=1", "--set", "did you mean lag_messages"),
        ("serve --set ping_interval_s=61", "--set: ping_interval_s", "less than pong_timeout_s"),
    ],
)
def test_a_bad_flag_is_named_with_its_remedy(
    arguments: str, flag: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = complaint(capsys, *arguments.split())
    assert flag in text
    assert fix in text


def test_several_files_for_tls_that_do_not_fit(
    certificate: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Certificate(tmp_path)
    text = Path(tmp_path, "text.pem")
    text.write_text("hello")
    both = "--tls-cert, --tls-key"
    cert = ("serve", "--tls-cert", certificate.chain)
    assert "--driver reactor" in complaint(capsys, *cert, "--tls-key", certificate.key, "--driver", "reactor")
    assert f"{both}: no certificate with its" in complaint(capsys, *cert, "--tls-key", other.key)
    assert "--tls-key names the key's file" in complaint(capsys, *cert)
    assert "/nowhere/k.pem; give" in complaint(capsys, *cert, "--tls-key", "/nowhere/k.pem")
    assert both in complaint(capsys, "serve", "--tls-cert", str(text), "--tls-key", certificate.key)
    assert both in complaint(capsys, "serve", "--tls-cert", str(tmp_path))


def test_an_encrypted_key_is_no_question_at_a_terminal(
    certificate: Certificate, capsys: pytest.CaptureFixture[str]
) -> None:
    text = complaint(capsys, "serve", "--tls-cert", certificate.chain, "--tls-key", certificate.encrypted)
    assert "unencrypted" in text


@pytest.mark.parametrize(("flags", "extra"), [(["--uvloop"], "uvloop"), (["--backend", "trio"], "trio")])
def test_an_extra_that_is_not_installed_is_named(
    flags: list[str], extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomhub.cli.find_spec", lambda name: None)
    text = complaint(capsys, "serve", *flags)
    assert " ".join(flags) in text
    assert f"pip install 'roomhub[{extra}]'" in text


@pytest.mark.usefixtures("_gc_threshold")
@pytest.mark.parametrize("driver", ["reactor", "streams"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_cannot_be_listened_at_is_named(
    driver: str, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("serve", "--driver", driver, "--backend", backend)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        taken = str(sock.getsockname()[1])
        text = complaint(capsys, *flags, "--port", taken)
        assert f"--port: cannot listen at 127.0.0.1:{taken}: Address already in use; choose another" in text
        text = complaint(capsys, *flags, "--port", "0", "--metrics-port", taken)
        assert f"--metrics-port: cannot listen at 127.0.0.1:{taken}: Address already in use; choose another" in text
    assert "--host: cannot listen at" in complaint(capsys, *flags, "--port", "0", "--host", "nowhere.invalid")
    assert "--host: cannot listen at" in complaint(capsys, *flags, "--port", "0", "--host", "a" * 64 + ".example")
    assert "--host: cannot listen at" in complaint(capsys, *flags, "--port", "0", "--host", "192.0.2.1")
    if driver == "streams":
        for path in ("/nowhere/chat.sock", str(tmp_path), "/tmp/" + "x" * 200):
            assert f"--uds: cannot listen at {path}" in complaint(capsys, *flags, "--uds", path)


def test_in_a_process_of_its_own_a_taken_port_ends_it_with_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        taken = sock.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "roomhub", "serve", "--port", str(taken)], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"roomhub serve: --port: cannot listen at 127.0.0.1:{taken}: Address already in use; choose another\n"
    )
