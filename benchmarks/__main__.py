"""``python -m benchmarks [COMMAND …]``: measure, and put what was found into ``benchmarks/results.json`` and ``docs/``.

Without a command, all of them. Each keeps its own part of the results, with the machine and the day it was measured.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks import endtoend, report, scenarios
from benchmarks.load import BUILD, CannotMeasure
from benchmarks.servers import machine

RESULTS: Final = Path(__file__).resolve().parent / "results.json"
COMMANDS: Final = ("core", "endtoend", *scenarios.SCENARIOS, "report")


def core(arguments: Sequence[str]) -> dict[str, Any]:
    """Run ``benchmarks/core.py``; its medians in microseconds by name.

    Raises:
        CannotMeasure: pyperf is missing, or failed.
    """
    if find_spec("pyperf") is None:
        raise CannotMeasure("pyperf is not installed (requirements/bench.txt)")
    BUILD.mkdir(parents=True, exist_ok=True)
    output = BUILD / "core.json"
    output.unlink(missing_ok=True)
    script = Path(__file__).with_name("core.py")
    command = [sys.executable, str(script), *(arguments or ["--fast"]), "--quiet", "-o", str(output)]
    if subprocess.run(command, check=False).returncode != 0:
        raise CannotMeasure("pyperf failed")
    import pyperf  # only in requirements/bench.txt

    suite = pyperf.BenchmarkSuite.load(str(output))
    return {"median_us": {bench.get_name(): round(bench.median() * 1e6, 3) for bench in suite}}


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where they are kept (default benchmarks/results.json)"
    )
    parser.add_argument("command", nargs="?", choices=COMMANDS, help="one alone, with its own options after it")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    failed = False
    for command in COMMANDS if options.command is None else (options.command,):
        if command == "report":
            continue
        print(f"-- {command}", flush=True)
        try:
            if command == "core":
                figures = core(options.options)
            elif command == "endtoend":
                figures = endtoend.run(options.options)
            else:
                figures = scenarios.run(command, options.options)
        except CannotMeasure as error:
            print(f"{command} is left out: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        _keep(
            options.results, command, {"measured_on": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), **figures}
        )
    if options.results == RESULTS or options.command == "report":
        report.write(_load(options.results))
    return int(failed)


def _load(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    return found


def _keep(results: Path, command: str, figures: dict[str, Any]) -> None:
    """A run that is stopped keeps what it has measured."""
    whole = _load(results)
    whole[command] = figures
    results.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
