"""The v1 dialect's reading and writing, field by field."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.core.message import CHAT, DM, ONLINE_USERS, Message, Position
from roomhub.core.protocol import CLIENT_MESSAGES, KINDS, SERVER_MESSAGES
from roomhub.core.requests import (
    Auth,
    Chat,
    DirectMessage,
    Fault,
    Hello,
    History,
    Join,
    Leave,
    Members,
    Moderate,
    Ping,
    Presence,
    Resume,
    Shout,
    Typing,
)

CODEC = JsonCodec(Limits(meta_bytes=40, label_bytes=8))
HERE = {"epoch": "e", "offset": 3}

GOOD: list[tuple[dict[str, Any], object]] = [
    ({"type": "hello", "id": 1}, Hello(1)),
    (
        {"type": "hello", "id": "a", "token": "t", "client": "c", "resume": {"session": "s", "rooms": {"r": HERE}}},
        Hello("a", "t", "c", Resume("s", {"r": Position("e", 3)})),
    ),
    ({"type": "hello", "id": 1, "resume": {"session": "s"}}, Hello(1, None, None, Resume("s", {}))),
    ({"type": "join", "id": 1, "room": "r"}, Join("r", 1)),
    (
        {"type": "join", "id": 1, "room": "r", "since": HERE, "history": 5, "presence": True, "meta": {"a": [1.5]}},
        Join("r", 1, Position("e", 3), 5, True, {"a": [1.5]}),
    ),
    ({"type": "leave", "id": -5, "room": "r"}, Leave("r", -5)),
    ({"type": "chat", "room": "r", "content": "é"}, Chat("r", "é")),
    ({"type": "chat", "id": 1, "room": "r", "content": "", "key": "k"}, Chat("r", "", 1, "k")),
    ({"type": "event", "room": "r", "name": "n", "content": "c"}, Shout("r", "n", "c")),
    ({"type": "typing", "room": "r", "state": "start"}, Typing("r", "start")),
    ({"type": "presence", "room": "r", "meta": {}}, Presence("r", {})),
    ({"type": "dm", "to": "ben", "content": "c", "id": 1}, DirectMessage("ben", "c", 1)),
    ({"type": "history", "id": 1, "room": "r", "before": 9, "limit": 2}, History("r", 1, None, 9, 2)),
    ({"type": "history", "id": 1, "room": "r", "since": HERE}, History("r", 1, Position("e", 3))),
    ({"type": "members", "id": 1, "room": "r"}, Members("r", 1)),
    ({"type": "mod", "id": 1, "action": "kick", "user": "ben"}, Moderate(1, "kick", "ben")),
    (
        {"type": "mod", "id": 1, "room": "r", "action": "ban", "user": "ben", "for_ms": 5, "reason": "spam"},
        Moderate(1, "ban", "ben", "r", 5, "spam"),
    ),
    ({"type": "auth", "id": 1, "token": "t"}, Auth(1, "t")),
    ({"type": "ping"}, Ping()),
]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": "chat", "room": "r"}, "content"),
    ({"type": "chat", "room": 5, "content": "c"}, "room"),
    ({"type": "chat", "room": "r", "content": ["c"]}, "content"),
    ({"type": "chat", "room": "r", "content": "c", "key": "123456789"}, "key"),
    ({"type": "chat", "room": "r", "content": "c", "key": 1}, "key"),
    ({"type": "chat", "room": "r", "content": "c", "id": 1.0}, "id"),
    ({"type": "chat", "room": "r", "content": "c", "id": True}, "id"),
    ({"type": "chat", "room": "r", "content": "c", "id": 2**53}, "id"),
    ({"type": "chat", "room": "r", "content": "c", "id": "ééééé"}, "id"),
    ({"type": "hello"}, "id"),
    ({"type": "hello", "id": 1, "resume": {"rooms": {}}}, "resume"),
    ({"type": "hello", "id": 1, "resume": {"session": "s", "rooms": {"r": {"epoch": "e"}}}}, "resume"),
    ({"type": "hello", "id": 1, "resume": {"session": "s", "rooms": []}}, "resume"),
    ({"type": "hello", "id": 1, "resume": "s"}, "resume"),
    ({"type": "join", "id": 1, "room": "r", "since": 5}, "since"),
    ({"type": "join", "id": 1, "room": "r", "since": {"epoch": "e", "offset": -1}}, "since"),
    ({"type": "join", "id": 1, "room": "r", "since": {"epoch": 1, "offset": 1}}, "since"),
    ({"type": "join", "id": 1, "room": "r", "history": -1}, "history"),
    ({"type": "join", "id": 1, "room": "r", "history": "5"}, "history"),
    ({"type": "join", "id": 1, "room": "r", "presence": 1}, "presence"),
    ({"type": "join", "id": 1, "room": "r", "meta": []}, "meta"),
    ({"type": "join", "id": 1, "room": "r", "meta": {"a": "x" * 40}}, "meta"),
    ({"type": "typing", "room": "r", "state": "pause"}, "state"),
    ({"type": "history", "id": 1, "room": "r"}, "since"),
    ({"type": "history", "id": 1, "room": "r", "since": HERE, "before": 5}, "since"),
    ({"type": 5}, "type"),
    ({}, "type"),
]


@pytest.mark.parametrize(("message", "request_"), GOOD)
def test_what_a_client_may_say(message: dict[str, Any], request_: object) -> None:
    assert CODEC.decode(json.dumps(message)) == request_
    padded = {**message, "unknown": {"deep": [None]}, "username": "not yours"}
    assert CODEC.decode(f" \n{json.dumps(padded)}\t ") == request_, "unknown fields are ignored"


def test_every_message_and_every_field_is_tried() -> None:
    tried = {(message["type"], name) for message, _ in GOOD for name in message if name != "type"}
    required = {(kind, field.name) for kind, fields in CLIENT_MESSAGES.items() for field in fields if field.required}
    assert required <= tried
    assert {kind for kind, _ in tried} | {"ping"} == set(CLIENT_MESSAGES)


@pytest.mark.parametrize(("message", "field"), BAD)
def test_the_field_at_fault_is_named(message: dict[str, Any], field: str) -> None:
    fault = CODEC.decode(json.dumps(message))
    assert isinstance(fault, Fault)
    assert (fault.error, fault.field) == ("bad_request", field)
    assert field in fault.message
    if field != "id" and "id" in message:
        assert fault.id == message["id"]


def test_null_is_as_if_it_were_not_there() -> None:
    assert CODEC.decode('{"type":"join","id":1,"room":"r","since":null,"meta":null}') == Join("r", 1)
    assert isinstance(CODEC.decode('{"type":"join","id":1,"room":null}'), Fault)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "nonsense",
        "[]",
        "5",
        '"hello"',
        "null",
        '{"type":"ping"} {}',
        '{"type":"ping","type":"ping"}',
        '{"type":"ping","x":{"a":1,"a":1}}',
        '{"type":"ping","x":NaN}',
        '{"type":"ping","x":-Infinity}',
        '{"type":"ping","x":1e999}',
        '{"type":"ping","x":"\\udfff"}',
        '{"type":"ping","\\ud800":1}',
        '{"type":"ping","x":"a\nb"}',
        "[" * 100_000,
        '{"type":"ping","x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":"ping","id":' + "1" * 5_000 + "}",
    ],
)
def test_what_is_no_message_is_a_fault(text: str) -> None:
    """Rows 40 to 44."""
    fault = CODEC.decode(text)
    assert isinstance(fault, Fault)
    assert fault.error == "bad_request"
    fault.message.encode()
    fault.field.encode()


def test_metadata_as_deep_as_the_parser_goes_is_a_fault() -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 150, limit + 50, 7):
        text = '{"type":"join","id":1,"room":"r","meta":' + '{"a":' * depth + "1" + "}" * depth + "}"
        assert isinstance(CODEC.decode(text), Fault)


def test_escapes_are_read() -> None:
    assert CODEC.decode('{"type":"chat","room":"r","content":"\\u00e9\\ud83d\\ude00"}') == Chat("r", "é😀")


def test_an_unknown_type_keeps_the_id() -> None:
    assert CODEC.decode('{"type":"edit","id":7}') == Fault("unknown_type", "no message has the type 'edit'", "type", 7)


@given(st.text(max_size=200))
def test_nothing_a_peer_sends_raises(text: str) -> None:
    CODEC.decode(text)
    CODEC.decode(f'{{"type":"chat","room":{text}}}')


@given(st.text(), st.text(max_size=20), st.text(max_size=20))
def test_a_chat_goes_out_as_json(content: str, room: str, user: str) -> None:
    message = Message(CHAT, room, user, user, content, 5, 1_700, epoch="e.1")
    assert json.loads(CODEC.encode(message)) == {
        "type": "chat",
        "room": room,
        "username": user,
        "user": user,
        "epoch": "e.1",
        "content": content,
        "offset": 5,
        "ts": 1_700,
    }


def test_what_else_goes_out() -> None:
    dm = Message(DM, "@ben", "ann", "ann", "psst", 1, 2, epoch="e", to="ben")
    assert json.loads(CODEC.encode(dm))["to"] == "ben"
    assert CODEC.encode(Message(ONLINE_USERS, "r", "", "", "ann,ben")) == "", "the plain dialect's"
    users = CODEC.items([{"user": "ann"}])
    assert CODEC.notice("ok", {"id": "a", "users": users}) == '{"type":"ok","id":"a","users":[{"user":"ann"}]}'


def test_every_kind_of_field_is_explained() -> None:
    used = {
        field.kind
        for messages in (CLIENT_MESSAGES, SERVER_MESSAGES)
        for fields in messages.values()
        for field in fields
    }
    assert used | {"user"} == set(KINDS)


def test_requests_are_compared_and_shown() -> None:
    assert Chat("r", "a") != Chat("r", "b")
    assert Chat("r", "a") != "a"
    assert repr(Chat("r", "a", 1, "k")) == "Chat('r', 'a', id=1, key='k')"
