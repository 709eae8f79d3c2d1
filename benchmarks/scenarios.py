"""What roomhub promises beside throughput, each with its target, measured through real sockets.

Every scenario returns its figures and its ``targets``: what, the value, the bound it must stay under (or reach), and
whether it does.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.endtoend import CONTENT_BYTES, WORKLOADS
from benchmarks.load import CannotMeasure, Load, allow_open_files
from benchmarks.servers import Server, roomhub, running

__all__ = ["SCENARIOS", "run"]


def _at_most(what: str, value: float, bound: float, unit: str) -> dict[str, Any]:
    return {"what": what, "value": round(value, 3), "target": f"≤ {bound:g} {unit}", "holds": value <= bound}


def _exactly(what: str, value: float, wanted: float) -> dict[str, Any]:
    return {"what": what, "value": value, "target": f"{wanted:,}", "holds": value == wanted}


def memory(arguments: Sequence[str]) -> dict[str, Any]:
    """Resident KiB a connection of idle members, on both drivers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=memory.__doc__)
    parser.add_argument("--members", type=int, default=6_000)
    parser.add_argument("--rooms", type=int, default=600)
    options = parser.parse_args(arguments)
    allow_open_files(options.members + 100)
    figures: dict[str, Any] = {"members": options.members, "rooms": options.rooms, "targets": []}
    for driver, most_kib in (("reactor", 4), ("streams", 24)):
        with running(roomhub("--driver", driver)) as here:
            before_kib = here.resident_kib()
            with Load(here.port, members=options.members, rooms=options.rooms, talkers=0, settle=3):
                after_kib = here.resident_kib()
        each_kib = (after_kib - before_kib) / options.members
        figures[driver] = {"before_kib": before_kib, "after_kib": after_kib, "kib_per_connection": each_kib}
        figures["targets"].append(_at_most(f"a connection, {driver} driver", each_kib, most_kib, "KiB"))
    return figures


def slow(arguments: Sequence[str]) -> dict[str, Any]:
    """Members that never read while others talk: put out, at nobody's cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks slow", description=slow.__doc__)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--bytes", type=int, default=400)
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--stalled", type=int, default=20)
    options = parser.parse_args(arguments)
    with running(roomhub()) as here:
        members = options.readers + options.stalled
        with Load(
            here.port,
            members=members,
            stalled=options.stalled,
            messages=options.messages,
            bytes=options.bytes,
            in_flight=16,
            warmup=0,
        ) as load:
            before_kib = here.resident_kib()
            here.reset_peak()
            measured = load.measure()
            grown_mib = (here.peak_resident_kib() - before_kib) / 1024
    return {
        **measured,
        "members": members,
        "grown_mib": grown_mib,
        "targets": [
            _exactly("who never read, put out", measured["stalled_ended"], options.stalled),
            _exactly("deliveries that others missed", measured["expected"] - measured["delivered"], 0),
            _exactly("others put out", measured["lost_connections"], 0),
            _at_most("the server's growth at its peak", grown_mib, 24, "MiB"),
        ],
    }


def crowd(arguments: Sequence[str]) -> dict[str, Any]:
    """One message to a very large room, and how long one of another room waits meanwhile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks crowd", description=crowd.__doc__)
    parser.add_argument("--members", type=int, default=18_000)
    parser.add_argument("--messages", type=int, default=20, help="to all, each after everybody got the one before")
    options = parser.parse_args(arguments)
    allow_open_files(options.members + 100)
    with running(roomhub()) as here:
        before_kib = here.resident_kib()
        with Load(
            here.port,
            members=options.members,
            messages=options.messages,
            warmup=0,
            settle=3,
            gap=0.2,
            probe=0.002,
            server_pid=here.pid,
        ) as load:
            joined_kib = here.resident_kib()
            measured = load.measure()
            joined = load.joined
    return {
        **measured,
        "members": options.members,
        "joined": joined,
        "kib_per_connection": (joined_kib - before_kib) / options.members,
        "targets": [
            _exactly("deliveries missed", measured["expected"] - measured["delivered"], 0),
            _exactly("members put out", measured["lost_connections"], 0),
            _at_most("p99 wait of another room's message meanwhile", measured["probe"]["p99_ms"], 20, "ms"),
        ],
    }


def ticker(arguments: Sequence[str]) -> dict[str, Any]:
    """How late a task of the embedding program runs in the same event loop while the crowd talks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ticker", description=ticker.__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args(arguments)
    allow_open_files(4096)
    figures: dict[str, Any] = {"targets": []}
    for backend in ("asyncio", "trio"):
        command = (sys.executable, "-m", "benchmarks.ticking", "--backend", backend)
        with running(Server("ticking", "", command)) as here:
            workload = WORKLOADS["crowd"]
            with Load(here.port, bytes=CONTENT_BYTES, seconds=options.seconds, server_pid=here.pid, **workload) as load:
                measured = load.measure()
            began_s = measured["began_s"]
        ticks = json.loads(here.output)
        pairs = list(zip(ticks["ended_s"], ticks["late_s"], strict=True))
        # Only sleeps that ended while the crowd talked.
        late_ms = sorted(late * 1e3 for ended, late in pairs if began_s <= ended <= began_s + measured["lasted_s"])
        if not late_ms:
            raise CannotMeasure(f"the ticker on {backend} never ran")
        p99_ms = late_ms[int(len(late_ms) * 0.99)]
        figures[backend] = {
            "ticks": len(late_ms),
            "p50_ms": late_ms[len(late_ms) // 2],
            "p99_ms": p99_ms,
            "max_ms": late_ms[-1],
            "deliveries_per_s": measured["delivered"] / measured["lasted_s"],
            "measured": measured,
        }
        figures["targets"].append(_at_most(f"p99 delay of a ticker, {backend}", p99_ms, 10, "ms"))
    return figures


SCENARIOS: Final[dict[str, Callable[[Sequence[str]], dict[str, Any]]]] = {
    "memory": memory,
    "slow": slow,
    "crowd": crowd,
    "ticker": ticker,
}


def run(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """A scenario's command: measure, print its targets, return the figures."""
    figures = SCENARIOS[name](arguments)
    for target in figures["targets"]:
        verdict = "holds" if target["holds"] else "MISSED"
        print(f"{name:8} {target['what']}: {target['value']:,} (target {target['target']}: {verdict})", flush=True)
    return figures
