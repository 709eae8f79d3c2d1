"""One room, as a program has it: what can be asked of it, and how the answers are read."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from anyio.lowlevel import checkpoint

from roomhub.client.errors import NotConnected
from roomhub.client.events import DirectMessage, Member, Message, Sent
from roomhub.client.protocol import message
from roomhub.core.message import Position

if TYPE_CHECKING:
    import roomhub.client.chat

__all__ = ["DirectPage", "Page", "Room", "check_text", "oldest_first", "sent"]


class Page(NamedTuple):
    """A page of a room's history.

    Attributes:
        messages: oldest first.
        more: whether the history goes on, on the side that was asked for.
    """

    messages: Sequence[Message]
    more: bool


class DirectPage(NamedTuple):
    """A page of this user's mailbox: ``messages``, oldest first, and whether there are ``more``."""

    messages: Sequence[DirectMessage]
    more: bool


class Room:
    """A room that the client is in; made by ``Chat.join``. It stays the same over reconnects.

    Attributes:
        name: its name.
        backlog: the newest messages when it was joined, oldest first, as many as ``join`` was asked for.
    """

    def __init__(self, chat: "roomhub.client.chat.Chat", name: str, backlog: Sequence[Message]) -> None:
        self.name: str = name
        self.backlog: Sequence[Message] = backlog
        self._chat = chat

    def __repr__(self) -> str:
        return f"<Room {self.name!r} at {self.position}>"

    @property
    def is_joined(self) -> bool:
        """Whether the server has this client in the room now."""
        state = self._chat._protocol.rooms.get(self.name)
        return state is not None and state.is_joined

    @property
    def members(self) -> Mapping[str, Member]:
        """Who is in the room, by identity, as of the newest event; empty where ``join`` was told not to keep it."""
        state = self._chat._protocol.rooms.get(self.name)
        return {} if state is None else dict(state.members)

    @property
    def position(self) -> Position:
        """The place up to which the client has heard the room, events that wait for the program included."""
        state = self._chat._protocol.rooms.get(self.name)
        return Position("", 0) if state is None else state.position

    async def send(self, content: str, *, key: str | None = None, timeout_s: float | None = None) -> Sent:
        """Say something in the room; returns once the server has it, and with a store once it is stored.

        Without a connection it waits for one, in order with all that was said before. It is said once, however often
        the connection breaks. Whoever is cancelled here does not know whether it was.

        Args:
            content: the text.
            key: an idempotency key of one's own, at most 128 bytes, for a message that may have been sent before.
            timeout_s: how long that may take; by default as long as ``connect`` was told.

        Raises:
            RequestRefused: ``forbidden``, ``too_large``, ``muted`` and so on: it was not said.
            NotAnswered: there was no answer in time; it tells whether it may have been said, and has the key.
            OutboxFull: too much waits already; it was not said.
            ChatClosed: the room or the chat was left before it could be said.
            StayAway: the server wants this client no more.
            ValueError: a lone surrogate, which has no UTF-8.
        """
        check_text(content)
        chat = self._chat
        return sent(await chat._answer(chat._protocol.say(self.name, content, chat._due(timeout_s), key)))

    async def typing(self, is_typing: bool = True) -> None:
        """Show that the user types, or no longer does; as often as one likes, it is sent as often as it is of use.

        It ends by itself after 6 s. Without a connection nothing happens: it would be late.
        """
        self._chat._due(0)
        self._chat._protocol.typing(self.name, is_typing, self._chat._clock.now())
        self._chat._changed()
        await checkpoint()

    async def shout(self, name: str, content: str = "", *, timeout_s: float | None = None) -> None:
        """Tell something to whoever is there now; it is in no history, and only the newest of a name counts.

        Raises:
            NotConnected: there is no connection, or it ended before the answer came.
            RequestRefused, NotAnswered, OutboxFull, ChatClosed, StayAway: as for ``send``.
        """
        check_text(content)
        chat = self._chat
        request = chat._protocol.shout(self.name, name, content, chat._due(timeout_s))
        if request is None:
            raise NotConnected("shout: there is no connection, and who is there now cannot be told")
        await chat._answer(request)

    async def set_meta(self, meta: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Replace what this user tells of itself in the room: an object for JSON, the same for all devices.

        Raises:
            RequestRefused, NotAnswered, OutboxFull, ChatClosed, StayAway: as for ``send``.
        """
        chat = self._chat
        await chat._answer(chat._protocol.set_meta(self.name, meta, chat._due(timeout_s)))

    async def history(
        self,
        *,
        before: int | None = None,
        since: Position | None = None,
        limit: int = 50,
        timeout_s: float | None = None,
    ) -> Page:
        """A page of the room's history; it changes nothing of what comes as events.

        Args:
            before: the newest messages before this offset; without it the newest of all.
            since: instead, the oldest messages after this place.
            limit: how many at most; the server gives no more than ``history_page`` of its limits.
            timeout_s: how long it may take.

        Raises:
            RequestRefused: ``unrecoverable`` where ``since`` is of another epoch, or any other.
            NotAnswered, OutboxFull, ChatClosed, StayAway: as for ``send``.
            ValueError: both ``before`` and ``since``.
        """
        if before is not None and since is not None:
            raise ValueError("before and since exclude each other: a page goes one way")
        chat = self._chat
        due = chat._due(timeout_s)
        request = chat._protocol.history(self.name, due, before=before, since=since, limit=limit)
        reply = await chat._answer(request)
        messages = reply.get("messages", ()) if since is not None else oldest_first(reply)
        return Page([message(item) for item in messages], bool(reply.get("more")))

    async def leave(self, *, timeout_s: float | None = None) -> None:
        """Leave the room; from the call on nothing of it comes any more. Left already is as good.

        Raises:
            NotAnswered, StayAway: the server does not answer; it will not have us back in the room all the same.
        """
        chat = self._chat
        if self.name in chat._protocol.rooms:
            request = chat._protocol.leave(self.name, chat._due(timeout_s))
            chat._rooms.pop(self.name, None)
            await chat._answer(request)


def check_text(content: str) -> None:
    """Raises ValueError where the text has no UTF-8."""
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds a lone surrogate, which has no UTF-8") from None


def sent(reply: Mapping[str, Any]) -> Sent:
    """What the reply to a message says."""
    return Sent(reply["room"], reply["epoch"], reply["offset"], reply["ts"], bool(reply.get("dup")))


def oldest_first(reply: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The messages of a page that was asked for newest first."""
    return tuple(reversed(reply.get("messages", ())))
