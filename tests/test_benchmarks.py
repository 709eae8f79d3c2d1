"""The benchmarks measure what they say: a short run of each part that needs nothing but a C compiler."""

import importlib
import json
import os
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import core, endtoend, load, report, scenarios, servers

command_line = importlib.import_module("benchmarks.__main__")

needs_compiler = pytest.mark.skipif(
    os.environ.get("ROOMHUB_WITHOUT_COMPILER") == "1", reason="ROOMHUB_WITHOUT_COMPILER=1 was asked for"
)

FIGURES: dict[str, Any] = {
    "expected": 100,
    "delivered": 100,
    "disordered": 0,
    "lost_connections": 0,
    "load_core_share": 0.5,
    "server_core_share": 0.99,
}
PART: dict[str, Any] = {
    "measured_on": "2026-01-02",
    "machine": {"processor": "a CPU", "cores": 2, "memory_gib": 8, "system": "Linux 6", "python": "3.13.1"},
}


def a_turn(server: str, round_: int, deliveries_per_s: float, p50_ms: float = 1.0) -> dict[str, Any]:
    return {
        "workload": "quiet",
        "server": server,
        "round": round_,
        "deliveries_per_s": deliveries_per_s,
        "cpu_us_per_delivery": 2.0,
        "p50_ms": p50_ms,
        "p99_ms": 3.0,
        "resident_kib_per_connection": 4.0,
        "load_core_share": 0.25,
    }


RESULTS: dict[str, Any] = {
    "core": {**PART, "median_us": {"publish to 10": 1.25}},
    "endtoend": {
        **PART,
        "rounds": 3,
        "seconds": 2.0,
        "content_bytes": 64,
        "workloads": {"quiet": endtoend.WORKLOADS["quiet"]},
        "servers": {"roomhub": "roomhub 1", "R&D <hub>": "hub 2"},
        "left_out": {"bun": "npm is not installed"},
        "turns": [
            a_turn("roomhub", 0, 3000.0),
            a_turn("R&D <hub>", 0, 1000.0),
            a_turn("roomhub", 1, 8000.0),
            a_turn("R&D <hub>", 1, 4000.0, p50_ms=2.0),
            a_turn("roomhub", 2, 9999.0),  # its peer has no turn that counts in this round
        ],
        "refused": [{"workload": "quiet", "server": "R&D <hub>", "round": 2, "why": "1 message was lost"}],
    },
    "slow": {**PART, "targets": [{"what": "put out", "value": 19, "target": "20", "holds": False}]},
}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for what is compiled."""
    monkeypatch.setattr(load, "BUILD", tmp_path)
    return tmp_path


@needs_compiler
def test_the_load_generator_counts_every_delivery() -> None:
    workload = {"members": 12, "rooms": 3, "talkers": 6, "in_flight": 2}
    figures = endtoend.turn(servers.roomhub(), workload, seed=1, seconds=0.2, warmup=0.1, settle=0.1)
    assert figures["sent"] > 0
    assert figures["expected"] == figures["delivered"] == figures["sent"] * 4
    assert figures["disordered"] == figures["lost_connections"] == 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert figures["server_cpu_s"] > 0
    assert figures["deliveries_per_s"] == figures["delivered"] / figures["lasted_s"]


@needs_compiler
def test_a_number_of_messages_one_at_a_time_beside_a_probe() -> None:
    with (
        servers.running(servers.roomhub()) as here,
        load.Load(here.port, members=5, messages=3, warmup=0, settle=0.1, gap=0.02, probe=0.002) as loading,
    ):
        assert loading.joined["members"] == 5
        figures = loading.measure()
    assert figures["sent"] == 3
    assert figures["expected"] == figures["delivered"] == 15
    assert figures["probe"]["count"] + figures["probe"]["idle_count"] > 0


@needs_compiler
def test_the_clients_of_a_server_that_is_not_there() -> None:
    with pytest.raises(load.CannotMeasure, match="connect: Connection refused"):
        load.Load(1, members=1)


@needs_compiler
def test_what_the_load_generator_is_asked_that_it_does_not_know() -> None:
    with pytest.raises(load.CannotMeasure, match="usage: load --port"):
        load.Load(1, nonsense=1)


@needs_compiler
def test_the_load_generator_compiles_without_a_warning(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (build / "strict-cc").write_text('#!/bin/sh\nexec cc -Werror "$@"\n')
    (build / "strict-cc").chmod(0o755)
    monkeypatch.setenv("CC", str(build / "strict-cc"))
    program = load.compile_load()
    assert program.parent == build
    compiled_ns = program.stat().st_mtime_ns
    assert load.compile_load().stat().st_mtime_ns == compiled_ns, "it was new enough"


def test_a_missing_compiler_is_named(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(load.CannotMeasure, match="no C compiler: install gcc or clang"):
        load.compile_load()


def test_a_compiler_that_fails_is_quoted(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (build / "cc").write_text("#!/bin/sh\necho 'load.c:1: no' >&2\nexit 1\n")
    (build / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(build / "cc"))
    with pytest.raises(load.CannotMeasure, match=r"does not compile: load\.c:1: no"):
        load.compile_load()


@needs_compiler
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_ticker_tells_when_each_sleep_was_over(backend: str) -> None:
    command = (sys.executable, "-m", "benchmarks.ticking", "--backend", backend)
    with (
        servers.running(servers.Server("ticking", "", command)) as here,
        load.Load(here.port, members=2, messages=1, warmup=0, settle=0.1) as loading,
    ):
        began_s = loading.measure()["began_s"]
    ticks = json.loads(here.output)
    assert len(ticks["ended_s"]) == len(ticks["late_s"]) > 0
    assert ticks["ended_s"][0] < began_s + 1
    assert ticks["ended_s"] == sorted(ticks["ended_s"])


def test_a_server_that_does_not_start() -> None:
    command = (sys.executable, "-c", "print('no port left')")
    with (
        pytest.raises(load.CannotMeasure, match="this does not start: no port left"),
        servers.running(servers.Server("this", "", command)),
    ):
        pass


def test_the_memory_of_a_server() -> None:
    command = (sys.executable, "-c", "print('listening on ws://127.0.0.1:1/', flush=True); input()")
    waiting = (*command[:2], command[2].replace("input()", "import time; time.sleep(60)"))
    with servers.running(servers.Server("this", "", waiting)) as here:
        assert here.port == 1
        here.reset_peak()
        assert here.resident_kib() > 1000
        assert here.peak_resident_kib() > 1000
    with servers.running(servers.Server("this", "", command)) as here:  # its input is empty: it has ended by now
        here.stop()
        with pytest.raises(load.CannotMeasure, match="memory cannot be read"):
            here.resident_kib()


def test_a_server_that_heeds_no_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.1)
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('listening on ws://127.0.0.1:1', flush=True); time.sleep(60)"
    )
    with servers.running(servers.Server("this", "", (sys.executable, "-c", program))) as here:
        pass
    assert here._process.returncode == -signal.SIGKILL


def test_what_is_told_of_the_machine_does_not_name_it() -> None:
    machine = servers.machine()
    assert set(machine) == {"processor", "cores", "memory_gib", "system", "python"}
    assert not any("/" in str(value) for value in machine.values() if value != machine["processor"])


def test_peers_that_cannot_run_are_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> servers.Server:
        raise load.CannotMeasure("it is not installed")

    monkeypatch.setitem(servers.SERVERS, "bun", missing)
    found, left_out = servers.find_servers(["roomhub", "bun"])
    assert [server.name for server in found] == ["roomhub"]
    assert left_out == {"bun": "it is not installed"}


def test_a_python_peer_is_asked_of_all_it_needs() -> None:
    with pytest.raises(load.CannotMeasure, match=r"no-such-library is not installed \(requirements/bench.txt\)"):
        servers._python_peer("websockets", "websockets", "no-such-library")


@pytest.mark.parametrize(("find", "program"), [(servers._bun, "npm"), (servers._gorilla, "Go")])
def test_what_brings_a_peer_is_named(
    find: Callable[[], servers.Server], program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers, "PEERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(load.CannotMeasure, match=f"^{program} is not installed"):
        find()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, None),
        ({"delivered": 98}, "2 of 100 deliveries were lost"),
        ({"disordered": 3}, "3 messages came out of order or twice"),
        ({"lost_connections": 1}, "1 connections were lost"),
        ({"load_core_share": 0.95}, None),
        (
            {"load_core_share": 0.95, "server_core_share": 0.7},
            "the load generator took 95% of its core and the server had time to spare",
        ),
    ],
)
def test_why_a_turn_does_not_count(changed: dict[str, Any], why: str | None) -> None:
    assert endtoend.fault({**FIGURES, **changed}) == why


def test_a_turn_that_does_not_count_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[dict[str, Any] | load.CannotMeasure] = [
        load.CannotMeasure("it ended"),
        {**FIGURES, "delivered": 99},
        FIGURES,
    ]

    def turn(*arguments: object, **options: object) -> dict[str, Any]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, load.CannotMeasure):
            raise outcome
        return outcome

    monkeypatch.setattr(endtoend, "turn", turn)
    monkeypatch.setattr(endtoend, "_print_workload", lambda *arguments: None)
    results = endtoend.run(["--servers", "roomhub", "--workloads", "quiet", "--rounds", "1"])
    assert [row["why"] for row in results["refused"]] == ["it ended", "1 of 100 deliveries were lost"]
    assert results["turns"] == [{"workload": "quiet", "round": 0, "server": "roomhub", **FIGURES}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "quiet,loud"], "no workload is called loud: there are quiet, busy"),
        (["--servers", "roomhub,apache"], "no server is called apache: there are roomhub, websockets"),
    ],
)
def test_what_nobody_knows_to_measure(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        endtoend.run(arguments)
    assert message in capsys.readouterr().err


def test_every_call_of_the_core_runs() -> None:
    timed: dict[str, float] = {}

    class Once:
        def bench_time_func(self, name: str, time_func: Callable[[int], float], *, inner_loops: int = 1) -> object:
            timed[name] = time_func(1)
            return None

    for members in (10, 100):
        core.add_publishing(Once(), members)
    core.add_membership(Once())
    core.add_messages(Once())
    assert len(timed) == 8
    assert all(seconds > 0 for seconds in timed.values())


def test_a_scenario_prints_whether_its_targets_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [scenarios._at_most("growth", 24.5, 24, "MiB"), scenarios._exactly("put out", 1000, 1000)]
    monkeypatch.setitem(scenarios.SCENARIOS, "slow", lambda arguments: {"targets": targets})
    assert scenarios.run("slow", [])["targets"] == targets
    assert capsys.readouterr().out.splitlines() == [
        "slow     growth: 24.5 (target ≤ 24 MiB: MISSED)",
        "slow     put out: 1,000 (target 1,000: holds)",
    ]


def test_ratios_are_of_the_same_round() -> None:
    turns = RESULTS["endtoend"]["turns"]
    assert report.ratios(turns, "quiet", "R&D <hub>", "deliveries_per_s") == [3.0, 2.0]
    assert report.ratios(turns, "quiet", "R&D <hub>", "p50_ms") == [1.0, 0.5]
    assert report.ratios(turns, "busy", "R&D <hub>", "p50_ms") == []


def test_the_page_has_all_that_was_measured() -> None:
    page = report.page(RESULTS)
    assert "| roomhub | 8,000 | 2.00 | 1.00 | 3.00 | 4.0 | 25% |" in page
    ratios = "**2.50** (2.00–3.00) | **1.00** (1.00–1.00) | **0.75** (0.50–1.00) | **1.00** (1.00–1.00)"
    assert f"| roomhub / R&D <hub> | {ratios} |" in page
    assert "| publish to 10 | 1.25 |" in page
    assert "| put out | 19 | 20 | **missed** |" in page
    assert "* bun is left out: npm is not installed" in page
    assert "* quiet, R&D <hub>: 1 message was lost" in page
    assert "Measured on 2026-01-02: a CPU, 2 cores, 8 GiB, Linux 6, Python 3.13.1." in page


def test_a_part_that_was_not_measured_has_no_section() -> None:
    assert "\n## " not in report.page({})
    assert "## The core" not in report.page({"slow": RESULTS["slow"]})


def test_the_chart_is_xml_with_a_bar_for_each_figure() -> None:
    picture = ElementTree.fromstring(report.chart(RESULTS["endtoend"]))
    bars = picture.findall("{*}rect")
    assert [bar.get("width") for bar in bars] == ["200.0", "62.5", "200.0", "200.0"]
    assert "R&D <hub>" in [text.text for text in picture.findall("{*}text")]


def test_a_run_keeps_what_other_runs_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, Any]] = []
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"core": RESULTS["core"], "slow": {}}))
    monkeypatch.setattr(scenarios, "run", lambda name, arguments: {"targets": [], "arguments": arguments})
    monkeypatch.setattr(report, "write", written.append)
    assert command_line.main(["--results", str(results), "slow", "--messages", "5"]) == 0
    kept = json.loads(results.read_text())
    assert kept["core"] == RESULTS["core"]
    assert kept["slow"]["arguments"] == ["--messages", "5"]
    assert set(kept["slow"]) == {"measured_on", "machine", "targets", "arguments"}
    assert not written, "results that are kept elsewhere are not for the page"
    assert command_line.main(["--results", str(results), "report"]) == 0
    assert written == [kept]


def test_what_cannot_be_measured_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr(command_line, "find_spec", find_nothing)
    results = tmp_path / "results.json"
    assert command_line.main(["--results", str(results), "core"]) == 1
    assert "core is left out: pyperf is not installed" in capsys.readouterr().err
    assert not results.exists()


def test_the_page_and_the_chart_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.SUMMARY_BEGINS}old\n{report.SUMMARY_ENDS}after\n", encoding="utf-8")
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr(report, "README", readme)
    report.write(RESULTS)
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == report.page(RESULTS)
    assert (tmp_path / "benchmarks.svg").read_text(encoding="utf-8") == report.chart(RESULTS["endtoend"])
    table = report.summary(RESULTS["endtoend"])
    expected = f"before\n{report.SUMMARY_BEGINS}{table}{report.SUMMARY_ENDS}after\n"
    assert readme.read_text(encoding="utf-8") == expected


def test_what_is_committed_was_made_from_the_results_that_are_committed() -> None:
    results = json.loads((load.ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert (report.DOCS / "benchmarks.md").read_text(encoding="utf-8") == report.page(results)
    assert (report.DOCS / "benchmarks.svg").read_text(encoding="utf-8") == report.chart(results["endtoend"])
    readme = report.README.read_text(encoding="utf-8")
    assert f"{report.SUMMARY_BEGINS}{report.summary(results['endtoend'])}{report.SUMMARY_ENDS}" in readme
