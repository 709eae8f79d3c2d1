"""What v1 clients ask and are answered: hello, rooms, messages, history, direct messages, typing, ends."""

from typing import Any

import pytest

from roomhub.core import errors
from roomhub.core.codec import PlainCodec
from roomhub.core.commands import CloseRoom, Dismiss, Drain, Enter, EraseMessage, EraseUser, Kick, Publish
from roomhub.core.effects import Announce, Authorize, Close, Probe, Report, Settle
from roomhub.core.errors import ERRORS, SLOW_CONSUMER
from roomhub.core.events import (
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Heard,
    Published,
    Received,
    Refused,
    Writable,
)
from roomhub.core.hub import Hub
from roomhub.core.limits import Limits
from roomhub.core.message import CHAT, Message
from roomhub.core.requests import Ping
from roomhub.core.session import State
from roomhub.core.storage import Snapshot
from tests.core.playbook import TEXT, V1, After, Hears, Nothing, Playbook, Sees, netstring_lane, says


def connected(client: str, user: str, *rooms: str, secret: str = "", shares: bool = False) -> Connected[str]:
    return Connected(client, V1, user, rooms, secret=secret or f"secret of {client}", shares=shares)


def greeted(*users: str, room: str = "r", **limits: float) -> Playbook:
    """These users, by their names in lower case, have said hello and are in the room; what they heard is forgotten."""
    play = Playbook(**limits)
    for user in users:
        enter(play, user, room)
    return play.forget()


def enter(play: Playbook, user: str, room: str = "r", client: str = "") -> None:
    client = client or user.lower()
    play >> connected(client, user) >> says(client, "hello", id="h") >> says(client, "join", id="j", room=room)


def chat(user: str, content: str, offset: int, room: str = "r", epoch: str = "e.1") -> dict[str, Any]:
    return {"type": "chat", "room": room, "user": user, "content": content, "offset": offset, "epoch": epoch}


def ok(id_: object, **fields: object) -> dict[str, Any]:
    return {"type": "ok", "id": id_, **fields}


def error(name: str, id_: object = None, **fields: object) -> dict[str, Any]:
    return {"type": "error", "name": name, "code": ERRORS[name].code, "retry": ERRORS[name].retry, "id": id_, **fields}


def joined(user: str, rev: int, **fields: object) -> dict[str, Any]:
    return {"type": "user_joined", "user": user, "rev": rev, "content": f"{user} joined the room", **fields}


def left(user: str, rev: int, **fields: object) -> dict[str, Any]:
    return {"type": "user_left", "user": user, "rev": rev, "content": f"{user} left the room", "devices": 0, **fields}


def gap(first: int, last: int, reason: str, **fields: object) -> dict[str, Any]:
    return {"type": "gap", "room": "r", "from": first, "to": last, "reason": reason, **fields}


# -- hello -------------------------------------------------------------------------------------------------------------


def test_hello_gets_welcome() -> None:
    play = Playbook(message_rate_per_s=float("inf"), ping_interval_s=20, pong_timeout_s=float("inf"))
    play >> connected("ann", "Ann")
    assert play.hub.state_of("ann") is State.GREETING
    play >> Received("ann", '{"type":"hello","id":1,"client":"a test"}')
    assert play.hub.state_of("ann") is State.OPEN
    [welcome] = play.hear("ann")
    assert welcome == {
        "type": "welcome",
        "id": 1,
        "v": 1,
        "session": "secret of ann",
        "user": "Ann",
        "username": "Ann",
        "ping_ms": 20_000,
        "limits": {
            "message_bytes": 65_536,
            "meta_bytes": 2_048,
            "label_bytes": 128,
            "message_rate_per_s": None,
            "message_burst": 250,
            "rooms_per_client": 128,
            "history_page": 100,
        },
        "resumed": False,
        "rooms": {"@Ann": {"epoch": "", "offset": 0, "recovered": "none"}},
    }


@pytest.mark.parametrize("kind", ["join", "ping", "chat"])
def test_anything_before_hello_is_an_error(kind: str) -> None:
    fields = {"id": 1, "room": "r", "content": "x"}
    (
        Playbook()
        >> connected("ann", "Ann")
        >> says("ann", kind, **fields)
        << Hears("ann", error("bad_request", 1, field="type", message="say hello first"))
        >> Received("ann", "nonsense")
        << Hears("ann", error("bad_request"))
        >> says("ann", "hello", id="h")
        << Hears("ann", "welcome")
    )


def test_hello_may_not_be_said_twice() -> None:
    greeted("Ann") >> says("ann", "hello", id=2) << Hears("ann", error("bad_request", 2, field="type"))


def test_who_says_no_hello_in_time_is_closed() -> None:
    (
        Playbook(hello_timeout_s=10)
        >> connected("ann", "Ann", "r")
        >> After(9.9)
        << Nothing()
        >> After(0.1)
        << Close("ann", errors.HELLO_TIMEOUT)
        << Hears("ann", {"type": "bye", "code": 4204, "name": "hello_timeout", "retry": "now"})
        >> Disconnected("ann")
        << Nothing()
    )


def test_a_room_in_the_address_is_joined_after_welcome() -> None:
    play = Playbook()
    play >> connected("ann", "Ann", "r", "../x") >> says("ann", "hello", id="h")
    play << Hears(
        "ann",
        "welcome",
        ok(None, room="r", epoch="e.1", offset=0, recovered="none", rev=1),
        error("bad_request", field="room"),
        joined("Ann", 2, devices=1),
    )


def test_a_talking_client_needs_a_secret() -> None:
    hub: Hub[str] = Hub(epoch="e")
    with pytest.raises(ValueError, match="secret"):
        hub.handle(Connected("ann", V1, "Ann"), 0)
    assert not hub.clients()


def test_a_refused_client_is_told_so() -> None:
    play = Playbook(connections=1)
    play >> connected("ann", "Ann") >> connected("ben", "Ben") << Close("ben", errors.OVER_CAPACITY)
    play << Hears("ben", {"type": "bye", "code": 4104, "name": "over_capacity", "retry": "after"})


# -- rooms -------------------------------------------------------------------------------------------------------------


def test_join_chat_leave() -> None:
    (
        Playbook()
        >> connected("ann", "Ann")
        >> says("ann", "hello", id="h")
        >> says("ann", "join", id="j", room="r")
        << Hears("ann", "welcome", ok("j", room="r", epoch="e.1", offset=0, recovered="none", rev=1), joined("Ann", 2))
        >> says("ann", "chat", id="c", room="r", content="hi")
        << Hears("ann", ok("c", room="r", epoch="e.1", offset=1, ts=0), chat("Ann", "hi", 1))
        >> says("ann", "chat", room="r", content="no reply")
        << Hears("ann", chat("Ann", "no reply", 2))
        >> says("ann", "leave", id="l", room="r")
        << Hears("ann", ok("l"))
        >> says("ann", "chat", id="d", room="r", content="hi")
        << Hears("ann", error("unknown_room", "d", field="room", room="r"))
    )


def test_both_dialects_share_a_room() -> None:
    (
        Playbook()
        >> Connected("pat", TEXT, "Pat", ["r"])
        << Sees("pat", "online Pat", "+Pat")
        >> connected("ann", "Ann, the first")
        >> says("ann", "hello", id="h")
        >> says("ann", "join", id="j", room="r", presence=True)
        << Hears(
            "ann",
            "welcome",
            ok("j", rev=1, users=[{"user": "Pat", "username": "Pat", "devices": 1}]),
            joined("Ann, the first", 2),
        )
        << Sees("pat", "online Pat,Ann\uff0c the first", "+Ann, the first")
        >> Received("pat", "hi")
        << Hears("ann", chat("Pat", "hi", 1))
        << Sees("pat", "Pat: hi")
        >> says("ann", "chat", room="r", content="hello")
        << Hears("ann", chat("Ann, the first", "hello", 2))
        << Sees("pat", "Ann, the first: hello")
        >> Disconnected("pat")
        << Hears("ann", left("Pat", 3))
    )


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("leave", {"id": 1}),
        ("chat", {"id": 1, "content": "x"}),
        ("event", {"id": 1, "name": "n", "content": "x"}),
        ("typing", {"id": 1, "state": "start"}),
        ("presence", {"id": 1, "meta": {}}),
        ("history", {"id": 1, "before": 5}),
        ("members", {"id": 1}),
    ],
)
def test_a_room_one_is_not_in_is_unknown(kind: str, fields: dict[str, Any]) -> None:
    play = greeted("Ann") >> says("ann", kind, room="other", **fields)
    play << Hears("ann", error("unknown_room", 1, field="room", room="other"))


def test_a_join_that_cannot_be() -> None:
    play = greeted("Ann", rooms_per_client=2, rooms=2)
    play >> says("ann", "join", id=1, room="r") << Hears("ann", error("already_joined", 1, field="room", room="r"))
    play >> says("ann", "join", id=2, room="a b") << Hears("ann", error("bad_request", 2, field="room"))
    play >> says("ann", "join", id=3, room="s") << Hears("ann", ok(3), joined("Ann", 2, room="s"))
    play >> says("ann", "join", id=4, room="t") << Hears("ann", error("rate_limited", 4, room="t", retry_after_ms=100))
    enter(play, "Ben", "u")
    play << Hears("ben", "welcome", error("over_capacity", "j", room="u"))
    assert play.hub.statistics().refusals == {"rate_limited": 1, "over_capacity": 1}


def test_joins_are_at_a_rate() -> None:
    play = greeted("Ann", join_burst=2, join_rate_per_s=2)
    play >> says("ann", "join", id=1, room="s") >> says("ann", "join", id=2, room="t")
    assert [message["type"] for message in play.hear("ann")] == ["ok", "error", "user_joined"]
    play >> After(1) >> says("ann", "join", id=3, room="t")
    assert [message["type"] for message in play.hear("ann")] == ["ok", "user_joined"]


def test_a_join_may_be_asked_about() -> None:
    play = greeted("Ann")
    play.hub.authorizes = True
    play >> says("ann", "join", id=1, room="s") << Authorize("ann", "s", "Ann") << Nothing()
    play >> says("ann", "join", id=2, room="s") >> says("ann", "chat", id=4, room="s", content="hi") << Nothing()
    (
        play
        >> Authorized("ann", "s")
        << Hears(
            "ann",
            ok(1, room="s"),
            error("already_joined", 2),
            ok(4, offset=1),
            joined("Ann", 2, room="s"),
            "chat",
        )
    )
    play >> Authorized("ann", "t") << Nothing()
    play >> says("ann", "join", id=3, room="t") << Authorize("ann", "t", "Ann")
    play >> Denied("ann", "t") << Hears("ann", error("forbidden", 3, room="t"))
    play >> Denied("ann", "t") << Nothing()


def test_the_program_lets_in_and_puts_out() -> None:
    play = greeted("Ann", "Ben")
    play >> Enter("ann", "s") << Hears("ann", ok(None, room="s"), joined("Ann", 2, room="s"))
    play >> Enter("ann", "s") << Nothing()
    play >> Kick("Ann", "r") << Hears("ann", {"type": "kicked", "room": "r", "code": 4004, "reason": "kicked"})
    play << Hears("ben", left("Ann", 4, reason="kicked"))
    play >> CloseRoom("s") << Hears("ann", {"type": "kicked", "room": "s", "code": 4009, "reason": "room_closed"})
    play << Nothing()
    assert play.hub.state_of("ann") is State.OPEN, "a v1 client needs no room to stay"
    play >> Kick("Ann") << Close("ann", errors.KICKED)
    play << Hears("ann", {"type": "bye", "code": 4004, "name": "kicked", "retry": "no"})


def test_ping_gets_pong() -> None:
    play = greeted("Ann") >> says("ann", "ping", id=7) >> says("ann", "ping")
    play << Hears("ann", {"type": "pong", "id": 7}, {"type": "pong", "id": None})


def test_silence_and_idleness_end_v1_clients_too() -> None:
    play = greeted("Ann", ping_interval_s=10, pong_timeout_s=15, idle_timeout_s=40)
    play >> After(10) << Probe("ann") >> Heard("ann") >> After(10) << Probe("ann")
    play >> After(5) << Close("ann", errors.NO_PONG)
    play << Hears("ann", {"type": "bye", "code": 4201, "name": "no_pong", "retry": "now"})


# -- errors ------------------------------------------------------------------------------------------------------------


def test_over_the_rate_a_message_is_refused_and_the_client_stays() -> None:
    play = greeted("Ann", message_rate_per_s=2, message_burst=4)
    for number in range(4):
        play >> says("ann", "chat", id=number, room="r", content=str(number))
    heard = play.hear("ann")
    assert [message["offset"] for message in heard if message["type"] == "chat"] == [1, 2]
    assert [message for message in heard if message["type"] == "error"] == [
        {
            "type": "error",
            "id": number,
            "code": 429,
            "name": "rate_limited",
            "message": "too many messages",
            "retry": "after",
            "retry_after_ms": 500,
        }
        for number in (2, 3)
    ]
    play >> After(0.5) >> says("ann", "chat", room="r", content="again") << Hears("ann", chat("Ann", "again", 3))


def test_many_errors_close() -> None:
    """Row 46."""
    play = greeted("Ann", error_burst=5)
    for number in range(5):
        play >> says("ann", "dance", id=number)
    assert [message["name"] for message in play.hear("ann")] == ["unknown_type"] * 5
    play >> says("ann", "dance", id=9) << Close("ann", errors.RATE_LIMITED)
    assert [message["type"] for message in play.hear("ann")] == ["error", "bye"]


def test_in_time_errors_are_forgiven() -> None:
    play = greeted("Ann", error_burst=2, ping_interval_s=600, pong_timeout_s=700)
    for _ in range(10):
        play >> says("ann", "dance") >> After(31)
    play << Hears("ann", *["error"] * 10)


@pytest.mark.parametrize(
    ("text", "name", "field"),
    [
        ("[" * 100_000 + "]" * 100_000, "bad_request", None),  # row 40
        ('{"type":"chat","id":' + "9" * 5_000 + "}", "bad_request", None),  # row 41
        ('{"type":"chat","room":"r","content":NaN}', "bad_request", None),  # row 42
        ('{"type":"chat","room":"r","content":1e999}', "bad_request", None),
        ('{"type":"chat","room":"r","content":"a","content":"b"}', "bad_request", None),  # row 43
        ('{"type":"chat","room":"r","content":"\\ud800"}', "bad_request", "content"),  # row 44
        ('{"type":"chat","room":"r"}', "bad_request", "content"),  # row 45
        ('{"type":"chat","room":5,"content":"a"}', "bad_request", "room"),
        ('{"type":"sing"}', "unknown_type", "type"),  # row 46
    ],
)
def test_bad_input_is_an_error_and_reaches_nobody(text: str, name: str, field: str | None) -> None:
    play = greeted("Ann", "Ben") >> Received("ann", text) << Hears("ann", error(name, field=field))
    play << Nothing()
    assert not play.hub.history("r")


# -- history, resume ---------------------------------------------------------------------------------------------------


def told_room(count: int, **limits: float) -> Playbook:
    """Ann is in a room in which so many things were said."""
    play = Playbook(**limits)
    enter(play, "Ann")
    for number in range(1, count + 1):
        play >> says("ann", "chat", room="r", content=f"m{number}")
    return play.forget()


def rejoin(play: Playbook, since: dict[str, Any], **fields: Any) -> Playbook:
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    return play >> says("ben", "join", id="j", room="r", since=since, **fields)


def test_since_gets_what_was_missed_after_the_reply() -> None:
    play = rejoin(told_room(5), {"epoch": "e.1", "offset": 3})
    play << Hears(
        "ben",
        "welcome",
        ok("j", recovered="full", offset=3),
        chat("Ann", "m4", 4),
        chat("Ann", "m5", 5),
        joined("Ben", 3),
    )
    play >> says("ann", "chat", room="r", content="m6") << Hears("ben", chat("Ann", "m6", 6))


@pytest.mark.parametrize(
    ("since", "replied", "heard"),
    [
        ({"epoch": "e.1", "offset": 5}, {"recovered": "full", "offset": 5}, []),
        ({"epoch": "e.1", "offset": 1}, {"recovered": "partial", "offset": 1}, [(2, 2), 3, 4, 5]),
        ({"epoch": "e.1", "offset": 2}, {"recovered": "full", "offset": 2}, [3, 4, 5]),
        ({"epoch": "", "offset": 0}, {"recovered": "partial", "offset": 0}, [(1, 2), 3, 4, 5]),
        ({"epoch": "e.1", "offset": 6}, {"recovered": "none", "offset": 5}, []),
        ({"epoch": "x.1", "offset": 4}, {"recovered": "none", "offset": 5}, [(1, 5)]),
    ],
    ids=["at the head", "older than kept", "just kept", "from the beginning", "from the future", "another epoch"],
)
def test_resume_is_exact_or_says_what_is_missing(
    since: dict[str, Any], replied: dict[str, Any], heard: list[int | tuple[int, int]]
) -> None:
    """G3."""
    play = rejoin(told_room(5, log_messages=3), since)
    reason = "epoch" if since["epoch"] == "x.1" else "expired"
    told = [gap(*at, reason, epoch="e.1") if isinstance(at, tuple) else chat("Ann", f"m{at}", at) for at in heard]
    play << Hears("ben", "welcome", ok("j", **replied), *told, joined("Ben", 3))


def test_a_replay_is_pulled_in_chunks_and_before_what_is_new() -> None:
    play = told_room(500, chunk_bytes=2_000, message_burst=1_000)
    rejoin(play, {"epoch": "e.1", "offset": 0})
    play >> says("ann", "chat", room="r", content="new")
    offsets = [message["offset"] for message in play.hear("ben") if message["type"] == "chat"]
    assert offsets == list(range(1, 502))
    assert max(len(chunk) for chunk in play.chunks["ben"]) <= 2_000
    assert play.hub._sessions["ben"].direct is None


def test_what_the_log_lets_go_of_during_a_replay_is_a_gap() -> None:
    play = told_room(10, log_messages=10)
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    play.forget()
    play >> Blocked("ben") >> says("ben", "join", id="j", room="r", since={"epoch": "e.1", "offset": 2})
    for number in range(4):
        play >> says("ann", "chat", room="r", content=f"new {number}")
    play >> Writable("ben")
    heard = play.hear("ben")
    assert heard[:2] == [heard[0], {**gap(3, 4, "slow"), "epoch": "e.1"}]
    assert [message["offset"] for message in heard if message["type"] == "chat"] == list(range(5, 15))


def test_a_replay_of_a_log_that_is_all_gone_is_one_gap() -> None:
    play = told_room(3, log_messages=3)
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    play.forget()
    play >> Blocked("ben") >> says("ben", "join", id="j", room="r", since={"epoch": "e.1", "offset": 0})
    for number in range(3):
        play >> says("ann", "chat", room="r", content=f"new {number}")
    (
        play
        >> Writable("ben")
        << Hears(
            "ben",
            ok("j"),
            gap(1, 3, "slow"),
            joined("Ben", 3),
            chat("Ann", "new 0", 4),
            chat("Ann", "new 1", 5),
            chat("Ann", "new 2", 6),
        )
    )


def test_a_join_may_bring_the_last_messages() -> None:
    play = told_room(5)
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h") >> says("ben", "join", id="j", room="r", history=2)
    [_, reply, _] = play.hear("ben")
    assert [message["content"] for message in reply["messages"]] == ["m4", "m5"]
    assert reply["messages"][0] == {
        "room": "r",
        "username": "Ann",
        "content": "m4",
        "user": "Ann",
        "epoch": "e.1",
        "offset": 4,
        "ts": 0,
    }


def test_pages_of_history_both_ways() -> None:
    play = told_room(7, history_page=3)
    pages: list[tuple[list[int], bool]] = []
    for fields in (
        {"before": 8},
        {"before": 5},
        {"before": 2, "limit": 1},
        {"before": 1},
        {"since": {"epoch": "e.1", "offset": 0}},
        {"since": {"epoch": "e.1", "offset": 4}, "limit": 50},
        {"since": {"epoch": "e.1", "offset": 5}, "limit": 1},
        {"since": {"epoch": "", "offset": 0}, "limit": 1},
    ):
        play >> says("ann", "history", id=1, room="r", **fields)
        [reply] = play.hear("ann")
        assert (reply["room"], reply["epoch"]) == ("r", "e.1")
        pages.append(([message["offset"] for message in reply["messages"]], reply["more"]))
    assert pages == [
        ([7, 6, 5], True),
        ([4, 3, 2], True),
        ([1], False),
        ([], False),
        ([1, 2, 3], True),
        ([5, 6, 7], False),
        ([6], True),
        ([1], True),
    ]
    play >> says("ann", "history", id=2, room="r", since={"epoch": "x", "offset": 3})
    play << Hears("ann", error("unrecoverable", 2, field="since", room="r"))


def test_a_session_is_resumed_with_its_rooms() -> None:
    play = told_room(2)
    enter(play, "Ben")
    play.forget()
    play >> Disconnected("ann") << Nothing()
    play >> Received("ben", '{"type":"chat","room":"r","content":"m3"}')
    (
        play
        >> connected("ann2", "Ann")
        >> says(
            "ann2",
            "hello",
            id="h",
            resume={"session": "secret of ann", "rooms": {"r": {"epoch": "e.1", "offset": 2}}},
        )
    )
    play << Hears(
        "ann2",
        {
            "type": "welcome",
            "session": "secret of ann2",
            "resumed": True,
            "rooms": {
                "r": {"epoch": "e.1", "offset": 2, "recovered": "full", "rev": 3},
                "@Ann": {"epoch": "", "offset": 0, "recovered": "none"},
            },
        },
        chat("Ben", "m3", 3),
    )
    play << Hears("ben", chat("Ben", "m3", 3)) << Nothing()
    assert play.hub.members("r") == ("Ann", "Ben")


def test_rooms_are_rejoined_also_when_the_session_is_gone() -> None:
    play = told_room(2, session_ttl_s=5, presence_grace_s=1)
    play >> Disconnected("ann") >> After(1) >> After(4)
    resume = {
        "session": "secret of ann",
        "rooms": {"r": {"epoch": "e.1", "offset": 1}, "../x": {"epoch": "", "offset": 0}},
    }
    play >> connected("ann2", "Ann") >> says("ann2", "hello", id="h", resume=resume)
    heard = play.hear("ann2")
    assert (heard[0]["resumed"], set(heard[0]["rooms"])) == (False, {"r", "@Ann"})
    assert heard[1] == {
        "type": "error",
        "code": 400,
        "name": "bad_request",
        "message": heard[1]["message"],
        "retry": "no",
        "room": "../x",
    }
    assert [message["type"] for message in heard[2:]] == ["chat", "user_joined"]


def test_a_secret_is_good_once_and_for_its_user_alone() -> None:
    play = greeted("Ann") >> Disconnected("ann")
    resume = {"session": "secret of ann", "rooms": {}}
    for client, user, resumed in (("x", "Mallory", False), ("ann2", "Ann", True), ("ann3", "Ann", False)):
        play >> connected(client, user) >> says(client, "hello", id="h", resume=resume)
        assert play.hear(client)[0]["resumed"] is resumed


def test_a_live_session_is_taken_over() -> None:
    play = told_room(2)
    enter(play, "Ben")
    play.forget()
    resume = {"session": "secret of ann", "rooms": {"r": {"epoch": "e.1", "offset": 2}}}
    play >> connected("ann2", "Ann") >> says("ann2", "hello", id="h", resume=resume)
    play << Close("ann", errors.REPLACED)
    play << Hears("ann", {"type": "bye", "code": 4005, "name": "replaced", "retry": "no"})
    play << Hears("ann2", {"type": "welcome", "resumed": True}) << Nothing()
    play >> Disconnected("ann") << Nothing()
    assert play.hub.members("r") == ("Ann", "Ben")


def test_ended_sessions_are_bounded() -> None:
    play = Playbook(sessions=2)
    for name in ("ann", "ben", "cy"):
        play >> connected(name, name) >> says(name, "hello", id="h") >> Disconnected(name)
    assert list(play.hub._state.ended) == ["secret of ben", "secret of cy"]
    play >> After(300)
    assert not play.hub._state.ended
    assert play.hub.next_deadline() == float("inf")


def test_a_resume_is_asked_about_room_by_room() -> None:
    play = told_room(1)
    play.hub.authorizes = True
    rooms = {name: {"epoch": "e.1", "offset": 0} for name in ("r", "s", "@Ann")}
    play >> connected("ann2", "Ann") >> says("ann2", "hello", id="h", resume={"session": "?", "rooms": rooms})
    play << Authorize("ann2", "r", "Ann") << Authorize("ann2", "s", "Ann") << Nothing()
    play >> Authorized("ann2", "r") << Nothing() >> Denied("ann2", "s")
    [welcome, refused, missed, devices] = play.hear("ann2")
    assert list(welcome["rooms"]) == ["r", "@Ann"]
    assert (refused["type"], refused["name"], refused["room"]) == ("error", "forbidden", "s")
    assert missed["content"] == "m1"
    assert devices["updated"] == [item("Ann", 2)]


def test_a_resume_names_no_more_rooms_than_one_may_be_in() -> None:
    play = Playbook(rooms_per_client=2)
    rooms = {f"r{number}": {"epoch": "", "offset": 0} for number in range(5)}
    play >> connected("ann", "Ann") >> says("ann", "hello", id="h", resume={"session": "?", "rooms": rooms})
    assert list(play.hear("ann")[0]["rooms"]) == ["r0", "r1", "@Ann"]


def test_a_room_lingers_with_its_log() -> None:
    play = told_room(2, ping_interval_s=5_000, pong_timeout_s=6_000)
    play >> says("ann", "leave", id=1, room="r") >> After(299) >> Publish("r", "to nobody", ref="ref")
    play.tell()
    assert play.hub.rooms() == (), "nobody is in it"
    rejoin(play, {"epoch": "e.1", "offset": 1})
    assert [message["offset"] for message in play.hear("ben") if message["type"] == "chat"] == [2, 3]
    play >> says("ben", "leave", id=1, room="r") >> After(300)
    play.tell()
    assert not play.hub._rooms
    rejoin_again = connected("cy", "Cy")
    (
        play
        >> rejoin_again
        >> says("cy", "hello", id="h")
        >> says("cy", "join", id="j", room="r", since={"epoch": "e.1", "offset": 3})
    )
    assert [message.get("recovered") for message in play.hear("cy")][1] == "none"


def test_a_lingering_room_makes_way() -> None:
    play = greeted("Ann", rooms=1) >> says("ann", "leave", id=1, room="r")
    play >> says("ann", "join", id=2, room="s") << Hears("ann", ok(1), ok(2, room="s"), joined("Ann", 4, room="s"))
    assert list(play.hub._rooms) == ["s"]


# -- idempotent publish ------------------------------------------------------------------------------------------------


def test_a_key_gives_one_offset() -> None:
    """G4."""
    play = greeted("Ann", "Ben", key_ttl_s=50, ping_interval_s=500, pong_timeout_s=600) >> ClockSet(5_000)
    play >> says("ann", "chat", id=1, room="r", content="hi", key="k")
    (
        play
        << Hears("ann", ok(1, offset=1, ts=5_000, dup=None), chat("Ann", "hi", 1))
        << Hears("ben", chat("Ann", "hi", 1))
    )
    play >> After(30) >> says("ann", "chat", id=2, room="r", content="hi again", key="k")
    play << Hears("ann", ok(2, offset=1, ts=5_000, dup=True)) << Nothing()
    play >> says("ann", "chat", room="r", content="hi again", key="k") << Nothing()
    (
        play
        >> says("ben", "chat", id=3, room="r", content="hi", key="k")
        << Hears("ben", ok(3, offset=2), chat("Ben", "hi", 2))
    )
    play.forget()
    play >> After(30) >> says("ann", "chat", id=4, room="r", content="hi", key="k")
    play << Hears("ann", ok(4, offset=3, dup=None), chat("Ann", "hi", 3))


def test_a_key_is_remembered_while_its_message_waits_for_the_hook() -> None:
    play = greeted("Ann")
    play.hub.announces = True
    announced = []
    for number in (1, 2):
        play >> says("ann", "chat", id=number, room="r", content="hi", key="k")
        announced.append(play.orders.popleft())
    for order in announced:
        assert isinstance(order, Announce)
        play >> Published(Message(CHAT, "r", "Ann", "Ann", "hi"), order.ref)
    play << Hears("ann", ok(1, offset=1, dup=None), ok(2, offset=1, dup=True), chat("Ann", "hi", 1))


def test_a_message_that_shall_not_be_is_forbidden() -> None:
    play = greeted("Ann")
    play.hub.announces = True
    play >> says("ann", "chat", id=1, room="r", content="spam")
    order = play.orders.popleft()
    assert isinstance(order, Announce)
    play >> Refused(order.message, order.ref) << Hears("ann", error("forbidden", 1)) << Nothing()
    play >> says("ann", "chat", id=2, room="r", content="spam")
    order = play.orders.popleft()
    assert isinstance(order, Announce)
    play >> Disconnected("ann") >> Refused(order.message, order.ref) >> Published(order.message, order.ref) << Nothing()


def test_the_program_is_told_where_its_message_stands() -> None:
    play = greeted("Ann") >> Publish("r", "news", ref="ref")
    order = play.orders.popleft()
    assert isinstance(order, Settle)
    assert order.position is not None
    assert order.position.offset == 1


# -- direct messages ---------------------------------------------------------------------------------------------------


def dm(room: str, content: str, offset: int, **fields: object) -> dict[str, Any]:
    return {"type": "dm", "room": room, "content": content, "offset": offset, **fields}


def test_a_direct_message_goes_to_all_devices_of_both() -> None:
    play = greeted("Ann", "Ben")
    enter(play, "Ann", "r", "ann2")
    enter(play, "Ben", "r", "ben2")
    play >> Connected("ben3", TEXT, "Ben", ["r"])
    play.forget()
    play >> says("ann", "dm", id=1, to="Ben", content="psst", key="k")
    copy = dm("@Ann", "psst", 1, user="Ann", to="Ben")
    play << Hears("ann", copy, ok(1, room="@Ben", offset=1))
    for client in ("ben", "ben2"):
        play << Hears(client, dm("@Ben", "psst", 1, user="Ann", username="Ann", to="Ben"))
    play << Hears("ann2", copy) << Nothing()
    play >> says("ann", "dm", id=2, to="Ben", content="psst", key="k")
    play << Hears("ann", ok(2, room="@Ben", offset=1, dup=True)) << Nothing()
    play >> says("ben", "dm", to="Ben", content="a note to myself")
    (
        play
        << Hears("ben2", dm("@Ben", "a note to myself", 2))
        << Hears("ben", dm("@Ben", "a note to myself", 2))
        << Nothing()
    )


def test_direct_messages_are_resumed_and_paged_like_a_room() -> None:
    play = greeted("Ann")
    play >> says("ann", "dm", id=1, to="Ben", content="one") >> says("ann", "dm", id=2, to="Ben", content="two")
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    [welcome] = play.hear("ben")
    assert welcome["rooms"] == {"@Ben": {"epoch": "e.2", "offset": 2, "recovered": "none"}}
    play >> says("ben", "history", id=3, room="@Ben", before=3)
    assert [message["content"] for message in play.hear("ben")[0]["messages"]] == ["two", "one"]
    play >> Disconnected("ben") >> connected("ben2", "Ben")
    rooms = {"@Ben": {"epoch": "", "offset": 0}}
    play >> says("ben2", "hello", id="h", resume={"session": "secret of ben", "rooms": rooms})
    play << Hears("ben2", "welcome", dm("@Ben", "one", 1), dm("@Ben", "two", 2))
    play >> says("ben2", "history", id=3, room="@Ann", before=3) << Hears("ben2", error("unknown_room", 3))


def test_a_mailbox_goes_when_its_user_stays_away() -> None:
    play = greeted("Ann", room_linger_s=60, ping_interval_s=500, pong_timeout_s=600)
    play >> says("ann", "dm", to="Ben", content="one")
    assert set(play.hub._state.mailboxes) == {"Ann", "Ben"}
    play >> After(60)
    assert set(play.hub._state.mailboxes) == {"Ann"}
    play >> Disconnected("ann") >> After(60)
    assert not play.hub._state.mailboxes


def test_there_are_no_more_mailboxes_than_rooms_may_be() -> None:
    play = greeted("Ann", rooms=2)
    play >> says("ann", "dm", id=1, to="Ben", content="x") << Hears("ann", error("over_capacity", 1))
    play >> says("ann", "dm", id=2, to="\u200b", content="x") << Hears("ann", error("bad_request", 2, field="to"))


# -- typing, events ----------------------------------------------------------------------------------------------------


def typing(user: str, state: str) -> dict[str, Any]:
    return {"type": "typing", "room": "r", "user": user, "username": user, "state": state}


def test_typing_is_throttled_and_ends_by_itself() -> None:
    play = greeted("Ann", "Ben")
    play >> says("ann", "typing", room="r", state="start") >> After() << Hears("ben", typing("Ann", "start"))
    play >> After(2) >> says("ann", "typing", room="r", state="start") >> After() << Hears("ben")
    (
        play
        >> After(1)
        >> says("ann", "typing", room="r", state="start")
        >> After()
        << Hears("ben", typing("Ann", "start"))
    )
    play >> After(5.9) << Hears("ben")
    play >> After(0.1) << Hears("ben", typing("Ann", "stop"))
    play >> says("ann", "typing", room="r", state="stop") >> After() << Hears("ben")
    (
        play
        >> says("ann", "typing", id=1, room="r", state="start")
        >> After()
        >> says("ann", "typing", room="r", state="stop")
    )
    play >> After() << Hears("ben", typing("Ann", "start"), typing("Ann", "stop"))
    assert not play.hub.history("r")


def test_who_leaves_types_no_more() -> None:
    play = greeted("Ann", "Ben") >> says("ann", "typing", room="r", state="start")
    play >> says("ann", "leave", id=1, room="r") >> After(10)
    play << Hears("ben", typing("Ann", "start"), left("Ann", 4)) << Hears("ann", ok(1))
    play >> says("ben", "typing", room="r", state="start") >> Disconnected("ben") >> After(6) << Nothing()


def test_of_events_the_newest_of_a_tick_goes_out() -> None:
    play = greeted("Ann", "Ben")
    for number in range(5):
        play >> says("ann", "event", id=number, room="r", name="cursor", content=str(number))
    play >> says("ann", "event", room="r", name="wave", content="!")
    assert not play.hub.is_settled
    play >> After()
    told = [
        {"type": "event", "room": "r", "user": "Ann", "name": name, "content": content}
        for name, content in (("cursor", "4"), ("wave", "!"))
    ]
    play << Hears("ben", *told) << Hears("ann", *(ok(number) for number in range(5)), *told)
    assert not play.hub.history("r")


def test_who_does_not_keep_up_is_spared_what_passes() -> None:
    play = greeted("Ann", "Ben", v1_lag_messages=10, message_burst=1_000)
    play >> Blocked("ben") >> After()
    for number in range(50):
        play >> says("ann", "event", room="r", name="n", content=str(number)) >> After()
    play >> says("ann", "chat", room="r", content="hi") >> After()
    assert play.hub.state_of("ben") is State.OPEN, "what passes is not what it lags by"
    play >> Writable("ben") << Hears("ben", chat("Ann", "hi", 1))
    play >> says("ann", "event", room="r", name="n", content="now") >> After() << Hears("ben", "event")


def test_events_of_a_room_without_v1_clients_are_nobodys() -> None:
    play = greeted("Ann")
    play >> Connected("pat", TEXT, "Pat", ["r"])
    play.forget()
    play >> says("ann", "event", room="r", name="n", content="x") >> says("ann", "leave", id=1, room="r") >> After()
    play << Sees("pat", "-Ann", "online Pat") << Hears("ann", ok(1))


# -- presence ----------------------------------------------------------------------------------------------------------


def item(user: str, devices: int = 1, **fields: object) -> dict[str, Any]:
    return {"user": user, "username": user, "devices": devices, **fields}


def test_devices_are_one_entry() -> None:
    """G5."""
    play = greeted("Ann", "Ben")
    play >> After(1)
    enter(play, "Ann", "r", "ann2")
    play << Hears("ben", {"type": "presence", "room": "r", "rev": 4, "updated": [item("Ann", 2)]})
    play >> says("ann2", "leave", id=1, room="r")
    play << Hears("ben", {"type": "presence", "room": "r", "rev": 5, "updated": [item("Ann", 1)]})
    play >> says("ann", "leave", id=1, room="r") << Hears("ben", left("Ann", 6))


def test_metadata_is_told_and_goes_with_the_user() -> None:
    play = greeted("Ann")
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    play >> says("ben", "join", id="j", room="r", meta={"mood": "fine"}, presence=True)
    play << Hears("ann", joined("Ben", 3, meta={"mood": "fine"}))
    play >> says("ben", "presence", id=1, room="r", meta={"mood": "tired"})
    play << Hears("ann", {"type": "presence", "rev": 4, "updated": [item("Ben", meta={"mood": "tired"})]})
    play >> says("ann", "members", id=2, room="r")
    play << Hears("ann", ok(2, room="r", rev=4, users=[item("Ann"), item("Ben", meta={"mood": "tired"})]))
    play >> After(1) >> says("ben", "leave", id=3, room="r") >> says("ben", "join", id=4, room="r")
    play << Hears("ann", left("Ben", 5), joined("Ben", 6, meta=None))


def test_a_user_gone_and_back_in_time_was_never_gone() -> None:
    play = greeted("Ann", "Ben", presence_grace_s=10)
    play.hub.reports = True
    play >> Disconnected("ann") >> After(9.9)
    assert play.hub.members("r") == ("Ann", "Ben")
    enter(play, "Ann", "r", "ann2")
    play << Hears("ben")
    play.forget() >> Disconnected("ann2") >> After(10) << Report << Hears("ben", left("Ann", 4))


def test_who_comes_into_a_room_that_a_grace_keeps_hears_of_no_old_departures() -> None:
    """Of the plain dialect's either: what nobody was there to hear is not told later, nor left in its roster."""
    play = greeted("Ann", "Ben", presence_grace_s=10) >> Disconnected("ann") >> After(5) >> Disconnected("ben")
    play >> After(5)  # Ann has left, and nobody hears of it
    play.forget() >> Connected("ben2", TEXT, "Ben", ["r"])
    play << Sees("ben2", "online Ben", "+Ben") << Nothing()
    play >> Connected("pat", TEXT, "Pat", ["r"]) << Sees("ben2", "online Ben,Pat", "+Pat")


def test_without_grace_who_vanishes_has_left() -> None:
    greeted("Ann", "Ben", presence_grace_s=0) >> Disconnected("ann") << Hears("ben", left("Ann", 4))


def test_a_burst_of_joins_costs_each_member_few_frames() -> None:
    """Row 58: two thousand joins within a second."""
    play = Playbook(connections_per_address=float("inf"))
    for number in range(2_000):
        play >> connected(f"c{number}", f"u{number}") >> says(f"c{number}", "hello", id="h")
        play >> says(f"c{number}", "join", id="j", room="r", presence=True)
        if number % 20 == 19:
            play >> After(0.01)
            play.serve()
    play >> After(0.5)
    play.tell()
    frames = {client: play.hear(client) for client in ("c0", "c5", "c500", "c1999")}
    assert all(len(heard) <= 10 for heard in frames.values()), {name: len(heard) for name, heard in frames.items()}
    for heard in frames.values():
        assert set(fold(heard)) == {f"u{number}" for number in range(2_000)}
        assert heard[-1]["rev"] == frames["c0"][-1]["rev"]


def fold(heard: list[dict[str, Any]]) -> dict[str, Any]:
    """The roster that a client has from its join's reply and what followed."""
    roster: dict[str, Any] = {}
    for message in heard:
        match message["type"]:
            case "ok":
                roster = {user["user"]: user for user in message["users"]}
            case "user_joined":
                roster[message["user"]] = message
            case "presence":
                for user in message.get("left", ()):
                    del roster[user["user"]]
                for user in (*message.get("joined", ()), *message.get("updated", ())):
                    roster[user["user"]] = user
    return roster


# -- slow clients ------------------------------------------------------------------------------------------------------


def lagging(slow: str) -> Playbook:
    play = Playbook(v1_lag_messages=5)
    play.hub = Hub(epoch="e", limits=Limits(v1_lag_messages=5), slow=slow)  # type: ignore[arg-type]  # of a parameter
    for user in ("Ann", "Ben"):
        enter(play, user)
    play.forget()
    play >> Blocked("ben") >> After()
    for number in range(8):
        play >> says("ann", "chat", room="r", content=str(number))
    play >> After()
    return play


def test_a_slow_client_is_closed() -> None:
    play = lagging("close") << Close("ben", SLOW_CONSUMER)
    heard = play.hear("ben")
    assert heard == [
        {"type": "bye", "code": 4101, "name": "slow_consumer", "retry": "after", "reconnect_ms": [500, 5_002]}
    ]


def test_a_slow_client_may_skip() -> None:
    play = lagging("skip")
    play >> says("ann", "chat", room="r", content="new") >> Writable("ben")
    roster = {"type": "presence", "room": "r", "rev": 3, "users": [item("Ann"), item("Ben")]}
    play << Hears("ben", gap(1, 8, "slow", epoch="e.1"), roster, chat("Ann", "new", 9))


def test_skipping_is_one_of_two_policies() -> None:
    with pytest.raises(ValueError, match="slow must be"):
        Hub(epoch="e", slow="wait")  # type: ignore[arg-type]  # what is tested


def test_replies_that_nobody_takes_close() -> None:
    play = greeted("Ann", direct_bytes=1_000) >> Blocked("ann")
    for number in range(38):
        play >> says("ann", "ping", id=number)
    play << Close("ann", SLOW_CONSUMER)


def test_what_passes_is_not_kept_for_whoever_is_spared_it() -> None:
    play = greeted("Ann", "Ben") >> Blocked("ben") >> After()
    play >> says("ann", "event", room="r", name="n", content="x") >> After()
    play.serve()
    play >> Writable("ben") << Hears("ben")
    assert not play.hub._rooms["r"].behind


def test_a_slow_client_skips_once_and_is_told_nothing_it_did_not_miss() -> None:
    play = lagging("skip")
    play.forget()
    for number in range(8):
        play >> says("ann", "event", room="r", name=f"n{number}", content="x")
    play >> After() >> Writable("ben")
    assert [message["type"] for message in play.hear("ben")] == ["gap", "presence"]


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_drain_is_announced_and_loses_nothing() -> None:
    play = greeted("Ann")
    play >> Connected("pat", TEXT, "Pat", ["r"]) >> connected("new", "New")
    play.forget()
    play >> Drain(2.5)
    play << Hears("ann", {"type": "draining", "in_ms": 2_500, "reconnect_ms": [500, 5_003]}) << Hears("new", "draining")
    play << Nothing()
    assert play.hub.refusal() is errors.DRAINING
    play >> says("ann", "chat", id=1, room="r", content="last words") >> Drain()
    assert play.tell() == ["close ann draining", "close pat draining", "close new draining"]
    play << Hears("ann", ok(1, offset=1), chat("Ann", "last words", 1), "bye") << Sees("pat", "Ann: last words")
    for client in ("ann", "pat", "new"):
        play >> Disconnected(client)
    assert play.hub.next_deadline() == float("inf")
    assert not play.hub._state.ended
    assert not play.hub._state.secrets


def test_a_dismissed_client_may_come_back() -> None:
    play = greeted("Ann", "Ben") >> Dismiss(["ann"], errors.DRAINING) << Close("ann", errors.DRAINING)
    play << Hears("ann", {"type": "bye", "code": 4100, "retry": "after"}) << Nothing()
    assert play.hub.members("r") == ("Ann", "Ben"), "the grace"


def test_with_a_room_its_timers_and_keys_go() -> None:
    play = greeted("Ann", "Ben", ping_interval_s=float("inf"), pong_timeout_s=float("inf"))
    play >> says("ann", "chat", room="r", content="x", key="k") >> says("ann", "typing", room="r", state="start")
    play >> Disconnected("ben") >> CloseRoom("r")
    play.forget()
    assert play.hub.next_deadline() == 300, "ben's session"
    assert not play.hub._rooms


def test_a_mailbox_that_lingers_makes_way() -> None:
    play = greeted("Ann", rooms=3) >> says("ann", "dm", to="Ben", content="x")
    play.forget()
    play >> says("ann", "join", id=1, room="s") << Hears("ann", ok(1, room="s"), joined("Ann", 2, room="s"))
    assert set(play.hub._state.mailboxes) == {"Ann"}


def test_a_drain_forgets_the_mailboxes() -> None:
    play = greeted("Ann") >> says("ann", "dm", to="Ben", content="x") >> Drain()
    play.forget()
    assert not play.hub._state.mailboxes


def test_a_plain_codec_may_have_requests_and_no_replies() -> None:
    class Odd(PlainCodec):
        def decode(self, text: str) -> Ping:
            return Ping()

    play = Playbook() >> Connected("odd", netstring_lane(Odd()), "Odd", ["r"])
    play.forget()
    play >> Received("odd", "x") << Nothing()
    assert play.hub.statistics().messages_dropped == 1


def test_backlogged_is_whose_rooms_are() -> None:
    play = greeted("Ann", lag_messages=1, message_burst=100)
    for _ in range(3):
        play >> says("ann", "chat", room="r", content="x")
    assert play.hub.is_backlogged("ann")
    assert not play.hub.is_backlogged("nobody")


def test_in_a_large_room_changes_are_told_together() -> None:
    play = greeted("Ann", "Ben", "Cy", presence_batch_members=2) >> After(5)
    play.forget()
    for name in ("Di", "Ed", "Flo"):
        enter(play, name)
    assert [message["type"] for message in play.hear("ann")] == ["user_joined"], "the first at once"
    play >> After(0.5)
    [batch] = play.hear("ann")
    assert (batch["type"], [user["user"] for user in batch["joined"]]) == ("presence", ["Ed", "Flo"])
    play >> After(0.5) << Hears("ann")
    play >> says("di", "leave", id=1, room="r") >> says("ed", "leave", id=1, room="r")
    play << Hears("ann", left("Di", 7))
    play >> says("flo", "chat", room="r", content="x") << Hears("ann", chat("Flo", "x", 1))
    play >> After(0.5) << Hears("ann", left("Ed", 8))


def test_nobody_speaks_before_it_is_said_to_be_there() -> None:
    play = greeted("Ann", "Ben", "Cy", presence_batch_members=2) >> After(5)
    play.forget()
    for name in ("Di", "Ed"):
        enter(play, name)
    play >> says("ed", "chat", room="r", content="hello") << Hears("ann", joined("Di", 5), joined("Ed", 6), "chat")
    play >> After(0.5) << Hears("ann")


def test_who_came_and_went_unheard_is_not_mentioned() -> None:
    play = greeted("Ann", "Ben", "Cy", presence_batch_members=2) >> After(5)
    play.forget()
    enter(play, "Di")
    enter(play, "Ed")
    play.forget() >> says("ed", "leave", id=1, room="r") >> After(0.5) << Hears("ann")
    enter(play, "Flo")
    play.forget()
    enter(play, "Gus")
    play >> Disconnected("gus") >> CloseRoom("r") >> After(0.5)
    assert play.hub.reports is False


def test_a_reply_that_fills_the_chunk_goes_before_the_replay() -> None:
    play = rejoin(told_room(3, chunk_bytes=60), {"epoch": "e.1", "offset": 0})
    assert [message["type"] for message in play.hear("ben")] == ["welcome", "ok", "chat", "chat", "chat", "user_joined"]


def test_a_live_session_is_no_strangers_to_take_over() -> None:
    play = greeted("Ann")
    play >> connected("mal", "Mal") >> says("mal", "hello", id="h", resume={"session": "secret of ann", "rooms": {}})
    play << Hears("mal", {"type": "welcome", "resumed": False}) << Nothing()


def test_a_room_of_the_address_may_be_resumed_too_and_there_may_be_no_place_for_another() -> None:
    play = greeted("Ann", rooms=1)
    rooms = {name: {"epoch": "", "offset": 0} for name in ("r", "s")}
    play >> connected("ann2", "Ann", "r") >> says("ann2", "hello", id="h", resume={"session": "?", "rooms": rooms})
    [welcome, refused, news] = play.hear("ann2")
    assert (set(welcome["rooms"]), news["type"]) == ({"r", "@Ann"}, "presence")
    assert (refused["name"], refused["room"]) == ("over_capacity", "s")


def test_who_only_missed_joins_gets_the_roster_alone() -> None:
    play = Playbook()
    play.hub = Hub(epoch="e", limits=Limits(v1_lag_messages=1), slow="skip")
    enter(play, "Ann")
    play.forget() >> Blocked("ann") >> After()
    enter(play, "Ben")
    enter(play, "Cy")
    play >> After() >> Writable("ann")
    [roster] = play.hear("ann")
    assert (roster["rev"], [user["user"] for user in roster["users"]]) == (4, ["Ann", "Ben", "Cy"])


def test_a_device_goes_and_then_the_last_vanishes_before_anybody_was_told() -> None:
    play = greeted("Ann", "Ben", "Cy")
    enter(play, "Ben", "r", "ben2")
    play.forget() >> says("ben2", "leave", id=1, room="r") >> Disconnected("ben") >> After(0.5) << Hears("ann")
    play >> After(9.5) << Hears("ann", left("Ben", 6))
    play >> says("ann", "members", id=1, room="r") << Hears("ann", ok(1, users=[item("Ann"), item("Cy")]))


def test_a_telling_that_is_due_may_have_been_done() -> None:
    play = greeted("Ann", "Ben", "Cy", "Di")
    enter(play, "Ed")
    play >> says("ed", "chat", room="r", content="hello")
    play.forget() >> After(0.5) << Nothing()


# -- found by the simulation -------------------------------------------------------------------------------------------


def newcomers(*users: str, room: str = "r", **limits: float) -> Playbook:
    play = Playbook(**limits)
    for user in users:
        client = user.lower()
        play >> connected(client, user) >> says(client, "hello", id="h")
        if room:
            play >> says(client, "join", id="j", room=room)
    return play.forget()


def test_a_late_authorized_joins_a_closing_session() -> None:
    """Membership of the dead: frames after bye, a member that is CLOSING (Hub._authorized has no check for v1)."""
    play = newcomers("Ann", room="")
    play.hub.authorizes = True
    play >> says("ann", "join", id=1, room="s")
    play.orders.clear()
    play >> Blocked("ann") >> After(10)  # slow_consumer
    play.orders.clear()
    assert play.hub.state_of("ann") is State.CLOSING
    play >> Authorized("ann", "s")
    assert play.hub.members("s") == ()
    assert [message["type"] for message in play.hear("ann")][-1] == "bye"


def test_a_key_and_its_room_end_in_one_tick() -> None:
    """KeyError out of handle(Ticked())."""
    play = newcomers("Ann", key_ttl_s=5, room_linger_s=5, ping_interval_s=float("inf"), pong_timeout_s=float("inf"))
    play >> says("ann", "chat", id=1, room="r", content="x", key="k") >> says("ann", "leave", id=2, room="r")
    play >> After(5)
    assert not play.hub._rooms


def test_a_session_ends_for_good_and_is_pushed_out_in_one_tick() -> None:
    """KeyError out of handle(Ticked()): "silence" comes before "session" and ends one session too many."""
    play = newcomers("Ann", "Ben", sessions=1, session_ttl_s=1, write_timeout_s=1, room="")
    play >> Disconnected("ann") >> Blocked("ben") >> After(1)
    play << Close("ben", errors.SLOW_CONSUMER)
    assert list(play.hub._state.ended) == ["secret of ben"]


def test_the_senders_mailbox_takes_the_place_of_the_one_written_to() -> None:
    """KeyError out of handle(Received())."""
    play = newcomers("Cy", room="", rooms=2, ping_interval_s=float("inf"), pong_timeout_s=float("inf"))
    play >> says("cy", "dm", id=1, to="Ben", content="x")  # @Ben lingers, @Cy
    play >> connected("ann", "Ann") >> says("ann", "hello", id="h")
    play >> says("ann", "dm", id=1, to="Ben", content="y")
    assert [message["name"] for message in play.hear("ann")[1:]] == ["over_capacity"]


def test_a_mailbox_made_for_a_message_that_came_to_nothing_stays_for_ever() -> None:
    """G6: nothing arms its linger."""
    play = newcomers("Ann", rooms=2)
    play >> says("ann", "dm", id=1, to="Ben", content="x")  # over_capacity
    play >> Disconnected("ann") >> After(1_000) >> After(1_000)
    assert not play.hub._rooms
    assert not play.hub._state.mailboxes


def test_a_second_hello_while_the_first_waits() -> None:
    """The first hello's id never gets its reply, and each room is asked about again."""
    play = Playbook()
    play.hub.authorizes = True
    resume = {"session": "?", "rooms": {"r": {"epoch": "", "offset": 0}}}
    play >> connected("ann", "Ann") >> says("ann", "hello", id=1, resume=resume) << Authorize("ann", "r", "Ann")
    play >> says("ann", "hello", id=2, resume=resume)
    play.orders.clear()
    play >> Authorized("ann", "r")
    assert {message["id"] for message in play.hear("ann") if "id" in message} == {1, 2}


def test_closing_a_room_tells_those_in_it_of_a_users_devices() -> None:
    """leave(tell=False) tells the roster all the same: n² notices, a forgotten room in grown/dirty/deadlines."""
    play = newcomers("Ann", "Ben")
    play >> connected("ann2", "Ann") >> says("ann2", "hello", id="h") >> says("ann2", "join", id="j", room="r")
    play.forget() >> After(5)
    play.forget() >> CloseRoom("r")
    assert not play.hub._state.grown
    assert [message["type"] for message in play.hear("ben")] == ["kicked"]


def test_kicked_from_closed_rooms_piles_up() -> None:
    """G6: CloseRoom moves what is unread into the blocked client's direct frames and judges nobody."""
    play = newcomers("Ann", "Ben", direct_bytes=500, message_burst=1_000)
    play >> Blocked("ben")
    for _ in range(50):
        play >> says("ann", "chat", room="r", content="x" * 100)
    play >> CloseRoom("r")
    assert play.closed == {"ben": "slow_consumer"}


@pytest.mark.parametrize("is_published", [True, False])
def test_the_hooks_answers_pile_up(is_published: bool) -> None:
    """G6: neither Published nor Refused judges the one who gets the reply."""
    play = newcomers("Ann", direct_bytes=500)
    play.hub.announces = True
    play >> Blocked("ann")
    announced = []
    for number in range(50):
        play >> says("ann", "chat", id=number, room="r", content="x")
        announced.append(play.orders.popleft())
    for order in announced:
        assert isinstance(order, Announce)
        if play.closed:
            break
        say = Message(CHAT, "r", "Ann", "Ann", "x")
        play >> (Published(say, order.ref) if is_published else Refused(say, order.ref))
    assert play.closed == {"ann": "slow_consumer"}


def test_ones_own_hello_throws_ones_mailbox_away() -> None:
    """A room that the hello rejoins takes the place of the mailbox of the very user, which lingers until welcome."""
    play = newcomers("Ann", room="", rooms=2)
    play >> says("ann", "dm", id=1, to="Ben", content="psst")
    play >> connected("ben", "Ben")
    rooms = {"r": {"epoch": "", "offset": 0}, "@Ben": {"epoch": "", "offset": 0}}
    play >> says("ben", "hello", id="h", resume={"session": "?", "rooms": rooms})
    assert [message["type"] for message in play.hear("ben")][:3] == ["welcome", "error", "dm"]


def test_a_replay_overfills_a_chunk() -> None:
    """chunk_bytes: several frames in a chunk are at most so many bytes; a replay gives one more, and gaps uncounted."""
    play = newcomers("Ann", chunk_bytes=400, message_burst=1_000)
    for _ in range(10):
        play >> says("ann", "chat", room="r", content="x" * 250)
    play >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    play.forget() >> says("ben", "join", id="j", room="r", since={"epoch": "e.1", "offset": 0})
    play.chunks.clear()
    play.hear("ben")
    assert max(len(chunk) for chunk in play.chunks["ben"]) <= 400


def test_a_repeated_direct_message_leaves_a_mailbox_of_somebody_away_to_its_time() -> None:
    play = greeted("Ann", ping_interval_s=9_000, pong_timeout_s=9_999, key_ttl_s=900)
    for _ in range(2):
        play >> says("ann", "dm", to="Ben", content="psst", key="k")
    assert play.hub._state.mailboxes["Ben"].offset == 1
    play >> After(300)
    assert set(play.hub._state.mailboxes) == {"Ann"}


def test_where_not_even_the_addressees_mailbox_may_be() -> None:
    play = greeted("Ann", rooms=1)
    play >> says("ann", "dm", id=1, to="Ben", content="x") << Hears("ann", error("over_capacity", 1))


def test_a_hello_is_one_join_however_many_rooms_it_names() -> None:
    play = Playbook(join_burst=1, join_rate_per_s=0.1)
    rooms = {f"r{number}": {"epoch": "", "offset": 0} for number in range(20)}
    play >> connected("ann", "Ann") >> says("ann", "hello", id="h", resume={"session": "?", "rooms": rooms})
    [welcome, *_] = play.hear("ann")
    assert set(welcome["rooms"]) == {*rooms, "@Ann"}


def test_who_comes_back_faster_than_joins_are_allowed_is_told_to_wait() -> None:
    play = Playbook(join_burst=1, join_rate_per_s=0.1) >> connected("ann", "Ann")
    resume = {"session": "?", "rooms": {"r": {"epoch": "", "offset": 0}}}
    play >> says("ann", "hello", id="h", resume=resume) >> Disconnected("ann")
    play.forget()
    play >> connected("ann2", "Ann") >> says("ann2", "hello", id="h", resume=resume)
    [bye] = play.hear("ann2")
    assert (bye["type"], bye["code"], bye["retry"]) == ("bye", 4103, "after")


def test_a_resume_names_rooms_beyond_what_one_may_be_in() -> None:
    play = Playbook(rooms_per_client=2) >> connected("ann", "Ann")
    rooms = {name: {"epoch": "", "offset": 0} for name in "abc"}
    play >> says("ann", "hello", id="h", resume={"session": "?", "rooms": rooms})
    [welcome, refused, *_] = play.hear("ann")
    assert set(welcome["rooms"]) == {"a", "b", "@Ann"}
    assert (refused["name"], refused["room"], "id" in refused) == ("rate_limited", "c", False)


def test_a_roster_begins_above_all_that_its_room_ever_had() -> None:
    """Its epoch may be the same with a store, and then equal revs would be taken for equal rosters."""
    play = greeted("Ann", "Ben", room_linger_s=0)
    (play >> says("ann", "leave", id=1, room="r") >> says("ben", "leave", id=1, room="r")).forget()
    play >> says("ann", "join", id=2, room="r")
    [ok_, _] = play.hear("ann")
    assert ok_["rev"] > 4


def test_what_a_user_says_in_passing_comes_before_its_leaving() -> None:
    play = greeted("Ann", "Ben")
    play >> says("ann", "event", room="r", name="wave", content="bye") >> says("ann", "leave", id=1, room="r")
    assert [message["type"] for message in play.hear("ben")] == ["event", "user_left"]


def test_a_page_of_no_messages_tells_whether_there_are_any() -> None:
    play = told_room(2)
    play.forget()
    play >> says("ann", "history", id=1, room="r", before=3, limit=0)
    play >> says("ann", "history", id=2, room="r", since={"epoch": "e.1", "offset": 0}, limit=0)
    play << Hears("ann", ok(1, messages=[], more=True), ok(2, messages=[], more=True))


def test_a_key_is_good_once_also_where_a_plain_client_made_the_room_anew() -> None:
    """Both wait for a hook while the room goes, and comes again without anybody who has keys."""
    play = greeted("Ann", room_linger_s=0)
    play.hub.announces = True
    announced = []
    for number in (1, 2):
        play >> says("ann", "chat", id=number, room="r", content="x", key="k")
        announced.append(play.orders.popleft())
    play >> says("ann", "leave", id=3, room="r") >> Connected("bob", TEXT, "Bob", ["r"])
    play.forget()
    for effect in announced:
        assert isinstance(effect, Announce)
        play >> Published(effect.message, effect.ref)
    first, second = (message for message in play.hear("ann") if message["type"] == "ok")
    assert (first["offset"], second["offset"], second["dup"]) == (1, 1, True)


def test_who_skips_over_another_epoch_is_told_of_it() -> None:
    play = Playbook(v1_lag_messages=2)
    play.hub = Hub(epoch="e", limits=play.hub.limits, slow="skip")
    play.hub.restore(Snapshot((), ()), reserve=3, now=0)
    enter(play, "Ann")
    enter(play, "Ben")
    play.forget() >> Blocked("ann")
    for number in range(1, 6):
        play >> Publish("r", f"m{number}")
        play.orders.clear()
    (play >> After()).orders.clear()
    play >> Writable("ann")
    play << Hears("ann", gap(0, 0, "epoch", epoch="e.2"), gap(1, 2, "slow", epoch="e.2"), "presence")


def test_answers_that_nobody_reads_cost_what_the_questions_do() -> None:
    play = greeted("Ann", message_burst=10_000, direct_bytes=60_000)
    for _ in range(100):
        play >> Publish("r", "x" * 600)
    play.forget()
    for number in range(200):
        play >> says("ann", "history", id=number, room="r", before=101)
    session = play.hub._sessions["ann"]
    assert session.direct_bytes == 200 * 256
    play >> Blocked("ann")
    while "ann" not in play.closed:
        play >> says("ann", "history", id=1, room="r", before=101)
    assert play.closed == {"ann": "slow_consumer"}
    assert session.direct_bytes < 60_000 + 2 * 256


@pytest.mark.parametrize("inner", ["{}", "[]"])
def test_metadata_is_not_nested_deep(inner: str) -> None:
    """Row 40. It is rendered again for others, where the program's stack is deeper than where it was read."""
    play = greeted("Ann", "Ben")
    for depth in (15, 16, 900, 960, 5_000):
        meta = '{"a":' * depth + inner + "}" * depth
        play >> Received("ann", f'{{"type":"presence","id":{depth},"room":"r","meta":{meta}}}')
        [reply, *_] = play.hear("ann")
        assert reply["type"] == ("ok" if depth < 16 else "error")
        assert play.hub.state_of("ann") is State.OPEN


def test_no_rule_of_a_program_lets_anybody_into_a_mailbox() -> None:
    play = Playbook()
    play.hub = Hub(epoch="e", limits=play.hub.limits, room_rule=lambda room: None)
    enter(play, "Ann", "r")
    play.forget() >> says("ann", "join", id=1, room="@Ben") << Hears("ann", error("bad_request", 1, field="room"))
    with pytest.raises(ValueError, match="@"):
        play >> Enter("ann", "@Ben")


def test_a_telling_comes_before_its_time_only_for_who_is_not_known_yet() -> None:
    """Metadata and chat in turns must not make a large room's roster go out for each."""
    play = greeted("Ann", "Ben", presence_batch_members=1)
    play >> After(10)
    play.forget()
    for number in range(5):
        play >> says("ann", "presence", room="r", meta={"n": number}) >> says("ann", "chat", room="r", content="x")
    assert [message["type"] for message in play.hear("ben")].count("presence") == 1


def test_what_is_said_while_a_hello_waits_is_heard_in_its_order() -> None:
    play = Playbook() >> connected("ann", "Ann")
    play.hub.authorizes = True
    resume = {"session": "?", "rooms": {"r": {"epoch": "", "offset": 0}}}
    play >> says("ann", "hello", id=1, resume=resume) << Authorize("ann", "r", "Ann")
    (
        play
        >> says("ann", "hello", id=2)
        >> says("ann", "chat", id=3, room="r", content="hi")
        >> says("ann", "ping", id=4)
    )
    play << Nothing() >> Authorized("ann", "r")
    play << Hears(
        "ann", "welcome", error("bad_request", 2), ok(3, offset=1), {"type": "pong", "id": 4}, "user_joined", "chat"
    )


def test_many_joins_that_waited_do_not_nest() -> None:
    play = greeted("Ann", rooms_per_client=2_000, join_burst=2_000, message_burst=5_000)
    play.hub.authorizes = True
    play >> says("ann", "join", id=0, room="first") << Authorize
    for number in range(600):
        play >> says("ann", "chat", id=number, room="r", content="x")
    play >> Authorized("ann", "first")
    assert [message["id"] for message in play.hear("ann") if message["type"] == "ok"] == [0, *range(600)]


def test_joins_that_are_held_do_not_nest_either() -> None:
    play = greeted("Ann", "Ben", rooms_per_client=2_000, join_burst=5_000, message_burst=5_000)
    rooms = [f"room{number}" for number in range(400)]
    for room in rooms:
        play >> says("ben", "join", id=room, room=room)
    play.hub.authorizes = True
    play.forget() >> says("ann", "join", id=0, room="first") << Authorize
    play.hub.authorizes = False
    for room in rooms:
        play >> says("ann", "join", id=room, room=room)
    play >> Authorized("ann", "first")
    assert [message["id"] for message in play.hear("ann") if message["type"] == "ok"] == [0, *rooms]


def test_some_are_told_that_they_will_be_dismissed() -> None:
    play = greeted("Ann", "Ben") >> Dismiss(["ann", "nobody"], errors.DRAINING, in_s=2)
    play << Hears("ann", {"type": "draining", "in_ms": 2_000}) << Nothing()


def test_what_is_erased_leaves_a_gap() -> None:
    play = told_room(4)
    play.forget()
    for command in (EraseMessage("r", 2), EraseMessage("r", 99), EraseMessage("@Ann", 1), EraseMessage("s", 1)):
        play >> command << Nothing()
    play >> says("ann", "history", id=1, room="r", before=9)
    play >> connected("ben2", "Ben") >> says("ben2", "hello", id="h")
    play >> says("ben2", "join", id=2, room="r", since={"epoch": "e.1", "offset": 0})
    [page] = [message for message in play.hear("ann") if message["type"] == "ok"]
    assert [message["offset"] for message in page["messages"]] == [4, 3, 1]
    heard = [message for message in play.hear("ben2") if message["type"] in ("chat", "gap")]
    assert [message.get("reason", message.get("offset")) for message in heard] == [1, "expired", 3, 4]
    play >> EraseUser("Ann")
    assert not play.hub._rooms["r"].log
    assert repr((EraseMessage("r", 2), EraseUser("Ann"))) == "(EraseMessage('r', 2), EraseUser('Ann'))"
    with pytest.raises(ValueError, match="nobody"):
        play >> EraseUser("")


def test_who_says_too_much_while_it_waits_is_put_out() -> None:
    play = greeted("Ann", direct_bytes=1_000)
    play.hub.authorizes = True
    play >> says("ann", "join", id=1, room="s") << Authorize
    for _ in range(20):
        if "ann" not in play.closed:
            play >> says("ann", "chat", room="r", content="x" * 100)
    assert play.closed == {"ann": "rate_limited"}
    play.forget() >> Authorized("ann", "s") << Nothing()


def test_a_rule_that_raises_leaves_a_hello_unsaid() -> None:
    def rule(room: str) -> str | None:
        raise LookupError(room)

    play = Playbook()
    play.hub = Hub(epoch="e", room_rule=rule)
    play >> connected("ann", "Ann")
    resume = {"session": "?", "rooms": {"r": {"epoch": "", "offset": 0}}}
    with pytest.raises(LookupError):
        play >> says("ann", "hello", id=1, resume=resume)
    play >> says("ann", "hello", id=2) << Hears("ann", {"type": "welcome", "id": 2})


@pytest.mark.parametrize("room", ["r", None])
def test_a_kick_waits_for_no_grace(room: str | None) -> None:
    """G5, row 20."""
    play = greeted("Ann", "Ben") >> Disconnected("ben") << Nothing() >> Kick("Ben", room)
    play << Hears("ann", left("Ben", 4, reason="kicked"))
    resume = {"session": "secret of ben", "rooms": {}}
    play >> connected("ben2", "Ben") >> says("ben2", "hello", id=1, resume=resume)
    [welcome] = play.hear("ben2")
    assert welcome["resumed"] is (room is not None)


def test_a_kick_out_of_a_room_that_is_not_there() -> None:
    greeted("Ann") >> Kick("Ben", "nowhere") << Nothing()


def test_a_key_outlives_its_room() -> None:
    """G4: it is good once for as long as it is remembered, whatever becomes of the room."""
    play = greeted("Ann") >> says("ann", "chat", id=1, room="r", content="x", key="k") >> CloseRoom("r")
    play >> says("ann", "join", id=2, room="r")
    play.forget() >> says("ann", "chat", id=3, room="r", content="x", key="k")
    play << Hears("ann", ok(3, epoch="e.1", offset=1, dup=True))


def test_the_oldest_key_is_forgotten_where_there_are_too_many() -> None:
    play = greeted("Ann", keys=2)
    for key in "abc":
        play >> says("ann", "chat", room="r", content=key, key=key)
    assert list(play.hub._state.keys) == [("r", "Ann", "b"), ("r", "Ann", "c")]
    play >> After(300)
    assert not play.hub._state.keys
    play.forget() >> Drain()


def test_a_message_hook_sees_direct_messages_too() -> None:
    play = greeted("Ann", "Ben")
    play.hub.announces = True
    play >> says("ann", "dm", id=1, to="Ben", content="damn", key="k")
    announced = play.orders.popleft()
    assert isinstance(announced, Announce)
    message = announced.message
    assert (message.kind, message.room, message.to, message.content) == ("dm", "@Ben", "Ben", "damn")
    message.content = "d***"
    play >> Published(message, announced.ref)
    play << Hears("ben", dm("@Ben", "d***", 1, to="Ben")) << Hears("ann", dm("@Ann", "d***", 1), ok(1, room="@Ben"))
    play >> says("ann", "dm", id=2, to="Ben", content="worse")
    announced = play.orders.popleft()
    assert isinstance(announced, Announce)
    play >> Refused(announced.message, announced.ref) << Hears("ann", error("forbidden", 2)) << Nothing()


def test_there_may_be_no_place_any_more_when_the_hook_has_answered() -> None:
    play = greeted("Ann", rooms=1)
    play.hub.announces = True
    play >> says("ann", "dm", id=1, to="Ben", content="x")
    announced = play.orders.popleft()
    assert isinstance(announced, Announce)
    play >> Published(announced.message, announced.ref) << Hears("ann", error("over_capacity", 1))


@pytest.mark.parametrize("lane", ["v1", "plain"])
def test_what_passes_puts_nobody_out(lane: str) -> None:
    """What only who keeps up gets must not make anybody slow: neither by number nor by size."""
    play = greeted("Ann", lag_messages=5, v1_lag_messages=5, lag_bytes=2_000, message_burst=1_000)
    if lane == "v1":
        enter(play, "Ben")
    else:
        play >> Connected("ben", TEXT, "Ben", ["r"])
    play.forget() >> Blocked("ben")
    for number in range(50):
        play >> says("ann", "event", room="r", name=f"n{number}", content="x" * 500) >> After()
    assert play.hub.state_of("ben") is State.OPEN
    for _ in range(6):
        play >> Publish("r", "x")
    play >> After()
    assert play.closed == {"ben": "slow_consumer"}
