"""A program that is killed while it writes: appends as fast as it may and tells, a line each, what it did.

``opened ROOM OFFSET``, then ``gave ROOM OFFSET`` before a message is appended, ``stored ROOM OFFSET`` once it is safe.
"""

import os
import sys
import threading

from roomhub.core.storage import Report, Stored, StoredMessage
from roomhub.stores.sqlite import SqliteHistory

ROOMS = ("a", "b", "c")
RESERVE = 50


def main(path: str) -> None:
    say_lock = threading.Lock()
    changed = threading.Condition()
    allowed = dict.fromkeys(ROOMS, RESERVE)

    def say(*words: object) -> None:
        with say_lock:
            os.write(1, (" ".join(map(str, words)) + "\n").encode())

    def report(report: Report) -> None:
        assert isinstance(report, Stored), report
        for ref in report.refs:
            say("stored", ref)
        with changed:
            allowed.update({name: offset for (name, _), offset in report.reserved.items()})
            changed.notify()

    history = SqliteHistory(path, commit_interval_s=0.001, commit_messages=20, reserve=RESERVE)
    offsets = dict.fromkeys(ROOMS, 0)
    for room in history.open(report).rooms:
        offsets[room.name] = room.offset
        allowed[room.name] = room.reserved
    for name in ROOMS:
        say("opened", name, offsets[name])
    while True:
        for name in ROOMS:
            offset = offsets[name] = offsets[name] + 1
            with changed:
                assert changed.wait_for(lambda: allowed[name] >= offset, 60)  # noqa: B023  # waited for right here
            say("gave", name, offset)
            message = StoredMessage(name, "epoch", offset, "ann", "Ann", "x" * 100, offset)
            assert history.append([message], [f"{name} {offset}"]) == 1


main(sys.argv[1])
