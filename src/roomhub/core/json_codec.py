"""The v1 dialect, ``roomhub.v1.json``: JSON objects both ways.

Reading is strict where leniency would be a trap (duplicate keys, NaN, text that has no UTF-8) and lenient where
protocols grow (unknown fields). What a message may hold stands in ``protocol.py``.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Any, Final, TypeAlias

from roomhub.core.limits import Limits
from roomhub.core.message import CHAT, DM, Message, Position
from roomhub.core.protocol import BIGGEST_INTEGER, CLIENT_MESSAGES, KINDS, MOD_ACTIONS
from roomhub.core.requests import (
    Auth,
    Chat,
    DirectMessage,
    Fault,
    Hello,
    History,
    Id,
    Join,
    Leave,
    Members,
    Moderate,
    Ping,
    Presence,
    Request,
    Resume,
    Shout,
    Typing,
)

__all__ = ["JsonCodec", "Raw"]

DEEPEST: Final = 16
"""How many levels metadata may have. A parser may bound them (RFC 8259 section 9); and what one peer says is rendered
for others, at a depth of the program's stack that nobody foresees."""

_BUILDERS: Final[Mapping[str, Callable[..., Request]]] = {
    "hello": Hello,
    "join": Join,
    "leave": Leave,
    "chat": Chat,
    "event": Shout,
    "typing": Typing,
    "presence": Presence,
    "dm": DirectMessage,
    "history": History,
    "members": Members,
    "mod": Moderate,
    "auth": Auth,
    "ping": Ping,
}


class Raw(str):
    """A piece of JSON that is put into a message as it is."""

    __slots__ = ()


class _Unfit(ValueError):
    """JSON that this dialect does not take; the message says why."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Which of the two counts is decided differently by every reader (RFC 8259 section 4).
        raise _Unfit("an object has the same key twice")
    return found


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Unfit("a number is too large")
    return number


def _constant(text: str) -> float:
    raise _Unfit(f"{text} is not JSON")


# Of a message's text from an index on, the value there and where it ends; StopIteration where there is none.
_scan: Final[Callable[[str, int], tuple[Any, int]]] = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_constant=_constant
).scan_once  # type: ignore[attr-defined]  # a stable part of the class that typeshed lacks
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_SPACE: Final = " \t\n\r"

_Checked: TypeAlias = tuple[Any, str]
"""A field's value as the request has it, and "" or what is wrong with it."""


class JsonCodec:
    """The codec of v1 clients.

    Args:
        limits: ``meta_bytes`` and ``label_bytes`` bound what a field may hold.
    """

    __slots__ = ("_checks", "_label_bytes", "_meta_bytes")
    name = "roomhub.v1.json"

    def __init__(self, limits: Limits) -> None:
        self._meta_bytes = limits.meta_bytes
        self._label_bytes = limits.label_bytes
        self._checks: Mapping[str, Callable[[Any], _Checked]] = {
            "id": self._id,
            "text": _text,
            "label": self._label,
            "object": self._meta,
            "count": _integer,
            "offset": _integer,
            "flag": _flag,
            "state": _state,
            "action": _action,
            "duration": _duration,
            "position": _position,
            "resume": _resume,
        }

    # -- from a peer --------------------------------------------------------------------------------------------------

    def decode(self, text: str) -> Request:
        """What a peer means. What makes no sense is a ``Fault``; nothing that a peer sent raises."""
        try:
            return self._decode(text.lstrip(_SPACE))
        except RecursionError:
            return Fault("bad_request", "this JSON is nested too deep")

    def _decode(self, body: str) -> Request:
        try:
            data, end = _scan(body, 0)
        except _Unfit as error:
            return Fault("bad_request", str(error))
        except (StopIteration, ValueError):
            # ValueError is also an integer of more digits than Python converts.
            return Fault("bad_request", "this is not JSON, or holds what is not taken here")
        if end != len(body) and body[end:].strip(_SPACE):
            return Fault("bad_request", "there is something behind the JSON")
        if type(data) is not dict:
            return Fault("bad_request", "a message is a JSON object")
        if "\\u" in body and (field := _field_without_utf8(data)) is not None:
            return Fault("bad_request", f"{field} holds a lone surrogate, which has no UTF-8", field)
        return self._request(data)

    def _request(self, data: dict[str, Any]) -> Request:
        id_: Id | None = None
        if (given := data.get("id")) is not None:
            id_, fault = self._id(given)
            if fault:
                return Fault("bad_request", f"id must be {fault}", "id")
        kind = data.get("type")
        if kind == "chat" and "key" not in data:
            # Nearly all that is said: what the table below says of it, in a third of the time.
            room, content = data.get("room"), data.get("content")
            if isinstance(room, str) and isinstance(content, str):
                return Chat(room, content, id_)
        if not isinstance(kind, str):
            return Fault("bad_request", "type must be a string", "type", id_)
        fields = CLIENT_MESSAGES.get(kind)
        if fields is None:
            return Fault("unknown_type", f"no message has the type {kind[:64]!r}", "type", id_)
        values: dict[str, Any] = {}
        for field in fields:
            value = data.get(field.name)
            if value is None:
                if field.required:
                    return Fault("bad_request", f"{field.name} is missing: {KINDS[field.kind]}", field.name, id_)
                continue
            value, fault = self._checks[field.kind](value)
            if fault:
                return Fault("bad_request", f"{field.name} must be {fault}", field.name, id_)
            values[field.name] = value
        for name in ("room", "for_ms") if kind == "mod" else ():
            # Left out they mean everywhere, and for ever: what somebody failed to fill in must not.
            if name in data and data[name] is None:
                return Fault("bad_request", f"{name} must not be null: leave it out, or say which", name, id_)
        if kind == "history" and ("since" in values) == ("before" in values):
            return Fault("bad_request", "give either since or before", "since", id_)
        return _BUILDERS[kind](**values)

    def _id(self, value: Any) -> _Checked:
        if isinstance(value, str):
            return self._label(value)
        if type(value) is int and -BIGGEST_INTEGER <= value <= BIGGEST_INTEGER:
            return value, ""
        return None, f"a string, or an integer of at most {BIGGEST_INTEGER}"

    def _label(self, value: Any) -> _Checked:
        if not isinstance(value, str):
            return None, "a string"
        if len(value.encode()) > self._label_bytes:
            return None, f"a string of at most {self._label_bytes:g} bytes"
        return value, ""

    def _meta(self, value: Any) -> _Checked:
        if not isinstance(value, dict):
            return None, "an object"
        if not _is_flat(value):
            return None, f"an object of at most {DEEPEST} levels"
        if len(_dumps(value).encode()) > self._meta_bytes:
            return None, f"an object of at most {self._meta_bytes:g} bytes"
        return value, ""

    # -- to a peer ----------------------------------------------------------------------------------------------------

    def encode(self, message: Message) -> str:
        """A message of a room's log; "" for what only the plain dialect has words for."""
        if message.kind == CHAT or message.kind == DM:
            head = _said_head(message.kind, message.room, message.username, message.user, message.epoch, message.to)
            return f'{head}{quote(message.content)},"offset":{message.offset},"ts":{message.ts_ms}}}'
        if message.notice is None:
            return ""
        return self.notice(*message.notice)

    def notice(self, kind: str, fields: Mapping[str, Any]) -> str:
        """A message of this type with these fields, in their order; a ``Raw`` goes in as it is."""
        parts = [f'{{"type":"{kind}"']
        parts += [f',"{name}":{value if type(value) is Raw else _dumps(value)}' for name, value in fields.items()]
        parts.append("}")
        return "".join(parts)

    def items(self, items: Sequence[Mapping[str, Any]]) -> Raw:
        """A list, rendered once for many messages."""
        return Raw(_dumps(items))


@lru_cache(maxsize=8192)
def _said_head(kind: str, room: str, username: str, user: str, epoch: str, to: str) -> str:
    # All but what differs from message to message of one member in one room.
    addressee = f'"to":{quote(to)},' if to else ""
    return (
        f'{{"type":"{kind}","room":{quote(room)},"username":{quote(username)},"user":{quote(user)},'
        f'{addressee}"epoch":{quote(epoch)},"content":'
    )


def _field_without_utf8(data: dict[str, Any]) -> str | None:
    for name, value in data.items():
        try:
            _dumps((name, value)).encode()
        except UnicodeEncodeError:
            return name.encode(errors="replace").decode()
    return None


def _is_flat(value: Any) -> bool:
    """Whether a value has at most ``DEEPEST`` levels of objects and arrays."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return True
    return False


def _text(value: Any) -> _Checked:
    return (value, "") if isinstance(value, str) else (None, "a string")


def _integer(value: Any) -> _Checked:
    if type(value) is int and 0 <= value <= BIGGEST_INTEGER:
        return value, ""
    return None, f"an integer from 0 to {BIGGEST_INTEGER}"


def _flag(value: Any) -> _Checked:
    return (value, "") if isinstance(value, bool) else (None, "true or false")


def _state(value: Any) -> _Checked:
    return (value, "") if value in ("start", "stop") else (None, '"start" or "stop"')


def _action(value: Any) -> _Checked:
    return (value, "") if value in MOD_ACTIONS else (None, KINDS["action"])


def _duration(value: Any) -> _Checked:
    if type(value) is int and 1 <= value <= BIGGEST_INTEGER:
        return value, ""
    return None, f"milliseconds, an integer from 1 to {BIGGEST_INTEGER}"


def _position(value: Any) -> _Checked:
    if isinstance(value, dict):
        epoch = value.get("epoch")
        offset, fault = _integer(value.get("offset"))
        if isinstance(epoch, str) and not fault:
            return Position(epoch, offset), ""
    return None, KINDS["position"]


def _resume(value: Any) -> _Checked:
    if isinstance(value, dict):
        session, rooms = value.get("session"), value.get("rooms", {})
        if isinstance(session, str) and isinstance(rooms, dict):
            positions = {room: _position(position) for room, position in rooms.items()}
            if not any(fault for _, fault in positions.values()):
                return Resume(session, {room: position for room, (position, _) in positions.items()}), ""
    return None, KINDS["resume"]
