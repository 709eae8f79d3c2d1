"""What was said before: pages of a room's history, and replays to who comes back, from the log and from the store."""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import Any, Generic

from typing_extensions import TypeVar

from roomhub.core.codec import wire_bytes
from roomhub.core.membership import Membership
from roomhub.core.message import Record
from roomhub.core.replay import Recovery, Replay, Reply, first_logged, gap_frame, records_from
from roomhub.core.requests import History
from roomhub.core.room import Room
from roomhub.core.session import Session
from roomhub.core.state import HubState
from roomhub.core.storage import MOST_LOADED, Page

__all__ = ["Pages", "told"]

C = TypeVar("C", bound=Hashable)


class Pages(Generic[C]):
    """The part of a hub that tells what was said before.

    Args:
        state: the hub's.
    """

    def __init__(self, state: HubState[C], membership: Membership[C]) -> None:
        self._state = state
        self._membership = membership
        self._limits = state.limits

    def newest(self, room: Room[C], count: int) -> Sequence[Record]:
        """So many of the newest messages in the room's log, as many as go into one reply, oldest first."""
        return self._fitting(list(room.log)[: -self._length(count) - 1 : -1])[::-1]

    # -- a page -------------------------------------------------------------------------------------------------------

    def tell(self, session: Session[C], room: Room[C], request: History, now: float) -> None:
        """Answer a request for a page."""
        since = request.since
        if since is not None and since.epoch != room.epoch and (since.epoch or since.offset):
            message = f"{request.room} has another epoch: its offsets do not compare"
            fail = self._membership.fail
            fail(session, "unrecoverable", message, request.id, field="since", room=request.room, now=now)
            return
        limit = self._length(math.inf if request.limit is None else request.limit)
        if since is not None:
            found = list(islice(records_from(room, since.offset + 1), limit + 1))
            is_here = first_logged(room) <= since.offset + 1
        else:
            found = [record for record in reversed(room.log) if record[3] < (request.before or 0)][: limit + 1]
            is_here = len(found) > limit or first_logged(room) == 1
        page = self._fitting(found[:limit])
        name, epoch, id_ = room.name, room.epoch, request.id

        def fields_of(records: Sequence[Record], *, more: bool) -> Mapping[str, Any]:
            return {"id": id_, "room": name, "epoch": epoch, "messages": told(name, epoch, records), "more": more}

        if is_here or self._state.store is None or not limit:
            self._state.give_later(session, "ok", lambda: fields_of(page, more=len(found) > len(page)))
            return
        lane = session.lane
        talker = lane.talker
        assert talker is not None
        notice = talker.notice
        failed = self._membership.error_fields("internal", "the history could not be read", id_, room=name)

        def fetch(now: float) -> None:
            after = None if since is None else since.offset
            most_bytes = self._limits.chunk_bytes
            ask = self._state.fetch
            ask(name, fetched, now, after=after, before=request.before, limit=limit, most_bytes=most_bytes)

        def fetched(page: Page | None, now: float) -> None:
            if page is None:
                reply.make_by(lambda: lane.direct(notice("error", failed)))
            else:
                records = self._state.records_of(room, page, now)[:: 1 if since is not None else -1]
                reply.make_by(lambda: lane.direct(notice("ok", fields_of(records, more=page.more))))
            if session.is_live:
                self._state.delivery.go_on(session)

        reply = Reply(lambda: lane.direct(notice("error", failed)), fetch)
        self._state.delivery.give_later(session, reply)

    def _length(self, wanted: float) -> int:
        return int(min(wanted, max(1, self._limits.history_page), MOST_LOADED))

    def _fitting(self, records: Sequence[Record]) -> Sequence[Record]:
        """So many of them as go into one chunk, but at least one."""
        left = self._limits.chunk_bytes
        for index, record in enumerate(records):
            left -= record[5]
            if left < 0 and index:
                return records[:index]
        return records

    # -- a replay -----------------------------------------------------------------------------------------------------

    def replay(self, session: Session[C], room: Room[C], recovery: Recovery) -> None:
        """Give what was missed: the gap, and what the log and the store have behind it, as the client pulls it."""
        if recovery.gap is not None:
            frame = gap_frame(session.lane, room.name, room.epoch, *recovery.gap)
            self._state.delivery.give(session, [frame], wire_bytes(frame))
        if recovery.first:
            has_store = self._state.store is not None
            replay = Replay(room, session.lane, recovery.first, room.offset, has_store=has_store)
            replay.fetch = lambda now: self._bring_page(replay, session, now)
            self._state.delivery.give_later(session, replay)

    def bring(self, now: float) -> None:
        """Ask the store for what clients get next."""
        asking = self._state.delivery.asking
        while asking:
            item, session = asking.popitem()
            if session.is_live:
                assert item.fetch is not None
                item.fetch(now)

    def _bring_page(self, replay: Replay[C], session: Session[C], now: float) -> None:
        room, (after, before) = replay.room, replay.wanted

        def fetched(page: Page | None, now: float) -> None:
            records = self._state.records_of(room, page, now)
            end = records[-1][3] if page is not None and page.more and records else before - 1
            replay.take(records, () if page is None else page.gaps, end)
            if session.is_live:
                self._state.delivery.go_on(session)

        limit, most_bytes = self._length(math.inf), self._limits.chunk_bytes
        fetch = self._state.fetch
        fetch(room.name, fetched, now, after=after, before=before, limit=limit, most_bytes=most_bytes)

    def give_up(self, session: Session[C]) -> None:
        """The store is too slow: what is new would be lost for the sake of what is old."""
        for item in session.direct or ():
            if not isinstance(item, str | bytes):
                item.give_up()
        self._state.delivery.go_on(session)


def told(room: str, epoch: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Messages as v1 has them in replies."""
    return [
        {
            "room": room,
            "username": username,
            "content": content,
            "user": user,
            **({"to": to} if to else {}),
            "epoch": epoch,
            "offset": offset,
            "ts": ts_ms,
        }
        for user, username, content, offset, ts_ms, _, _, to in records
    ]
