"""What was asked of the server and has no answer yet. Pure.

An ``Outbox`` keeps requests in the order in which they were asked. That is the order in which they are sent, and sent
again on the next connection, each once its room is joined. It sends no faster than the server takes messages, so that
a queue of a thousand is not refused for its rate, half of it, out of order.
"""

import heapq
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from roomhub.client.errors import NotAnswered, NotConnected, OutboxFull

__all__ = ["Outbox", "Request"]

KEY_TTL_S: Final = 300.0
"""How long a server remembers a key at least, by the protocol's default."""
KEY_MARGIN_S: Final = 30.0
"""So much of that a message may spend on its way."""
RATE_SHARE: Final = 0.9
"""How much of its rate and its burst the client uses: what it sends evenly may arrive unevenly."""


class Request:
    """One request, from its asking to its answer, over as many connections as that takes.

    Attributes:
        id: its number; whoever asked first has the lower one.
        kind: the protocol's type of message.
        fields: the message's fields, without ``type`` and ``id``.
        room: what must be joined before it can be sent, None for nothing.
        deadline: when it has failed.
        is_lasting: it waits for a connection, and is sent again on the next one if there was no answer on this one.
        is_own: the client asked by itself, not the program.
        not_before: when it may be sent.
        sent_at: when it was sent on this connection, None if it was not.
        first_sent_at: when it was sent at all.
        reply: the server's ``ok``, once there is one.
        error: why it failed, once it has.
    """

    __slots__ = (
        "_waiters",
        "deadline",
        "error",
        "fields",
        "first_sent_at",
        "id",
        "is_lasting",
        "is_own",
        "kind",
        "not_before",
        "reply",
        "room",
        "sent_at",
    )

    def __init__(
        self,
        id_: int,
        kind: str,
        fields: dict[str, Any],
        *,
        room: str | None = None,
        deadline: float = math.inf,
        is_lasting: bool = True,
        is_own: bool = False,
    ) -> None:
        self.id: int = id_
        self.kind: str = kind
        self.fields: dict[str, Any] = fields
        self.room: str | None = room
        self.deadline: float = deadline
        self.is_lasting: bool = is_lasting
        self.is_own: bool = is_own
        self.not_before: float = -math.inf
        self.sent_at: float | None = None
        self.first_sent_at: float | None = None
        self.reply: dict[str, Any] | None = None
        self.error: Exception | None = None
        self._waiters: list[Callable[[], None]] = []

    @property
    def is_over(self) -> bool:
        """There is a reply or an error."""
        return self.reply is not None or self.error is not None

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiters)

    def add_waiter(self, wake: Callable[[], None]) -> None:
        """Call this once when it is over."""
        self._waiters.append(wake)

    def remove_waiter(self, wake: Callable[[], None]) -> None:
        if wake in self._waiters:
            self._waiters.remove(wake)

    def finish(self, reply: dict[str, Any] | None = None, error: Exception | None = None) -> None:
        """It is over, if it was not."""
        if not self.is_over:
            self.reply, self.error = reply, error
            waiters, self._waiters = self._waiters, []
            for wake in waiters:
                wake()


class Outbox:
    """The requests of one client.

    Args:
        most: how many of the program's own there may be; the next one is refused.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own = 0  # how many of the others there are
        self._requests: dict[int, Request] = {}
        self._waiting: list[Request] = []  # not sent yet, in order
        self._deadlines: list[tuple[float, int]] = []
        self._last_id = 0
        self._every_s = 0.0  # between two requests in the long run
        self._ahead_s = 0.0  # how far a burst may be ahead of that
        self._rate_due = -math.inf
        self._pull_at = math.inf

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def is_awaited(self) -> bool:
        """The program waits for an answer."""
        return len(self._requests) > self._own

    @property
    def next_due(self) -> float:
        """When to call ``expire``, or ``take`` again."""
        while self._deadlines and self._deadlines[0][1] not in self._requests:
            heapq.heappop(self._deadlines)
        return min(self._pull_at, self._deadlines[0][0] if self._deadlines else math.inf)

    def ask(
        self,
        kind: str,
        fields: dict[str, Any],
        *,
        room: str | None = None,
        deadline: float = math.inf,
        is_lasting: bool = True,
        is_own: bool = False,
        not_before: float = -math.inf,
    ) -> Request:
        """Put a request behind all others.

        Raises:
            OutboxFull: there are as many as there may be.
        """
        if is_own:
            self._own += 1
        elif len(self._requests) - self._own >= self._most:
            raise OutboxFull(f"{self._most} requests wait for an answer already: wait for some of them first")
        request = Request(
            self.new_id(), kind, fields, room=room, deadline=deadline, is_lasting=is_lasting, is_own=is_own
        )
        request.not_before = not_before
        self._requests[request.id] = request
        self._waiting.append(request)
        if deadline < math.inf:
            heapq.heappush(self._deadlines, (deadline, request.id))
        return request

    def new_id(self) -> int:
        """An id for one more request."""
        self._last_id += 1
        return self._last_id

    def find(self, kind: str, room: str) -> Request | None:
        """A request of this kind for this room that has no answer yet."""
        for request in self._requests.values():
            if request.kind == kind and request.fields.get("room") == room:
                return request
        return None

    def sent(self, kind: str) -> list[Request]:
        """The requests of this kind that are on their way, on this connection."""
        return [item for item in self._requests.values() if item.kind == kind and item.sent_at is not None]

    def pace(self, rate_per_s: float, burst: float) -> None:
        """A connection begins, on which the server takes so many messages."""
        self._every_s = 1 / (rate_per_s * RATE_SHARE) if 0 < rate_per_s < math.inf else 0.0
        self._ahead_s = max(burst * RATE_SHARE - 1, 0) * self._every_s if burst < math.inf else math.inf
        self._rate_due = -math.inf

    def take(self, now: float, is_ready: Callable[[str], bool]) -> list[Request]:
        """The requests to send now, in order; ``is_ready`` tells whether a room is joined.

        Behind a request that has to wait, those for the same room wait too.
        """
        taken: list[Request] = []
        kept: list[Request] = []
        blocked: set[str | None] = set()
        self._pull_at = math.inf
        for at, request in enumerate(self._waiting):
            room = request.room
            if request.id not in self._requests:
                continue
            if (pause_until := self._rate_due - self._ahead_s) > now:
                self._pull_at = min(self._pull_at, pause_until)
                kept += self._waiting[at:]
                break
            if request.not_before > now:
                self._pull_at = min(self._pull_at, request.not_before)
                blocked.add(room)
                kept.append(request)
            elif room is not None and (room in blocked or not is_ready(room)):
                kept.append(request)
            else:
                self._rate_due = max(self._rate_due, now) + self._every_s
                request.sent_at = now
                if request.first_sent_at is None:
                    request.first_sent_at = now
                taken.append(request)
        self._waiting = kept
        return taken

    def retry(self, request: Request, at: float, *, pauses: bool) -> None:
        """It was forgotten, but only refused for now: send it again at this time, in its place.

        ``pauses``: whatever is sent before then would be refused as well, so it waits.
        """
        self._requests[request.id] = request
        self._own += request.is_own
        request.sent_at = None
        request.not_before = at
        self._waiting = sorted({*self._waiting, request}, key=_id)
        if pauses:
            self._rate_due = max(self._rate_due, at + self._ahead_s)

    def forget(self, request_id: object) -> Request | None:
        """Its answer came, or nobody wants one any more: give it, and keep it no longer. None where there is none."""
        request = self._requests.pop(request_id, None) if type(request_id) is int else None
        if request is not None and request.is_own:
            self._own -= 1
        return request

    def expire(self, now: float) -> None:
        """Fail what got no answer in its time. Whoever calls this calls ``take`` next."""
        if self._pull_at <= now:
            self._pull_at = math.inf
        while self._deadlines and self._deadlines[0][0] <= now:
            _, id_ = heapq.heappop(self._deadlines)
            request = self.forget(id_)
            if request is not None:
                request.finish(error=_not_answered(request))

    def disconnected(self, now: float) -> None:
        """The connection is gone: what lasts waits for the next one, in order, the rest has failed."""
        for request in list(self._requests.values()):
            # Once the server may have forgotten the key, saying it again might say it twice.
            is_late = (
                "key" in request.fields
                and request.first_sent_at is not None
                and now - request.first_sent_at > KEY_TTL_S - KEY_MARGIN_S
            )
            if request.is_own or not request.is_lasting or is_late:
                self.forget(request.id)
                if is_late:
                    request.finish(error=_not_answered(request))
                elif request.kind == "leave":
                    request.finish(reply={})  # whoever is gone has left
                else:
                    request.finish(error=NotConnected(f"{request.kind}: the connection ended before the answer came"))
            request.sent_at = None
        self._waiting = sorted(self._requests.values(), key=_id)
        self._pull_at = math.inf

    def fail(self, error: Exception, room: str | None = None) -> None:
        """Fail all requests, or those that wait for this room and are not sent."""
        for request in list(self._requests.values()):
            if room is None or (request.room == room and request.sent_at is None):
                self.forget(request.id)
                request.finish(error=error)


def _id(request: Request) -> int:
    return request.id


def _not_answered(request: Request) -> NotAnswered:
    fields: Mapping[str, Any] = request.fields
    was_sent = request.first_sent_at is not None
    fate = "the server may have done it" if was_sent else "it was never sent"
    return NotAnswered(f"{request.kind}: no answer in time; {fate}", was_sent=was_sent, key=fields.get("key"))
