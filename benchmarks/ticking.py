"""A program that embeds roomhub and has a task of its own beside it, in the same event loop.

    python -m benchmarks.ticking [--backend trio]

The task sleeps a millisecond, over and over. When the program ends (SIGTERM) it prints as JSON when each sleep was
over, in monotonic seconds, and how much later than it should have been.
"""

import argparse
import gc
import json
import math
import signal
import time

import anyio

from roomhub import Limits, Runtime
from roomhub.cli import GC_THRESHOLD
from roomhub.transports.websocket import serve

INTERVAL_S = 0.001


async def main() -> None:
    limits = Limits(message_rate_per_s=math.inf, connections_per_address=math.inf)
    ended_s: list[float] = []
    late_s: list[float] = []

    async def tick() -> None:
        while True:
            due = time.monotonic() + INTERVAL_S
            await anyio.sleep(INTERVAL_S)
            now = time.monotonic()
            ended_s.append(now)
            late_s.append(now - due)

    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            Runtime(limits=limits) as runtime,
            serve(runtime, port=0) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(tick)
            print(f"listening on {server.url}", flush=True)
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()
    print(json.dumps({"ended_s": ended_s, "late_s": late_s}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    anyio.run(main, backend=parser.parse_args().backend)
