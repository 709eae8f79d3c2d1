"""Publishing that is waited for: by tasks of the event loop, and by other threads.

A ``Confirmation`` goes along with the ``Publish`` as its ``ref``. ``ThreadCalls`` carries a thread's into the event
loop. Nobody is left waiting: what is not published any more is answered too.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
from anyio.lowlevel import current_token

from roomhub.core.commands import Publish
from roomhub.core.message import Position
from roomhub.core.storage import Report

__all__ = ["Confirmation", "MessageRefused", "ThreadCalls"]


class MessageRefused(Exception):
    """``rewrite_message`` refused the message, so it has no position."""


class Confirmation:
    """What a waiting publisher is told."""

    __slots__ = ("_error", "_position", "done")

    def __init__(self, done: anyio.Event | threading.Event) -> None:
        self.done: anyio.Event | threading.Event = done
        self._position: Position | None = None
        self._error: Exception | None = None

    def settle(self, position: Position | None) -> None:
        """The message has its place; None: it was refused."""
        self._position = position
        self.done.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self.done.set()

    def result(self, room: str) -> Position:
        """What the publisher's call gives, or raises, once ``done``."""
        if self._error is not None:
            raise self._error
        if self._position is None:
            raise MessageRefused(f"rewrite_message refused a message for room {room!r}")
        return self._position


class ThreadCalls:
    """What other threads ask of the event loop's: from ``begin`` to ``end``, and each call is answered.

    Args:
        wake: called in the event loop when there is something to ``take``.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        # Under the lock, so that no call comes in behind the last ``take``.
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Publish, Confirmation]] = deque()
        self._posted: deque[Report] = deque()
        self._call_soon: Callable[[Callable[[], None]], object] | None = None

    # -- in the event loop --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        loop: Any = current_token().native_token
        self._call_soon = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon

    def take(self, submit: Callable[[Publish | Report], None]) -> None:
        """Do what was asked for; what ``submit`` raises is the asking thread's."""
        while self._posted:
            submit(self._posted.popleft())
        while self._waiting:
            # It stays until it is done: should this be interrupted, ``end`` answers it.
            publish, confirmation = self._waiting[0]
            try:
                submit(publish)
            except Exception as error:
                confirmation.fail(error)
            self._waiting.popleft()

    def end(self) -> None:
        """Nothing is taken any more: tell so whoever asked too late."""
        with self._lock:
            self._call_soon = None
        for _, confirmation in self._waiting:
            confirmation.fail(RuntimeError("the runtime has stopped"))
        self._waiting.clear()

    # -- in any other thread: a store's -------------------------------------------------------------------------------

    def post(self, report: Report) -> None:
        """Let the hub know; nobody waits for it, and what comes when the runtime has ended is nobody's."""
        with self._lock:
            if self._call_soon is not None:
                self._posted.append(report)
                self._call_soon(self._wake)

    # -- in any other thread ------------------------------------------------------------------------------------------

    def publish(self, room: str, content: str, username: str) -> Position:
        """Have it published, and block until it has its place.

        Raises:
            MessageRefused: it was refused.
            ValueError: as ``Runtime.publish``.
            RuntimeError: nobody takes it.
        """
        done = threading.Event()
        confirmation = Confirmation(done)
        # Not anyio.from_thread.run: on asyncio, what comes to a loop in its last moments is never answered.
        with self._lock:
            if self._call_soon is None:
                raise RuntimeError("the runtime is not running, or no more: call inside its 'async with'")
            self._waiting.append((Publish(room, content, username, ref=confirmation), confirmation))
            self._call_soon(self._wake)
        done.wait()
        return confirmation.result(room)
