"""roomhub and its peers through real sockets, in one run.

Servers take turns, workload by workload and round by round, so that a machine that drifts drifts for all, and a ratio
is always one of the same round. A turn starts the server anew, lets everybody in, warms up and measures for some
seconds. A turn in which a message was lost or came out of order does not count, nor one in which the load generator
rather than the server was at its limit; it is tried again, and what was refused is kept in the results.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.load import CannotMeasure, Load, allow_open_files
from benchmarks.servers import SERVERS, Server, find_servers, running

__all__ = ["WORKLOADS", "fault", "run", "turn"]

WORKLOADS: Final[dict[str, dict[str, int]]] = {
    "quiet": {"members": 100, "rooms": 1, "talkers": 1, "in_flight": 1},
    "busy": {"members": 100, "rooms": 1, "talkers": 1, "in_flight": 16},
    "pairs": {"members": 200, "rooms": 100, "talkers": 200, "in_flight": 1},
    "talkers": {"members": 1000, "rooms": 100, "talkers": 1000, "in_flight": 1},
    "crowd": {"members": 1000, "rooms": 1, "talkers": 1, "in_flight": 16},
}
CONTENT_BYTES: Final = 64
LOAD_CORE_SHARE: Final = 0.9
"""A load generator that takes more of its core is at its limit, unless the server was at its own first."""
SERVER_CORE_SHARE: Final = 0.95
TRIES: Final = 3


def turn(server: Server, workload: dict[str, int], *, seed: int, seconds: float, **options: float) -> dict[str, Any]:
    """Start the server, load it, and return the figures; times in the units that their names end in.

    Raises:
        CannotMeasure: the server or the load generator ended before there were any.
    """
    members = workload["members"]
    with running(server) as here:
        before_kib = here.resident_kib()
        with Load(
            here.port,
            dialect=server.dialect,
            server_pid=here.pid,
            bytes=CONTENT_BYTES,
            seed=seed,
            seconds=seconds,
            **workload,
            **options,
        ) as load:
            joined_kib = here.resident_kib()
            measured = load.measure()
    delivered = measured["delivered"]
    lasted_s = measured["lasted_s"]
    return {
        **measured,
        "deliveries_per_s": delivered / lasted_s if lasted_s else 0.0,
        "cpu_us_per_delivery": measured["server_cpu_s"] * 1e6 / delivered if delivered else 0.0,
        "server_core_share": measured["server_cpu_s"] / lasted_s if lasted_s else 0.0,
        "resident_kib_per_connection": (joined_kib - before_kib) / members,
    }


def fault(figures: dict[str, Any]) -> str | None:
    """Why a turn does not count; None if it does."""
    if figures["delivered"] != figures["expected"]:
        return f"{figures['expected'] - figures['delivered']} of {figures['expected']} deliveries were lost"
    if figures["disordered"]:
        return f"{figures['disordered']} messages came out of order or twice"
    if figures["lost_connections"]:
        return f"{figures['lost_connections']} connections were lost"
    if figures["load_core_share"] > LOAD_CORE_SHARE and figures["server_core_share"] < SERVER_CORE_SHARE:
        return f"the load generator took {figures['load_core_share']:.0%} of its core and the server had time to spare"
    return None


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """The ``endtoend`` command: measure and return the results.

    Raises:
        CannotMeasure: none of the servers can run here.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks endtoend", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="some of %(default)s")
    parser.add_argument("--servers", default=",".join(SERVERS), help="some of %(default)s")
    options = parser.parse_args(arguments)
    workloads = options.workloads.split(",")
    wanted = options.servers.split(",")
    for what, names, known in (("workload", workloads, WORKLOADS), ("server", wanted, SERVERS)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            parser.error(f"no {what} is called {', '.join(unknown)}: there are {', '.join(known)}")

    servers, left_out = find_servers(wanted)
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", flush=True)
    if not servers:
        raise CannotMeasure("no server is left")
    allow_open_files(4096)

    turns: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for workload in workloads:
        for round_ in range(options.rounds):
            # Each round begins with another server: to be first is no server's privilege.
            at = round_ % len(servers)
            for server in servers[at:] + servers[:at]:
                figures = _counted(server, workload, round_, options.seconds, refused)
                if figures is not None:
                    turns.append(figures)
        _print_workload(workload, turns, [server.name for server in servers])
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "content_bytes": CONTENT_BYTES,
        "workloads": {name: WORKLOADS[name] for name in workloads},
        "servers": {server.name: server.versions for server in servers},
        "left_out": left_out,
        "turns": turns,
        "refused": refused,
    }


def _counted(
    server: Server, workload: str, round_: int, seconds: float, refused: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """A turn that counts; None after so many that do not."""
    for _ in range(TRIES):
        place = {"workload": workload, "round": round_, "server": server.name}
        try:
            figures = turn(server, WORKLOADS[workload], seed=round_, seconds=seconds)
        except CannotMeasure as error:
            why: str | None = str(error)
        else:
            why = fault(figures)
            if why is None:
                return place | figures
        refused.append(place | {"why": why})
        print(f"{workload}, {server.name}: does not count: {why}", file=sys.stderr, flush=True)
    return None


def _print_workload(workload: str, turns: list[dict[str, Any]], servers: list[str]) -> None:
    print(f"{workload:10}{'deliveries/s':>14}{'CPU µs each':>13}{'p50 ms':>9}{'p99 ms':>9}{'KiB/conn':>10}{'load':>7}")
    for server in servers:
        rows = [row for row in turns if row["workload"] == workload and row["server"] == server]
        if not rows:
            print(f"  {server:8}  no turn counted")
            continue

        def median(key: str, rows: list[dict[str, Any]] = rows) -> float:
            return float(statistics.median(row[key] for row in rows))

        print(
            f"  {server:10}{median('deliveries_per_s'):12,.0f}{median('cpu_us_per_delivery'):13.2f}"
            f"{median('p50_ms'):9.2f}{median('p99_ms'):9.2f}{median('resident_kib_per_connection'):10.1f}"
            f"{median('load_core_share'):7.0%}",
            flush=True,
        )
