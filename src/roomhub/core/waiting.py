"""What a v1 client's session waits for; what its client says meanwhile waits too, and is done in its order."""

from collections.abc import Callable, Hashable
from typing import Any, Generic

from typing_extensions import TypeVar

from roomhub.core import errors
from roomhub.core.membership import Membership
from roomhub.core.replay import first_logged, is_older
from roomhub.core.requests import Join, Request
from roomhub.core.room import Room
from roomhub.core.session import Session
from roomhub.core.state import HubState
from roomhub.core.storage import Page

__all__ = ["Waiting"]

C = TypeVar("C", bound=Hashable)


class Waiting(Generic[C]):
    """The part of a hub that keeps what cannot be done yet.

    Args:
        state: the hub's.
        handle: does what a client asks for.
    """

    def __init__(
        self,
        state: HubState[C],
        membership: Membership[C],
        handle: Callable[[Session[C], Request, float], None],
    ) -> None:
        self._state = state
        self._membership = membership
        self._handle = handle

    def hold(self, session: Session[C], request: Request, size: int, now: float) -> None:
        """A client that waits asks for something more, in so many characters: it may build on what it waits for."""
        talk = session.talk
        assert talk is not None
        talk.held.append((request, size))
        talk.held_bytes += size
        if talk.held_bytes > self._state.limits.direct_bytes:
            self._membership.evict(session, errors.RATE_LIMITED, now)

    def go_on(self, session: Session[C], now: float) -> None:
        """With what it has said while it waited for an answer."""
        talk = session.talk
        assert talk is not None
        if talk.is_going_on:
            return
        talk.is_going_on = True
        while talk.held and not talk.asked and not talk.loads and session.is_live:
            request, size = talk.held.popleft()
            talk.held_bytes -= size
            self._handle(session, request, now)
        talk.is_going_on = False

    def awaited(self, session: Session[C], then: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
        """The session waits for an answer, and what it says next waits too; ``then`` has the answer first."""
        talk = session.talk
        assert talk is not None
        talk.loads += 1

        def answered(answer: Any, now: float) -> None:
            talk.loads -= 1
            if session.is_live:
                then(answer, now)
                self.go_on(session, now)

        return answered

    def load(
        self, session: Session[C], request: Join, room: Room[C], then: Callable[[int | None, float], None], now: float
    ) -> None:
        """Do it once the room's log is there; until then the session waits for its answer.

        If what was said ``since`` begins before that log, ``then`` is told how much of that the store lacks.
        """
        talk, since = session.talk, request.since
        assert talk is not None
        talk.loads += 1

        def finish(missing: int | None, now: float) -> None:
            talk.loads -= 1
            then(missing, now)
            self.go_on(session, now)

        def measured(page: Page | None, now: float) -> None:
            if not session.is_live:
                return
            if page is None or (page.messages and not self._state.records_of(room, page, now)):
                finish(None, now)
            else:
                # Without a message it may know of no gap either.
                finish(page.missing if page.messages else 1, now)

        def loaded(now: float) -> None:
            if since is None or self._state.store is None or not is_older(room, since):
                finish(None, now)
            else:
                before = first_logged(room)
                fetch = self._state.fetch
                fetch(room.name, measured, now, after=since.offset, before=before, limit=1, most_bytes=1)

        self._membership.when_loaded(room, session, loaded, now)
