"""``docs/benchmarks.md``, ``docs/benchmarks.svg`` and the README's table, from what was measured and nothing else."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks.load import ROOT

__all__ = ["chart", "page", "ratios", "summary", "write"]

DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"
SUMMARY_BEGINS: Final = "<!-- measured: written by `make bench` -->\n"
SUMMARY_ENDS: Final = "<!-- measured until here -->\n"
OURS: Final = "roomhub"


@dataclass(frozen=True)
class Metric:
    """A figure of a turn: its key there, what it is called, and how many decimals are shown."""

    key: str
    title: str
    decimals: int


METRICS: Final = (
    Metric("deliveries_per_s", "deliveries a second", 0),
    Metric("cpu_us_per_delivery", "CPU µs a delivery", 2),
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
    Metric("resident_kib_per_connection", "KiB a connection", 1),
)
DRAWN: Final = METRICS[:2]

INTRODUCTION: Final = """\
<!-- Written by `make bench` from benchmarks/results.json (benchmarks/report.py): a change made here is lost. -->

# Benchmarks

Every figure on this page was measured by one command, which writes it anew together with `benchmarks/results.json`:

```console
$ make bench                                # everything
$ make bench ARGS="endtoend --rounds 5"     # one part: core, endtoend, memory, slow, crowd, ticker
$ make bench ARGS=report                    # nothing: only this page, from the results there are
```

It needs Linux and a C compiler, for the load generator. A peer that cannot run here is left out, and named below.
"""
BESIDE_OTHERS: Final = """\
Each peer is the simplest good chat server in its system (`benchmarks/peers/`), with what would limit a benchmark
lifted, as it is for roomhub. All of them send the same JSON for a message. The load generator is one thread of C that
checks each delivery for loss and order: a turn in which a message was lost, or in which the load generator was at its
limit before the server was, does not count.

The figures are medians over the rounds; *load* is the load generator's share of a core. Below each table are ratios:
roomhub's figure divided by the peer's of the same round, their median, then the least and the greatest. Of deliveries
more is better, so above 1 roomhub is ahead; of everything else less is better, and it is ahead below 1.
"""
CORE: Final = """\
The pure hub alone, without sockets, timed by pyperf: the median of one call. *Publish* is the call that puts a message
into a room; *deliver* then hands it to all its members in shared chunks, all that a driver does but the sending.
"""
SCENARIOS: Final = {
    "memory": "Idle members in many rooms, and what the server's resident memory grew by for each.",
    "slow": "Members that read nothing while others talk.",
    "crowd": "One message at a time to a very large room, and how long a message in another room takes meanwhile.",
    "ticker": "A task of the embedding program that sleeps a millisecond at a time, while 1,000 members are talked to.",
}


def write(results: Mapping[str, Any]) -> None:
    """Write the page, and the chart if there is something to draw."""
    (DOCS / "benchmarks.md").write_text(page(results), encoding="utf-8")
    if "endtoend" in results:
        (DOCS / "benchmarks.svg").write_text(chart(results["endtoend"]), encoding="utf-8")
        before, _, rest = README.read_text(encoding="utf-8").partition(SUMMARY_BEGINS)
        _, _, after = rest.partition(SUMMARY_ENDS)
        table = summary(results["endtoend"])
        README.write_text(f"{before}{SUMMARY_BEGINS}{table}{SUMMARY_ENDS}{after}", encoding="utf-8")


def page(results: Mapping[str, Any]) -> str:
    """The page in Markdown: of each part of the results a section, of a part that is not there none."""
    parts = [INTRODUCTION]
    if "endtoend" in results:
        parts += _beside_others(results["endtoend"])
    if "core" in results:
        rows = [(name, f"{median:,.2f}") for name, median in results["core"]["median_us"].items()]
        parts += ["## The core", CORE + _where(results["core"]), _table(("call", "µs"), rows)]
    scenarios = {name: text for name, text in SCENARIOS.items() if name in results}
    if scenarios:
        parts.append("## What roomhub promises")
    for name, text in scenarios.items():
        targets = [
            (target["what"], f"{target['value']:,}", target["target"], "holds" if target["holds"] else "**missed**")
            for target in results[name]["targets"]
        ]
        parts += [f"### {name}", text + "\n" + _where(results[name]), _table(("what", "value", "target", ""), targets)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def summary(endtoend: Mapping[str, Any]) -> str:
    """The table for the README: deliveries a second, a server a row, a workload a column."""
    by_workload = {workload: dict(_medians(endtoend, workload, DRAWN[0].key)) for workload in endtoend["workloads"]}
    counted = [server for server in endtoend["servers"] if any(server in medians for medians in by_workload.values())]
    rows = [
        (
            f"**{server}**" if server == OURS else endtoend["servers"][server].partition(",")[0],
            *(_thousands(medians.get(server)) for medians in by_workload.values()),
        )
        for server in counted
    ]
    return _table((f"1,000 {DRAWN[0].title}", *by_workload), rows) + "\n"


def _thousands(figure: float | None) -> str:
    return "–" if figure is None else f"{figure / 1000:,.0f}"


def ratios(turns: Sequence[Mapping[str, Any]], workload: str, peer: str, key: str) -> list[float]:
    """roomhub's figure divided by the peer's, of each round in which a turn of both counted."""
    by_server: dict[str, dict[int, float]] = {OURS: {}, peer: {}}
    for turn in turns:
        if turn["workload"] == workload and turn["server"] in by_server:
            by_server[turn["server"]][turn["round"]] = turn[key]
    ours, others = by_server[OURS], by_server[peer]
    return [ours[round_] / others[round_] for round_ in sorted(ours.keys() & others.keys()) if others[round_]]


def chart(endtoend: Mapping[str, Any]) -> str:
    """The chart in SVG: a row of panels for each workload, in each a bar for each server."""
    width, panel, bar, head = 860, 420, 16, 44
    lines: list[str] = []
    y = 0
    for workload in endtoend["workloads"]:
        bars = 0
        for column, metric in enumerate(DRAWN):
            x = column * panel + 10
            medians = dict(_medians(endtoend, workload, metric.key))
            longest = max(medians.values(), default=0.0) or 1.0
            bars = max(bars, len(medians))
            lines.append(f'<text x="{x}" y="{y + 26}" class="title">{escape(workload)}: {metric.title}</text>')
            for at, (server, median) in enumerate(medians.items()):
                top = y + head - 8 + at * bar
                length = 200 * median / longest
                kind = "ours" if server == OURS else "peer"
                value = f"{median:,.{metric.decimals}f}"
                lines += [
                    f'<text x="{x + 78}" y="{top + 11}" class="name">{escape(server)}</text>',
                    f'<rect x="{x + 84}" y="{top}" width="{length:.1f}" height="{bar - 4}" class="{kind}"/>',
                    f'<text x="{x + 90 + length:.1f}" y="{top + 11}">{value}</text>',
                ]
        y += head + bars * bar
    # A grey that reads on white and on black alike: a page's dark mode does not reach into a picture.
    style = (
        "text { font: 12px sans-serif; fill: #777 } .title { font-weight: bold } .name { text-anchor: end } "
        ".ours { fill: #d9730d } .peer { fill: #7a9cb8 }"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}" role="img">',
            "<title>roomhub and its peers: deliveries a second, and CPU time a delivery</title>",
            f"<style>{style}</style>",
            *lines,
            "</svg>\n",
        ]
    )


def _beside_others(endtoend: Mapping[str, Any]) -> list[str]:
    turns = endtoend["turns"]
    rounds, seconds = endtoend["rounds"], endtoend["seconds"]
    measured = (
        f"{rounds} round{'s' if rounds != 1 else ''}, {seconds:g} s a turn, {endtoend['content_bytes']}-byte messages."
    )
    parts = [
        "## Beside others",
        f"{BESIDE_OTHERS}\n{_where(endtoend)} {measured}",
        "![Deliveries a second and CPU time a delivery, by workload and server](benchmarks.svg)",
        _table(("server", "versions"), list(endtoend["servers"].items())),
    ]
    if endtoend["left_out"]:
        parts.append("\n".join(f"* {name} is left out: {why}" for name, why in endtoend["left_out"].items()))
    for workload, shape in endtoend["workloads"].items():
        what = (
            f"{shape['members']:,} members in {shape['rooms']:,} room{'s' if shape['rooms'] != 1 else ''}, "
            f"{shape['talkers']:,} of them talking, with {shape['in_flight']} message"
            f"{'s' if shape['in_flight'] != 1 else ''} each under way."
        )
        columns = {metric.key: dict(_medians(endtoend, workload, metric.key)) for metric in METRICS}
        load = dict(_medians(endtoend, workload, "load_core_share"))
        counted = [server for server in endtoend["servers"] if server in load]
        figures = [
            (
                server,
                *(f"{columns[metric.key][server]:,.{metric.decimals}f}" for metric in METRICS),
                f"{load[server]:.0%}",
            )
            for server in counted
        ]
        paired = [
            (f"{OURS} / {peer}", *(_spread(ratios(turns, workload, peer, metric.key)) for metric in METRICS))
            for peer in counted
            if peer != OURS and OURS in load
        ]
        titles = [metric.title for metric in METRICS]
        parts += [f"### {workload}", what, _table(("server", *titles, "load"), figures)]
        if paired:
            parts.append(_table(("ratio", *titles), paired))
    refused = [f"* {row['workload']}, {row['server']}: {row['why']}" for row in endtoend["refused"]]
    if refused:
        parts += ["### Turns that did not count", "Each was tried again, twice at most.", "\n".join(refused)]
    return parts


def _medians(endtoend: Mapping[str, Any], workload: str, key: str) -> Iterator[tuple[str, float]]:
    """By server, in the order they took turns in, the median of the turns that counted."""
    for server in endtoend["servers"]:
        figures = [turn[key] for turn in endtoend["turns"] if turn["workload"] == workload and turn["server"] == server]
        if figures:
            yield server, statistics.median(figures)


def _spread(found: Sequence[float]) -> str:
    if not found:
        return "–"
    middle = f"**{_short(statistics.median(found))}**"
    return middle if len(found) == 1 else f"{middle} ({_short(min(found))}–{_short(max(found))})"


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.1g}"


def _where(part: Mapping[str, Any]) -> str:
    here = part["machine"]
    return (
        f"Measured on {part['measured_on']}: {here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB, "
        f"{here['system']}, Python {here['python']}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is text; the others of a table with figures are set to the right."""
    to_right = len(head) > 2 or head[-1] == "µs"
    lines = [head, ["---", *(["---:" if to_right else "---"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
