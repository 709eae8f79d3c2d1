"""What happens in a room is told after that room was entered, and of whoever was seen there."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from roomhub.client import Event, Joined, Kicked, Left, Room

__all__ = ["Entrance"]

MOST_HELD: Final = 1_000
"""So many events of a room are held back; then the client waits, and with it the server."""


class Entrance:
    """Passes events on, in order, but those of a room that is being entered behind the word that it was.

    The client keeps a room's members as of what it has received, which is ahead of the events that were told: who is
    gone from there already was never shown as here, and does not leave for whoever looks.

    Args:
        tell: shows one event.
    """

    def __init__(self, tell: Callable[[Event], Awaitable[object]]) -> None:
        self._tell = tell
        self._held: dict[str, list[Event]] = {}
        self._shown: dict[str, set[str]] = {}
        self._entered = anyio.Event()

    async def pass_on(self, event: Event) -> None:
        """Something happened; it is told now, or once its room was entered."""
        room = getattr(event, "room", None)
        while len(self._held.get(room or "", ())) >= MOST_HELD:
            await self._entered.wait()
        if room in self._held:
            self._held[room].append(event)
        elif self._is_news(event):
            await self._tell(event)

    @asynccontextmanager
    async def entering(self, room: str) -> AsyncIterator[None]:
        """Join this room, and show that, inside; then what was held back of it is told."""
        held = self._held.setdefault(room, [])
        try:
            yield
            while held:
                event = held.pop(0)
                if self._is_news(event):
                    await self._tell(event)
        finally:
            del self._held[room]
            self._entered.set()
            self._entered = anyio.Event()

    def shows(self, room: Room) -> set[str]:
        """The members as they are shown, or counted, to whoever enters: gives who they are."""
        self._shown[room.name] = set(room.members)
        return self._shown[room.name]

    def _is_news(self, event: Event) -> bool:
        match event:
            case Joined():
                self._shown.setdefault(event.room, set()).add(event.member.user)
            case Left() if event.room in self._shown:
                is_known = event.member.user in self._shown[event.room]
                self._shown[event.room].discard(event.member.user)
                return is_known
            case Kicked():
                self._shown.pop(event.room, None)
        return True
