"""Clients inside the process: for tests, and for a program that wants to sit in its own rooms.

::

    with connect(runtime, "ann", "lobby") as ann:
        ann.send("hello")
        print(await ann.receive())
"""

import secrets
from collections import deque
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint

from roomhub.core.codec import Chunk, Lane, PlainCodec, text_lane, wire_bytes
from roomhub.core.errors import CloseReason
from roomhub.core.events import Blocked, Connected, Disconnected, Heard, Received, Writable
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.runtime import Runtime

__all__ = ["PLAIN_TEXT", "ClientClosed", "MemoryClient", "connect", "v1_lane"]

PLAIN_TEXT: Final = text_lane(PlainCodec())
"""The lane of all memory clients that speak the plain dialect."""

TOO_LARGE: Final = CloseReason("too_large", 1009, 1009)
"""What a WebSocket peer gets for such a message (RFC 6455 section 7.4.1)."""


class ClientClosed(Exception):
    """The connection is over and everything that came before its end was received.

    Attributes:
        reason: why the hub closed it, None if this side did.
    """

    def __init__(self, reason: CloseReason | None) -> None:
        super().__init__("closed by this side" if reason is None else f"closed by the hub: {reason.name}")
        self.reason = reason


def connect(runtime: Runtime, username: str, *rooms: str, address: str = "", lane: Lane = PLAIN_TEXT) -> "MemoryClient":
    """A new client in these rooms. If the hub refuses it, its first ``receive`` raises ``ClientClosed``.

    Raises:
        ValueError: a lane of bytes, which a socket could carry but ``receive`` could not give.
    """
    if lane.empty != "":
        raise ValueError("a memory client needs a lane whose chunks are texts, as text_lane() makes it")
    client = MemoryClient(runtime, lane)
    secret = secrets.token_urlsafe(24) if lane.talker is not None else ""
    runtime.submit(Connected(client, lane, username, rooms, address=address, secret=secret))
    return client


def v1_lane(limits: Limits) -> Lane:
    """The lane of memory clients that speak v1; make one and share it."""
    return text_lane(JsonCodec(limits), v1=True)


class MemoryClient:
    """One connection to the hub in the same process; made by ``connect``.

    It holds about ``chunk_bytes`` that were not received yet, as a socket's buffer would, then it counts as blocked.
    So a client that is not received from is slow by the same rules as one behind a socket.
    """

    def __init__(self, runtime: Runtime, lane: Lane) -> None:
        self._runtime = runtime
        self._lane = lane
        self._inbox: deque[str] = deque()
        self._inbox_bytes = 0
        self._news = anyio.Event()
        self._reads = True
        self._blocked = False
        self._closed = False
        self._reason: CloseReason | None = None

    # -- for its user -------------------------------------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Say one text message, as a peer would. Never blocks.

        Raises:
            ClientClosed: the connection is over.
        """
        if self._closed:
            raise ClientClosed(self._reason)
        limits = self._runtime.limits
        most_bytes = limits.v1_message_bytes if self._lane.v1 else limits.message_bytes
        if len(text.encode(errors="surrogatepass")) > most_bytes:
            self._end(TOO_LARGE)
            return
        self._runtime.submit(Received(self, text))

    async def receive(self) -> str:
        """The next message; waits for it.

        Raises:
            ClientClosed: the connection is over and everything was received.
        """
        await checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except anyio.WouldBlock:
                if self._news.is_set():  # otherwise another task waits for the same
                    self._news = anyio.Event()
                await self._news.wait()

    def receive_nowait(self) -> str:
        """The next message.

        Raises:
            anyio.WouldBlock: there is none now.
            ClientClosed: the connection is over and everything was received.
        """
        if self._reads:
            if not self._inbox:
                self._fill()
            if self._inbox:
                text = self._inbox.popleft()
                self._inbox_bytes -= wire_bytes(text)
                if self._blocked:
                    self._progress()
                return text
            if self._closed:
                raise ClientClosed(self._reason)
        raise anyio.WouldBlock

    def stop_reading(self) -> None:
        """Read nothing from now on, as a peer whose network is stuck: the hub finds the client blocked."""
        self._reads = False
        self._block()

    def resume_reading(self) -> None:
        """Read again."""
        self._reads = True
        if self._blocked:
            self._progress()
        self._news.set()

    def close(self, reason: CloseReason | None = None) -> None:
        """End the connection. Without a reason: this side hangs up. (The hub calls it with one.)"""
        if self._closed:
            return
        if reason is None:
            self._reads = True  # there is nothing any more that could be kept waiting
        else:
            # Also of one that does not read: should it read again, it gets what was said until then.
            while chunk := self._runtime.pull(self):
                self._take(chunk)
        self._end(reason)

    @property
    def closed(self) -> CloseReason | None:
        """Why the hub closed the connection, None if it did not."""
        return self._reason

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- for the runtime ----------------------------------------------------------------------------------------------

    @property
    def lane(self) -> Lane:
        return self._lane

    def notify(self) -> None:
        if self._reads:
            self._fill()
        else:
            self._block()
        self._news.set()

    def probe(self) -> None:
        if self._reads:
            self._runtime.submit(Heard(self))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Pull until the hub has no more, or it is enough."""
        if self._closed:
            return
        while self._inbox_bytes < self._runtime.limits.chunk_bytes:
            chunk = self._runtime.pull(self)
            if not chunk:
                return
            self._take(chunk)
        self._block()

    def _take(self, chunk: Chunk) -> None:
        for text in chunk:
            assert isinstance(text, str)  # connect() saw to it
            self._inbox.append(text)
            self._inbox_bytes += wire_bytes(text)

    def _block(self) -> None:
        if not self._closed and not self._blocked:
            self._blocked = True
            self._runtime.submit(Blocked(self))

    def _progress(self) -> None:
        if self._inbox_bytes < self._runtime.limits.chunk_bytes:
            self._blocked = False
            self._runtime.submit(Writable(self))
        else:
            self._runtime.submit(Blocked(self))  # again, which says that something was taken

    def _end(self, reason: CloseReason | None) -> None:
        self._closed = True
        self._reason = reason
        self._runtime.submit(Disconnected(self))
        self._news.set()
