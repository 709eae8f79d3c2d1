"""Who clients are: identities that come with the connection, by a token, and end; and keys that names are given."""

from typing import Any

import pytest

from roomhub.core import errors
from roomhub.core.commands import Drain, Kick, Publish
from roomhub.core.effects import Authenticate, Authorize, Close
from roomhub.core.events import Authenticated, Authorized, ClockSet, Connected, Denied, Disconnected, Received
from roomhub.core.hub import Hub
from roomhub.core.identity import Identity, Refusal
from roomhub.core.limits import Limits
from roomhub.core.session import State
from tests.core.playbook import TEXT, V1, After, Hears, Nothing, Playbook, Sees, says
from tests.core.test_dialogue import connected, error, ok


def guarded(**limits: float) -> Playbook:
    """A hub that wants tokens."""
    play = Playbook(ping_interval_s=9_000, pong_timeout_s=9_999, **limits)
    play.hub.authenticates = True
    return play


def unknown(client: str = "ann") -> Connected[str]:
    return Connected(client, V1, "", secret=f"secret of {client}")


def asked(play: Playbook) -> Authenticate[str]:
    order = play.orders.popleft()
    assert isinstance(order, Authenticate)
    return order


def hello(play: Playbook, client: str = "ann", token: str = "t", **fields: Any) -> Authenticate[str]:
    play >> says(client, "hello", id="h", token=token, **fields)
    return asked(play)


ANN = Identity(user="u1", username="Ann")


def test_a_token_says_who_it_is() -> None:
    play = guarded() >> unknown()
    order = hello(play)
    assert (order.client, order.token, repr(order)) == ("ann", "t", "Authenticate('ann')")
    assert repr(Authenticated(order.ref, None)) == "Authenticated(None)"
    assert play.hub.authenticates
    play << Nothing() >> Authenticated(order.ref, ANN)
    [welcome] = play.hear("ann")
    assert (welcome["user"], welcome["username"], "expires_ms" in welcome) == ("u1", "Ann", False)
    play >> says("ann", "join", id=1, room="r", presence=True) >> says("ann", "chat", id=2, room="r", content="hi")
    for message in play.hear("ann"):
        if message["type"] in ("chat", "user_joined"):
            assert (message["user"], message["username"]) == ("u1", "Ann")
    assert play.hub.members("r") == ("u1",)
    play >> Authenticated(order.ref, Refusal("late")) >> Authenticated("something", None) << Nothing()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Refusal("no such token"), "unauthorized"),
        (Refusal("you are out", "forbidden"), "unauthorized"),
        (Refusal("too old", "token_expired"), "token_expired"),
        (Identity(user=""), "protocol"),
        (Identity(user="u1", username="a\u202eb"), "protocol"),
        (None, "internal"),
    ],
)
def test_a_token_may_be_no_good(outcome: Identity | Refusal | None, reason: str) -> None:
    play = guarded() >> unknown()
    order = hello(play)
    play >> Authenticated(order.ref, outcome)
    [bye] = play.hear("ann")
    assert (bye["type"], bye["name"], play.closed["ann"]) == ("bye", reason, reason)


def test_nobody_answers() -> None:
    play = guarded(auth_timeout_s=3) >> unknown()
    order = hello(play)
    play >> After(3)
    assert play.closed == {"ann": "internal"}
    play.forget() >> Authenticated(order.ref, ANN) << Nothing()


@pytest.mark.parametrize("text", ['{"type":"hello","id":1}', '{"type":"ping"}', "garbage"])
def test_without_a_token_nobody_gets_in(text: str) -> None:
    """Row 22: what comes before it is known who it is touches nothing."""
    play = guarded() >> unknown() >> Received("ann", text)
    assert play.closed == {"ann": "unauthorized"}
    play.forget() >> Disconnected("ann")
    assert not play.hub._users


def test_what_is_said_behind_the_token_waits() -> None:
    play = guarded() >> unknown()
    order = hello(play)
    play >> says("ann", "join", id=1, room="r") >> says("ann", "chat", id=2, room="r", content="hi") << Nothing()
    play >> Authenticated(order.ref, ANN)
    play << Hears("ann", "welcome", ok(1), ok(2), "user_joined", "chat")


def test_an_identity_may_come_with_the_connection() -> None:
    play = guarded() >> Connected("ann", V1, "", secret="s", identity=ANN) >> says("ann", "hello", id=1)
    play << Hears("ann", {"type": "welcome", "user": "u1", "username": "Ann"})
    play >> Connected("pat", TEXT, "ignored", ["r"], identity=Identity(user="u2", username="Pat"))
    play << Sees("pat", "online Pat", "+Pat")
    assert play.hub.members("r") == ("u2",)
    play >> Connected("bad", TEXT, "", ["r"], identity=Identity(user="u3", username="a,b"))
    assert play.closed == {"bad": "protocol"}


def test_a_token_is_good_for_its_time() -> None:
    play = guarded() >> ClockSet(1_000_000) >> unknown()
    order = hello(play)
    play >> After(1) >> Authenticated(order.ref, Identity(user="u1", expires_ms=1_011_000))
    [welcome] = play.hear("ann")
    assert welcome["expires_ms"] == 10_000
    assert play.hub.next_deadline() == 11
    play >> After(9)
    assert play.hub.state_of("ann") is State.OPEN
    play >> After(1)
    [bye] = play.hear("ann")
    assert (bye["code"], bye["retry"]) == (4202, "now")
    play.forget() >> Disconnected("ann")
    assert not len(play.hub._state.expiries)


def test_a_plain_client_is_closed_when_its_time_is_over() -> None:
    identity = Identity(user="pat", expires_ms=5_000)
    play = guarded() >> Connected("pat", TEXT, "", ["r"], identity=identity) >> After(5)
    assert play.closed == {"pat": "token_expired"}


def test_a_token_is_renewed_in_place() -> None:
    play = guarded() >> unknown()
    play >> Authenticated(hello(play).ref, Identity(user="u1", expires_ms=5_000))
    play.forget() >> says("ann", "auth", id=1, token="next")
    order = asked(play)
    assert order.token == "next"
    play >> Authenticated(order.ref, Identity(user="u1", expires_ms=9_000))
    play << Hears("ann", ok(1, expires_ms=9_000)) >> After(6)
    assert play.hub.state_of("ann") is State.OPEN
    play >> says("ann", "auth", id=2, token="for ever")
    play >> Authenticated(asked(play).ref, Identity(user="u1")) << Hears("ann", ok(2)) >> After(100) << Nothing()


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Identity(user="u2"), "forbidden"),
        (Refusal("no"), "unauthorized"),
        (Refusal("old", "token_expired"), "token_expired"),
        (None, "internal"),
    ],
)
def test_a_token_that_renews_nothing(outcome: Identity | Refusal | None, name: str) -> None:
    """What was good before stays so until its end."""
    play = guarded() >> unknown()
    play >> Authenticated(hello(play).ref, Identity(user="u1", expires_ms=5_000))
    play.forget() >> says("ann", "auth", id=1, token="next")
    play >> Authenticated(asked(play).ref, outcome) << Hears("ann", error(name, 1))
    assert play.hub.state_of("ann") is State.OPEN
    play >> After(5)
    assert play.closed == {"ann": "token_expired"}


def test_a_token_in_hello_counts_more_than_what_the_handshake_showed() -> None:
    """A cookie may be older, and an authenticator may let in guests."""
    for user in ("u1", "u2"):
        play = guarded() >> Connected("ann", V1, "", secret="s", identity=ANN)
        play >> Authenticated(hello(play).ref, Identity(user=user, username="Now"))
        play << Hears("ann", {"type": "welcome", "user": user, "username": "Now"})
        assert list(play.hub._users) == [user]
        assert play.hub.state_of("ann") is State.OPEN
        play >> Kick(user)
        assert play.closed == {"ann": "kicked"}
        play.forget() >> Disconnected("ann")
        assert not play.hub._users


def test_why_a_token_is_no_good_is_told() -> None:
    play = guarded() >> unknown()
    order = hello(play)
    play >> Authenticated(order.ref, Refusal("no such token"))
    play << Close("ann", errors.UNAUTHORIZED) << Hears("ann", {"type": "bye", "code": 4001, "reason": "no such token"})
    play >> unknown("ben") >> says("ben", "hello", id=1) << Close("ben", errors.UNAUTHORIZED)
    play << Hears("ben", {"type": "bye", "code": 4001, "reason": "a token is needed"})


def test_where_nobody_asks_a_token_is_nothing() -> None:
    play = Playbook() >> connected("ann", "Ann") >> says("ann", "hello", id="h", token="t")
    play << Hears("ann", "welcome") >> says("ann", "auth", id=1, token="t")
    play << Hears("ann", error("bad_request", 1, field="token"))


def test_who_is_gone_meanwhile_is_not_let_in() -> None:
    play = guarded() >> unknown()
    order = hello(play)
    play >> Disconnected("ann") >> Authenticated(order.ref, ANN) << Nothing()
    play >> unknown() >> says("ann", "hello", id="h", token="t")
    order = asked(play)
    (play >> Drain()).forget()
    play >> Disconnected("ann") >> After(9) << Nothing()
    assert not len(play.hub._deadlines)


def test_the_rights_of_an_identity_are_asked_for() -> None:
    play = guarded()
    play.hub.authorizes = True
    play >> Connected("ann", V1, "", secret="s", identity=ANN) >> says("ann", "hello", id=1)
    play.forget() >> says("ann", "join", id=2, room="r") << Authorize("ann", "r", "u1", ANN) >> Denied("ann", "r")
    play << Hears("ann", error("forbidden", 2))


@pytest.mark.parametrize("lane", ["plain", "v1"])
def test_who_may_join_is_not_waited_for_without_end(lane: str) -> None:
    play = Playbook(auth_timeout_s=3)
    play.hub.authorizes = True
    if lane == "plain":
        play >> Connected("ann", TEXT, "Ann", ["r"]) << Authorize >> After(3)
        assert play.closed == {"ann": "forbidden"}
    else:
        play >> connected("ann", "Ann") >> says("ann", "hello", id="h") >> says("ann", "join", id=1, room="r")
        play << Authorize >> After(3) << Hears("ann", "welcome", error("forbidden", 1))
    play.forget() >> Authorized("ann", "r") << Nothing()
    assert play.hub.members("r") == ()
    play >> Disconnected("ann") >> After(9) << Nothing()


def test_a_question_about_somebody_who_is_gone_ends_quietly() -> None:
    play = Playbook(auth_timeout_s=3)
    play.hub.authorizes = True
    play >> Connected("ann", TEXT, "Ann", ["r"]) << Authorize >> Disconnected("ann") >> After(3) << Nothing()


# -- keys that names are given -----------------------------------------------------------------------------------------


def alike() -> Playbook:
    """A hub for which names that differ in case alone are one."""
    play = Playbook()
    play.hub = Hub(epoch="e", limits=Limits(), user_key=str.casefold)
    return play


def test_names_that_look_alike_are_one_user() -> None:
    """Row 50: one entry in the roster, as first spelled; each message as its sender spells it."""
    play = alike() >> connected("ann", "Ann") >> says("ann", "hello", id="h") >> says("ann", "join", id=1, room="r")
    play >> connected("ann2", "ANN") >> says("ann2", "hello", id="h")
    play.forget() >> says("ann2", "join", id=1, room="r", presence=True)
    [reply, devices] = play.hear("ann2")
    assert reply["users"] == [{"user": "ann", "username": "Ann", "devices": 1}]
    assert devices["updated"] == [{"user": "ann", "username": "Ann", "devices": 2}]
    play.forget() >> says("ann2", "chat", room="r", content="hi")
    [said] = play.hear("ann")
    assert (said["user"], said["username"]) == ("ann", "ANN")
    play >> Connected("pat", TEXT, "Pat", ["r"]) << Sees("pat", "online Ann,Pat", "+Pat")
    play >> Connected("pat2", TEXT, "pAT", ["r"]) << Sees("pat2", "online Ann,Pat", "+pAT")
    assert play.hub.members("r") == ("ann", "pat")


def test_a_user_leaves_under_the_name_it_came_with() -> None:
    play = alike() >> Connected("ann", TEXT, "Ann", ["r"]) >> Connected("pat", TEXT, "Pat", ["r"])
    play.forget() >> Kick("ann", close_reason=errors.KICKED)
    play << Sees("pat", "-Ann", "online Pat")
    assert not play.hub._rooms["r"].names or set(play.hub._rooms["r"].names) == {"pat"}


def test_direct_messages_find_a_user_under_any_spelling() -> None:
    play = alike() >> connected("ben", "Ben") >> says("ben", "hello", id="h")
    play >> connected("ann", "Ann") >> says("ann", "hello", id="h")
    play.forget() >> says("ann", "dm", id=1, to="BEN", content="psst")
    [heard] = play.hear("ben")
    assert (heard["room"], heard["to"], heard["user"], heard["username"]) == ("@ben", "ben", "ann", "Ann")


def test_typing_and_events_have_both() -> None:
    play = alike() >> connected("ann", "Ann") >> says("ann", "hello", id="h") >> says("ann", "join", id=1, room="r")
    (
        play.forget()
        >> says("ann", "typing", room="r", state="start")
        >> says("ann", "event", room="r", name="n", content="c")
    )
    play >> After()
    assert [(message["user"], message["username"]) for message in play.hear("ann")] == [("ann", "Ann")] * 2


def test_what_was_held_counts_no_more_once_it_is_done() -> None:
    """Somebody who is always one join ahead of a slow authorizer says nothing too much."""
    play = Playbook(direct_bytes=1_000, message_burst=1_000, join_burst=1_000, rooms_per_client=1_000)
    play.hub.authorizes = True
    play >> connected("ann", "Ann") >> says("ann", "hello", id="h") >> says("ann", "join", id=0, room="r0")
    for number in range(1, 60):
        play.forget() >> says("ann", "join", id=number, room=f"r{number}")
        play.forget() >> Authorized("ann", f"r{number - 1}")
    assert play.hub.state_of("ann") is State.OPEN


def test_a_token_ends_by_the_wall_clock_also_when_that_is_set() -> None:
    """A machine that slept, or whose clock was wrong: it is the issuer's time that counts."""
    play = guarded() >> ClockSet(1_000_000) >> unknown()
    order = hello(play)
    play >> Authenticated(order.ref, Identity(user="u1", expires_ms=1_100_000))
    play.forget() >> ClockSet(1_095_000)
    assert play.hub.next_deadline() == 5
    play >> ClockSet(1_000_500) >> After(5) << Nothing() >> After(94)
    assert play.closed == {}
    play >> After(0.5)
    assert play.closed == {"ann": "token_expired"}


def test_a_clock_that_drifts_leaves_the_deadlines() -> None:
    play = guarded() >> ClockSet(1_000_000) >> unknown()
    order = hello(play)
    play >> Authenticated(order.ref, Identity(user="u1", expires_ms=1_100_000))
    play.forget() >> ClockSet(1_000_999)
    assert play.hub.next_deadline() == 100


def test_a_late_answer_is_not_taken_for_that_to_a_later_question() -> None:
    play = Playbook(auth_timeout_s=3)
    play.hub.authorizes = True
    play >> connected("ann", "Ann") >> says("ann", "hello", id="h") >> says("ann", "join", id=1, room="r")
    first = play.orders.popleft()
    assert isinstance(first, Authorize)
    (play >> After(3)).forget() >> says("ann", "join", id=2, room="r")
    second = play.orders.popleft()
    assert isinstance(second, Authorize)
    play >> Authorized("ann", "r", first.ref) << Nothing() >> Denied("ann", "r", second.ref)
    play << Hears("ann", error("forbidden", 2))


def test_a_name_of_the_programs_own_is_nobodys_where_an_authenticator_gives_keys() -> None:
    """Otherwise what a bot says would be that of whoever has the identity "ann"."""
    play = guarded() >> Connected("ben", V1, "", secret="s", identity=Identity(user="u2", username="Ben"))
    play >> says("ben", "hello", id="h") >> says("ben", "join", id=1, room="r")
    play.forget() >> Publish("r", "hi", "Ann") << Hears("ben", {"type": "chat", "username": "Ann", "user": ""})
    play.hub.authenticates = False
    play >> Publish("r", "hi", "Ann") << Hears("ben", {"type": "chat", "username": "Ann", "user": "Ann"})


def test_two_questions_for_one_room_leave_none_behind() -> None:
    play = Playbook()
    play.hub.authorizes = True
    play >> Connected("ann", TEXT, "Ann", ["r", "r"]) << Authorize << Authorize
    play >> Authorized("ann", "r") >> Authorized("ann", "r")
    play.forget() >> Received("ann", "hi") << Sees("ann", "Ann: hi")
