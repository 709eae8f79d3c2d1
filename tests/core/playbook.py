"""Tests that read as a dialogue: ``>>`` a fact or an order goes in, ``<<`` what comes out.

    (
        Playbook()
        >> Connected("ann", TEXT, "Ann", ["r"])
        << Sees("ann", "online Ann", "+Ann")
        >> Received("ann", "hi")
        << Sees("ann", "Ann: hi")
        >> Kick("Ann")
        << Close("ann", KICKED)
    )

Time is virtual: ``>> After(5)`` lets seconds pass and ticks. An order that nobody expected fails at the next ``>>``.
After mitmproxy's ``Playbook``.
"""

import json
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

from roomhub.core.codec import Chunk, Codec, Lane, PlainCodec, text_lane
from roomhub.core.effects import (
    Announce,
    Authenticate,
    Authorize,
    Close,
    Effect,
    Impose,
    Lift,
    Load,
    Moderated,
    Probe,
    Report,
    Settle,
    Store,
)
from roomhub.core.events import Received, Ticked
from roomhub.core.hub import Hub
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.core.message import Message
from roomhub.core.protocol import SERVER_MESSAGES
from roomhub.core.sanctions import Sanction

__all__ = [
    "BYTES",
    "TEXT",
    "V1",
    "After",
    "Hears",
    "Nothing",
    "Playbook",
    "Sees",
    "brief",
    "check_shape",
    "frames",
    "netstring_lane",
    "same",
    "says",
    "told",
]


def netstring_lane(codec: Codec | None = None, *, end: bytes = b",", v1: bool = False) -> Lane:
    """A lane of bytes, framed so that a test can take a chunk apart: ``5:hello,``; ``end`` tells lanes apart."""

    def netstring(text: str) -> bytes:
        data = text.encode()
        return b"%d:%b%b" % (len(data), data, end)

    return Lane(codec or PlainCodec(), netstring, _concatenate, v1=v1)


def _concatenate(parts: Any) -> bytes:
    return b"".join(parts)


TEXT = text_lane(PlainCodec())
BYTES = netstring_lane()
V1 = netstring_lane(JsonCodec(Limits()), v1=True)


def frames(chunk: Chunk) -> Iterator[str]:
    """The texts in a chunk of ``TEXT`` or of a netstring lane."""
    if isinstance(chunk, tuple):
        yield from chunk
        return
    while chunk:
        length, _, chunk = chunk.partition(b":")
        yield chunk[: int(length)].decode()
        assert chunk[int(length) : int(length) + 1] in (b",", b"~")
        chunk = chunk[int(length) + 1 :]


def brief(frame: str) -> str:
    """A plain frame in short: ``Ann: hi``, ``+Ann``, ``-Ann``, ``online Ann,Ben``; after its room, if that is not r."""
    seen = json.loads(frame)
    assert list(seen) == ["type", "content", "room", "username"]
    name = seen["username"]
    content = seen["content"]
    match seen["type"]:
        case "chat":
            line = f"{name}: {content}"
        case "user_joined":
            assert content == f"{name} joined the room"
            line = f"+{name}"
        case "user_left":
            assert content == f"{name} left the room"
            line = f"-{name}"
        case _:
            assert (seen["type"], name) == ("online_users", "")
            line = f"online {content}"
    return line if seen["room"] == "r" else f"{seen['room']}| {line}"


def told(message: Message) -> str:
    """A reported or announced message, as ``brief`` has it."""
    return brief(PlainCodec().encode(message))


def same(one: object, other: object) -> bool:
    """Whether two events or effects are equal, field by field: they are slots, and compare by identity themselves."""
    if type(one) is not type(other):
        return False
    slots = {slot for base in type(one).__mro__ for slot in getattr(base, "__slots__", ())}
    if isinstance(one, Authorize):
        slots -= {"ref"}
    return all(getattr(one, slot) == getattr(other, slot) for slot in slots)


class After:
    """So many seconds pass; then the hub ticks."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds


class Nothing:
    """No order, and nobody sees anything."""


class Sees:
    """The hub has served everybody, and these are the client's frames since it was last asked."""

    def __init__(self, client: str, *lines: str) -> None:
        self.client = client
        self.lines = list(lines)


class Hears:
    """The same for a client of v1: each message has these fields, and perhaps others; a text is a type alone."""

    def __init__(self, client: str, *messages: str | dict[str, Any]) -> None:
        self.client = client
        self.messages = [{"type": message} if isinstance(message, str) else message for message in messages]


def says(client: str, kind: str, **fields: Any) -> Received[str]:
    """A client of v1 says this; a field ``from_`` would be ``from``."""
    return Received(client, json.dumps({"type": kind, **fields}, ensure_ascii=False))


def check_shape(message: dict[str, Any]) -> None:
    """Whether ``protocol.py`` knows the message: its type, all of its fields, none missing."""
    fields = {field.name: field.required for field in SERVER_MESSAGES[message["type"]]}
    assert {"type", *(name for name, required in fields.items() if required)} <= set(message), message
    assert set(message) <= {"type", *fields}, message


class Playbook:
    """A hub, a clock, and what every client has seen so far.

    Attributes:
        hub: the hub under test.
        now: virtual seconds.
        raw: every frame of a client, as it was.
        closed: reasons of the clients that were told to close.
    """

    def __init__(self, **limits: float) -> None:
        self.hub: Hub[str] = Hub(epoch="e", limits=Limits(**limits))
        self.now = 0.0
        self.orders: deque[Effect[str]] = deque()
        self.raw: dict[str, list[str]] = defaultdict(list)
        self.chunks: dict[str, list[Chunk]] = defaultdict(list)
        self.closed: dict[str, str] = {}
        self._seen: dict[str, int] = defaultdict(int)

    def __rshift__(self, item: Any) -> "Playbook":
        assert not self.orders, f"before {item!r} nobody expected {list(self.orders)}"
        if isinstance(item, After):
            self.now += item.seconds
            item = Ticked()
        for order in self.hub.handle(item, self.now):
            self.orders.append(order)
            if isinstance(order, Close):
                self.closed[order.client] = order.reason.name
                self.pull(order.client)
        return self

    def __lshift__(self, expected: Any) -> "Playbook":
        if isinstance(expected, Sees):
            self.serve()
            lines = [brief(frame) for frame in self.raw[expected.client][self._seen[expected.client] :]]
            self._seen[expected.client] += len(lines)
            assert lines == expected.lines, f"{expected.client} saw {lines}"
        elif isinstance(expected, Hears):
            heard = self.hear(expected.client)
            found = [
                {name: message.get(name) for name in wanted}
                for message, wanted in zip(heard, expected.messages, strict=False)
            ]
            assert found == expected.messages, f"{expected.client} heard {heard}"
            assert len(heard) == len(found), f"{expected.client} heard {heard}"
        elif isinstance(expected, Nothing):
            self.serve()
            assert not self.orders, f"nobody expected {list(self.orders)}"
            for client, raw in self.raw.items():
                news = raw[self._seen[client] :]
                assert not news, f"{client} saw {news[:9]}"
        elif isinstance(expected, type):
            assert self.orders, f"expected an order: {expected.__name__}"
            order = self.orders.popleft()
            assert type(order) is expected, f"expected {expected.__name__}, got {order!r}"
        else:
            assert self.orders, f"expected {expected!r}, but no order is left"
            order = self.orders.popleft()
            assert same(order, expected), f"expected {expected!r}, got {order!r}"
        return self

    def tell(self) -> list[str]:
        """Take the orders so far out, in short."""
        orders, self.orders = self.orders, deque()
        return [short(order) for order in orders]

    def hear(self, client: str) -> list[dict[str, Any]]:
        """What a client of v1 has heard since it was last asked."""
        self.serve()
        heard = [json.loads(frame) for frame in self.raw[client][self._seen[client] :]]
        for message in heard:
            check_shape(message)
        self._seen[client] += len(heard)
        return heard

    def serve(self) -> None:
        """All that the hub has for anybody, as a runtime would at the end of a tick."""
        while self.hub._delivery.dirty or self.hub._delivery.named:
            while (share := self.hub.share(64)) is not None:
                for client in share.clients:
                    self.take(client, share.chunk)
            for client in self.hub.ready():
                self.pull(client)

    def pull(self, client: str) -> None:
        while chunk := self.hub.pull(client):
            self.take(client, chunk)

    def take(self, client: str, chunk: Chunk) -> None:
        self.chunks[client].append(chunk)
        self.raw[client] += frames(chunk)

    def forget(self) -> "Playbook":
        """Take everything seen so far as read, and every order as expected: for the beginning of a test."""
        self.serve()
        self.orders.clear()
        for client, raw in self.raw.items():
            self._seen[client] = len(raw)
        return self


def told_sanction(sanction: Sanction) -> str:
    return f"{sanction.kind} {sanction.user} {sanction.room!r} {sanction.until_ms} {sanction.reason!r}"


def short(order: Effect[str]) -> str:
    match order:
        case Close():
            return f"close {order.client} {order.reason.name}"
        case Probe():
            return f"probe {order.client}"
        case Authenticate():
            return f"authenticate {order.client}"
        case Authorize():
            action = "" if order.action == "join" else f" {order.action}"
            return f"authorize {order.client} {order.room} {order.username}{action}"
        case Announce():
            return f"announce {told(order.message)}"
        case Report():
            return f"report {told(order.message)}"
        case Store():
            return f"store {', '.join(f'{message.room} {message.offset}' for message in order.messages)}"
        case Load():
            return f"load {order.room} {order.after} {order.before} {order.limit}"
        case Lift():
            return f"lift {told_sanction(order.sanction)}"
        case Impose():
            return f"impose {told_sanction(order.sanction)}"
        case Moderated():
            until = order.until_ms
            return f"{order.action} {order.user} {order.room!r} by {order.by} until {until}: {order.reason}"
        case Settle():
            where = order.position
            return f"settle {order.ref} {f'{where.epoch}/{where.offset}' if where else None}"
