"""The v1 dialect as data: what either side may say. ``errors.py`` has its errors and close reasons.

``JsonCodec`` reads peers by ``CLIENT_MESSAGES``; the tests hold everything the hub sends against ``SERVER_MESSAGES``,
and the page of the protocol is made from both.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

__all__ = [
    "BIGGEST_INTEGER",
    "CLIENT_MESSAGES",
    "GREETING_MESSAGES",
    "KINDS",
    "MOD_ACTIONS",
    "SERVER_MESSAGES",
    "VERSION",
    "Field",
    "Kind",
    "ModAction",
]

VERSION: Final = 1

BIGGEST_INTEGER: Final = 2**53 - 1
"""Of an id, an offset and a time: beyond it a JavaScript client cannot tell one from the next (RFC 8259 section 6)."""

ModAction: TypeAlias = Literal["kick", "ban", "unban", "mute", "unmute"]
"""What a moderator can do."""

MOD_ACTIONS: Final[Sequence[ModAction]] = get_args(ModAction)

Kind: TypeAlias = Literal[
    "id",
    "text",
    "label",
    "object",
    "count",
    "offset",
    "flag",
    "state",
    "action",
    "duration",
    "position",
    "resume",
    "retry",
    "ms",
    "reason",
    "user",
    "range",
    "users",
    "messages",
    "rooms",
    "recovered",
]

KINDS: Final[Mapping[str, str]] = {
    "id": "a string or an integer",
    "text": "a string",
    "label": "a string of at most label_bytes",
    "object": "an object of at most meta_bytes",
    "count": "an integer from 0",
    "offset": "an integer from 0, where 0 stands for the empty log",
    "flag": "true or false",
    "state": '"start" or "stop"',
    "action": ", ".join(f'"{action}"' for action in MOD_ACTIONS[:-1]) + f' or "{MOD_ACTIONS[-1]}"',
    "duration": "milliseconds, an integer from 1",
    "position": '{"epoch": a string, "offset": an offset}',
    "resume": '{"session": a string, "rooms": {a room: a position}}',
    "retry": '"no", "after" (retry_after_ms, or a while) or "now"',
    "ms": "milliseconds, an integer",
    "reason": '"slow", "expired", "epoch" or "lost"',
    "user": "{user, username, devices, meta?}",
    "range": "[the least, the most], both ms",
    "users": "a list of users",
    "messages": "a list of {room, username, content, user, to?, epoch, offset, ts}",
    "rooms": "{a room: {epoch, offset, recovered, rev?}}",
    "recovered": '"full", "partial" or "none"',
}
"""What a field's kind means, for a person; ``json_codec.py`` checks those that a client sends."""


class Field(NamedTuple):
    """One field of a message."""

    name: str
    kind: Kind
    required: bool = True


_ID = Field("id", "id")
_MAYBE_ID = Field("id", "id", required=False)
_ROOM = Field("room", "text")
_CONTENT = Field("content", "text")
_KEY = Field("key", "label", required=False)
_META = Field("meta", "object", required=False)

CLIENT_MESSAGES: Final[Mapping[str, Sequence[Field]]] = {
    "hello": (
        _ID,
        Field("token", "text", required=False),
        Field("client", "text", required=False),
        Field("resume", "resume", required=False),
    ),
    "join": (
        _ID,
        _ROOM,
        Field("since", "position", required=False),
        Field("history", "count", required=False),
        Field("presence", "flag", required=False),
        _META,
    ),
    "leave": (_ID, _ROOM),
    "chat": (_MAYBE_ID, _ROOM, _CONTENT, _KEY),
    "event": (_MAYBE_ID, _ROOM, Field("name", "label"), _CONTENT),
    "typing": (_MAYBE_ID, _ROOM, Field("state", "state")),
    "presence": (_MAYBE_ID, _ROOM, Field("meta", "object")),
    "dm": (_MAYBE_ID, Field("to", "text"), _CONTENT, _KEY),
    "history": (
        _ID,
        _ROOM,
        Field("since", "position", required=False),
        Field("before", "offset", required=False),
        Field("limit", "count", required=False),
    ),
    "members": (_ID, _ROOM),
    "mod": (
        _ID,
        Field("room", "text", required=False),
        Field("action", "action"),
        Field("user", "text"),
        Field("for_ms", "duration", required=False),
        Field("reason", "label", required=False),
    ),
    "auth": (_ID, Field("token", "text")),
    "ping": (_MAYBE_ID,),
}

GREETING_MESSAGES: Final = frozenset({"hello"})
"""All that may be said before ``welcome``; and it may not be said again."""

_ROOM_ID = (Field("room", "text"), Field("epoch", "text"), Field("offset", "offset"))
_SAID = (
    Field("room", "text"),
    Field("username", "text"),
    Field("content", "text"),
    Field("user", "text"),
    Field("epoch", "text"),
    Field("offset", "offset"),
    Field("ts", "ms"),
)
_CAME = (
    Field("room", "text"),
    Field("username", "text"),
    Field("content", "text"),
    Field("user", "text"),
    Field("rev", "count"),
    Field("devices", "count"),
)

SERVER_MESSAGES: Final[Mapping[str, Sequence[Field]]] = {
    "welcome": (
        _ID,
        Field("v", "count"),
        Field("session", "text"),
        Field("user", "text"),
        Field("username", "text"),
        Field("ping_ms", "ms", required=False),
        Field("pong_ms", "ms", required=False),
        Field("expires_ms", "ms", required=False),
        Field("limits", "object"),
        Field("resumed", "flag"),
        Field("rooms", "rooms"),
    ),
    "ok": (
        _MAYBE_ID,
        Field("room", "text", required=False),
        Field("epoch", "text", required=False),
        Field("offset", "offset", required=False),
        Field("recovered", "recovered", required=False),
        Field("rev", "count", required=False),
        Field("users", "users", required=False),
        Field("messages", "messages", required=False),
        Field("more", "flag", required=False),
        Field("ts", "ms", required=False),
        Field("dup", "flag", required=False),
        Field("expires_ms", "ms", required=False),
    ),
    "error": (
        _MAYBE_ID,
        Field("code", "count"),
        Field("name", "text"),
        Field("message", "text"),
        Field("field", "text", required=False),
        Field("retry", "retry"),
        Field("retry_after_ms", "ms", required=False),
        Field("room", "text", required=False),
    ),
    "chat": _SAID,
    "dm": (*_SAID, Field("to", "text")),
    "user_joined": (*_CAME, _META),
    "user_left": (*_CAME, Field("reason", "text", required=False)),
    "presence": (
        Field("room", "text"),
        Field("rev", "count"),
        Field("joined", "users", required=False),
        Field("left", "users", required=False),
        Field("updated", "users", required=False),
        Field("users", "users", required=False),
    ),
    "typing": (Field("room", "text"), Field("username", "text"), Field("user", "text"), Field("state", "state")),
    "event": (
        Field("room", "text"),
        Field("username", "text"),
        Field("user", "text"),
        Field("name", "text"),
        Field("content", "text"),
    ),
    "gap": (
        Field("room", "text"),
        Field("epoch", "text"),
        Field("from", "offset"),
        Field("to", "offset"),
        Field("reason", "reason"),
    ),
    "kicked": (
        Field("room", "text"),
        Field("code", "count"),
        Field("reason", "text"),
        Field("until_ms", "ms", required=False),
    ),
    "draining": (Field("in_ms", "ms"), Field("reconnect_ms", "range")),
    "bye": (
        Field("code", "count"),
        Field("name", "text"),
        Field("retry", "retry"),
        Field("reconnect_ms", "range", required=False),
        Field("reason", "text", required=False),
        Field("until_ms", "ms", required=False),
    ),
    "pong": (_MAYBE_ID,),
}
