"""Frames of the server, checked against the protocol's tables before anything believes them.

What is not known is let through or ignored, for protocols grow; what is known and has the wrong type is broken.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from roomhub.core.protocol import BIGGEST_INTEGER, SERVER_MESSAGES, Kind

__all__ = ["Broken", "read_frame"]


class Broken(Exception):
    """A frame that no server of this protocol sends; the text says what is wrong with it."""


def read_frame(text: str) -> dict[str, Any] | None:
    """A message of the server, its fields as the tables have them; None for a type that is not known.

    A field that is null is not there.

    Raises:
        Broken: it is none.
    """
    try:
        data = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Broken("a frame holds a lone surrogate") from None
    except (ValueError, RecursionError):
        raise Broken("a frame is not JSON") from None
    if not isinstance(data, dict) or not isinstance(kind := data.get("type"), str):
        raise Broken("a frame is no object with a type")
    fields = SERVER_MESSAGES.get(kind)
    if fields is None:
        return None
    data = {name: value for name, value in data.items() if value is not None}
    for field in fields:
        if field.name in data:
            if not _CHECKS[field.kind](data[field.name]):
                raise Broken(f"{field.name} of {kind} has the wrong type")
        elif field.required and field.name != "id":
            raise Broken(f"{field.name} of {kind} is missing")
    return data


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= BIGGEST_INTEGER


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_user(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("user"), str)
        and isinstance(value.get("username"), str)
        and _is_count(value.get("devices"))
        and isinstance(value.get("meta", {}), dict)
    )


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in ("room", "user", "username", "content", "epoch"))
        and all(_is_count(value.get(name)) for name in ("offset", "ts"))
        and isinstance(value.get("to", ""), str)
    )


def _is_position(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("epoch"), str) and _is_count(value.get("offset"))


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)) and value[0] <= value[1]


def _each(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


_CHECKS: Final[Mapping[Kind, Callable[[Any], bool]]] = {
    "id": lambda value: type(value) in (str, int),
    "text": _is_text,
    "label": _is_text,
    "object": _is_object,
    "count": _is_count,
    "offset": _is_count,
    "flag": lambda value: isinstance(value, bool),
    "state": _is_text,
    "position": _is_position,
    "resume": _is_object,
    "retry": _is_text,
    "ms": _is_count,
    "reason": _is_text,
    "user": _is_user,
    "range": _is_range,
    "users": _each(_is_user),
    "messages": _each(_is_message),
    "rooms": lambda value: (
        isinstance(value, dict)
        and all(
            _is_position(place) and _is_text(place.get("recovered")) and _is_count(place.get("rev", 0))
            for place in value.values()
        )
    ),
    "recovered": _is_text,
}
