"""The client without I/O: a server of texts, virtual time, and dice that the test throws."""

import json
import math
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomhub.client import (
    Backoff,
    Changed,
    ChatClosed,
    Connected,
    DirectMessage,
    Disconnected,
    Draining,
    Event,
    Failed,
    Joined,
    Kicked,
    Left,
    Member,
    Message,
    Missed,
    NotAnswered,
    NotConnected,
    OutboxFull,
    RequestRefused,
    Restarted,
    Shout,
    StayAway,
    Typing,
)
from roomhub.client.backoff import Ended
from roomhub.client.outbox import Request
from roomhub.client.protocol import ClientProtocol, HangUp, Order, Phase, Probe
from roomhub.core.errors import CLOSE_REASONS, ERRORS
from roomhub.core.message import Position
from roomhub.core.protocol import SERVER_MESSAGES
from tests.core.playbook import check_shape

Frame = dict[str, Any]


class Talk:
    """A client, and what its server says. All that it sends is read as soon as it could be."""

    def __init__(self, random: Callable[[], float] = lambda: 0.5, **options: Any) -> None:
        keys = count(1)
        self.now = 1_000.0
        self.client = ClientProtocol(key=lambda: f"k{next(keys)}", random=random, **options)
        self.events: list[Event] = []
        self.orders: list[Order] = []
        self.sent: list[Frame] = []

    def turn(self) -> None:
        for order in self.client.pull(self.now):
            self.orders.append(order)
            if isinstance(order, str):
                self.sent.append(json.loads(order))

    def read(self) -> list[Frame]:
        """What was sent since the last time."""
        self.turn()
        sent, self.sent = self.sent, []
        return sent

    def hears(self, kind: str, **fields: Any) -> list[Event]:
        """The server says something; the events that it makes."""
        frame = {"type": kind, **fields}
        check_shape(frame)
        return self.hears_text(json.dumps(frame))

    def hears_text(self, text: str) -> list[Event]:
        self.client.heard(self.now)
        events = self.client.received(text, self.now)
        self.turn()
        return events

    def passes(self, seconds: float) -> None:
        """Time passes, in the steps in which the client wants it."""
        end = self.now + seconds
        while (due := self.client.next_due) <= end:
            self.now = max(self.now, due)
            self.client.tick(self.now)
            self.turn()
        self.now = end

    def connect(self, token: str | None = None) -> Frame:
        """Connect; gives the hello."""
        self.client.connected(self.now, token)
        (hello,) = self.read()
        assert hello["type"] == "hello"
        return hello

    def welcome(self, hello: Frame, *, rooms: Frame | None = None, resumed: bool = False, **more: Any) -> list[Event]:
        limits = {"message_bytes": 65_536, "message_rate_per_s": 50, "message_burst": 250, **more.pop("limits", {})}
        frame: Frame = {"id": hello["id"], "v": 1, "session": f"s{hello['id']}", "user": "ann", "username": "ann"}
        frame |= {"ping_ms": 54_000, "pong_ms": 60_000, "limits": limits, "resumed": resumed}
        frame["rooms"] = {"@ann": {"epoch": "", "offset": 0, "recovered": "none"}, **(rooms or {})}
        return self.hears_text(json.dumps({"type": "welcome", **frame, **more}))

    def open(self, **more: Any) -> list[Event]:
        return self.welcome(self.connect(), **more)

    def join(self, room: str = "lobby", **reply: Any) -> None:
        """Be in a room, at offset 3 of epoch e, with ann alone."""
        request = self.client.join(room, math.inf)
        (frame,) = self.read()
        users = [{"user": "ann", "username": "ann", "devices": 1}]
        place = {"epoch": "e", "offset": 3, "recovered": "none", "rev": 1, "users": users, **reply}
        self.hears("ok", id=frame["id"], room=room, **place)
        assert request.reply is not None

    def breaks(self, end: Ended = Ended(None, "broke")) -> list[Event]:  # noqa: B008
        return self.client.lost(end, self.now)

    def say(self, content: str = "hello", timeout_s: float = math.inf) -> Request:
        return self.client.say("lobby", content, self.now + timeout_s)


def chat(offset: int, epoch: str = "e", room: str = "lobby", content: str = "hi") -> Frame:
    who = {"username": "ben", "user": "ben", "content": content}
    return {"room": room, **who, "epoch": epoch, "offset": offset, "ts": 1}


def talk_in_lobby(**options: Any) -> Talk:
    talk = Talk(**options)
    talk.open()
    talk.join()
    return talk


BEN = {"user": "ben", "username": "Ben", "devices": 1}


# -- connecting --------------------------------------------------------------------------------------------------------


def test_hello_is_the_first_word_and_has_the_token() -> None:
    talk = Talk(client="test")
    assert talk.connect("secret") == {"type": "hello", "id": 1, "client": "test", "token": "secret"}


def test_a_welcome_opens() -> None:
    talk = Talk()
    assert talk.open() == [Connected("ann", "ann", False)]
    assert (talk.client.phase, talk.client.username) == (Phase.OPEN, "ann")


def test_no_welcome_in_ten_seconds_is_enough() -> None:
    talk = Talk()
    talk.connect()
    talk.passes(9.9)
    assert talk.client.phase is Phase.GREETING
    talk.passes(0.1)
    assert isinstance(talk.orders[-1], HangUp)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_a_refused_hello_does_what_its_error_says(name: str) -> None:
    error = ERRORS[name]
    talk = Talk()
    hello = talk.connect()
    wait: Frame = {"retry_after_ms": 7_000} if error.retry == "after" else {}
    talk.hears("error", id=hello["id"], code=error.code, name=name, message="why", retry=error.retry, **wait)
    assert isinstance(talk.orders[-1], HangUp)
    events = talk.breaks()
    if error.retry == "no":
        assert isinstance(talk.client.final, StayAway)
        assert (talk.client.final.code, talk.client.final.name) == (error.code, name)
    else:
        assert isinstance(events[0], Disconnected)
        assert events[0].retry_in_s >= (7 if wait else 0)


# -- how a connection ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", CLOSE_REASONS.values(), ids=lambda reason: reason.name)
@pytest.mark.parametrize("how", ["bye", "close", "both"])
def test_every_close_code_does_what_its_hundred_says(reason: Any, how: str) -> None:
    talk = talk_in_lobby()
    if how != "close":
        talk.hears("bye", code=reason.code, name=reason.name, retry=reason.retry)
    events = talk.breaks(Ended(None, "broke") if how == "bye" else Ended(reason.code, reason.name))
    if reason.code < 4100:
        assert events == []
        final = talk.client.final
        assert isinstance(final, StayAway)
        assert (final.code, final.name) == (reason.code, reason.name)
        assert reason.name in str(final)
        assert len(final.advice) > 10
    else:
        delay_s = 0.0 if reason.code >= 4200 else 0.25  # half of the first bound of 0.5 s
        assert events == [Disconnected(reason.code, reason.name, delay_s)]
        assert talk.client.reconnect_at == talk.now + delay_s


def test_why_somebody_is_put_out_is_told() -> None:
    talk = talk_in_lobby()
    talk.hears("bye", code=4002, name="banned", retry="no", reason="no spam", until_ms=5_500)
    talk.breaks(Ended(4002, "banned"))
    final = talk.client.final
    assert isinstance(final, StayAway)
    assert (final.code, final.name, final.message, final.until_s) == (4002, "banned", "no spam", 5.5)
    assert str(final).startswith("4002 banned (no spam): this user is banned")


def test_a_moderator_asks_once_more_only_for_what_can_be_done_twice() -> None:
    talk = talk_in_lobby()
    due = talk.now + 60
    ban = talk.client.moderate("ban", "ben", "lobby", due, for_ms=5_000, reason="spam")
    kick = talk.client.moderate("kick", "ben", None, due)
    sent = talk.read()
    assert sent == [
        {
            "type": "mod",
            "id": ban.id,
            "action": "ban",
            "user": "ben",
            "room": "lobby",
            "for_ms": 5_000,
            "reason": "spam",
        },
        {"type": "mod", "id": kick.id, "action": "kick", "user": "ben"},
    ]
    talk.breaks(Ended(None, "broke"))
    assert isinstance(kick.error, NotConnected)
    talk.passes(1)
    talk.open()
    (again,) = [frame for frame in talk.read() if frame["type"] == "mod"]
    assert again == sent[0]
    talk.hears("ok", id=ban.id)
    assert ban.reply is not None


def test_a_time_beyond_what_can_be_told_is_the_longest_that_can() -> None:
    talk = talk_in_lobby()
    talk.client.moderate("mute", "ben", None, talk.now + 60, for_ms=10**30)
    (frame,) = talk.read()
    assert frame["for_ms"] == 2**53 - 1


@pytest.mark.parametrize("code", [None, *range(1000, 1004), 1006, *range(1007, 1015), 3000, 4300, 4499, 4700, 4899])
def test_other_ends_back_off(code: int | None) -> None:
    (event,) = talk_in_lobby().breaks(Ended(code, "x"))
    assert event == Disconnected(code, "x", 0.25)


@pytest.mark.parametrize("code", [4500, 4699])
def test_the_applications_own_codes_to_stay_away(code: int) -> None:
    talk = talk_in_lobby()
    talk.breaks(Ended(code, "closing time"))
    assert isinstance(talk.client.final, StayAway)


@pytest.mark.parametrize(
    ("status", "stays_away"),
    [(400, True), (401, True), (403, True), (404, True), (426, True), (200, True), (302, True), (101, True),
     (408, False), (429, False), (500, False), (502, False), (503, False)],
)  # fmt: skip
def test_a_handshake_that_is_refused(status: int, stays_away: bool) -> None:
    talk = Talk()
    events = talk.breaks(Ended(None, "why", status=status))
    assert (talk.client.final is not None) is stays_away
    assert [type(event) for event in events] == ([] if stays_away else [Disconnected])


def test_retry_after_is_the_least_that_is_waited() -> None:
    talk = Talk()
    talk.breaks(Ended(None, "busy", status=503, retry_after_s=5))
    assert talk.client.reconnect_at == talk.now + 5 + 0.25


@given(tries=st.integers(0, 3_000), chance=st.floats(0, 1, exclude_max=True))
def test_a_delay_has_full_jitter_below_its_bound(tries: int, chance: float) -> None:
    backoff = Backoff(base_s=0.5, cap_s=30)
    assert 0 <= backoff.delay_s(tries, lambda: chance) <= min(30, 0.5 * 2.0 ** min(tries, 100))
    assert backoff.delay_s(tries, lambda: 0.0) == 0, "full jitter: nothing below which it never is"


def test_delays_are_spread_evenly() -> None:
    delays = [Backoff().delay_s(3, lambda at=at: at / 1_000) for at in range(1_000)]  # type: ignore[misc]
    assert sum(delays) / len(delays) == pytest.approx(2, rel=0.01)


def test_failed_tries_grow_the_delay_and_a_stable_connection_ends_that() -> None:
    talk = Talk(random=lambda: 1 - 2**-53)
    delays = []
    for _ in range(8):
        (event,) = talk.breaks()
        assert isinstance(event, Disconnected)
        delays.append(event.retry_in_s)
    assert delays == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30])
    talk.open()
    talk.passes(2.9)
    (event,) = talk.breaks()
    assert isinstance(event, Disconnected)
    assert event.retry_in_s == pytest.approx(30), "it was not open for long"
    talk.open()
    talk.passes(3)
    (event,) = talk.breaks()
    assert isinstance(event, Disconnected)
    assert event.retry_in_s == pytest.approx(0.5)


def test_a_code_that_says_now_again_and_again_backs_off() -> None:
    talk = Talk()
    delays = []
    for _ in range(4):
        talk.open()
        (event,) = talk.breaks(Ended(4202, "token_expired"))
        assert isinstance(event, Disconnected)
        delays.append(event.retry_in_s)
    assert delays == [0, 0.25, 0.5, 1]


@given(chance=st.floats(0, 1, exclude_max=True))
def test_the_servers_advice_counts_once(chance: float) -> None:
    talk = Talk(random=lambda: chance)
    talk.open()
    talk.hears("bye", code=4100, name="draining", retry="after", reconnect_ms=[500, 5_001])
    (event,) = talk.breaks(Ended(4100, "draining"))
    assert isinstance(event, Disconnected)
    assert 0.5 <= event.retry_in_s <= 5.001
    (event,) = talk.breaks()
    assert isinstance(event, Disconnected)
    assert event.retry_in_s <= 1


def test_a_drain_without_a_bye_is_heeded_too() -> None:
    talk = talk_in_lobby()
    assert talk.hears("draining", in_ms=3_000, reconnect_ms=[500, 1_500]) == [Draining(3)]
    assert talk.breaks(Ended(1012, "")) == [Disconnected(1012, "", 1.0)]


def test_a_bye_without_a_close_is_enough() -> None:
    talk = talk_in_lobby()
    talk.hears("bye", code=4100, name="draining", retry="after", reconnect_ms=[1_000, 1_000])
    talk.passes(5)
    assert isinstance(talk.orders[-1], HangUp)
    assert talk.breaks() == [Disconnected(4100, "draining", 1.0)]


def test_silence_is_asked_and_then_ends_it() -> None:
    talk = Talk()
    talk.open()
    talk.passes(53.9)
    assert Probe() not in talk.orders
    talk.passes(0.1)
    assert talk.orders[-1] == Probe()
    talk.passes(5.9)
    assert talk.client.phase is Phase.OPEN
    talk.passes(0.1)
    assert talk.orders[-1:] == [HangUp(None, "nothing was heard of the server")]


def test_any_byte_is_a_sign_of_life() -> None:
    talk = Talk()
    talk.open()
    for _ in range(20):
        talk.passes(53)
        talk.client.heard(talk.now)
    assert not [order for order in talk.orders if not isinstance(order, str)]


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_it_resumes_from_the_last_room_frame_and_never_from_an_ok() -> None:
    talk = talk_in_lobby()
    talk.say()
    (frame,) = talk.read()
    talk.hears("chat", **chat(4))
    talk.hears("ok", id=frame["id"], room="lobby", epoch="e", offset=9, ts=1)  # it overtook others' messages
    talk.breaks()
    assert talk.connect()["resume"] == {
        "session": "s1",
        "rooms": {"@ann": {"epoch": "", "offset": 0}, "lobby": {"epoch": "e", "offset": 4}},
    }


def test_what_is_missed_comes_once() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    talk.open(resumed=True, rooms={"lobby": {"epoch": "e", "offset": 3, "recovered": "full"}})
    heard = [talk.hears("chat", **chat(offset)) for offset in (4, 5, 5, 4, 6)]
    assert [[event.offset for event in events if isinstance(event, Message)] for events in heard] == [
        [4],
        [5],
        [],
        [],
        [6],
    ]


def test_a_gap_moves_the_position() -> None:
    talk = talk_in_lobby()
    events = talk.hears("gap", room="lobby", epoch="e", **{"from": 4, "to": 8}, reason="slow")
    assert events == [Missed("lobby", "e", 4, 8, "slow")]
    assert talk.client.rooms["lobby"].position == Position("e", 8)
    assert [type(event) for event in talk.hears("chat", **chat(9))] == [Message]


def test_a_new_epoch_begins_the_room_anew() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    events = talk.open(rooms={"lobby": {"epoch": "f", "offset": 2, "recovered": "none"}})
    assert Restarted("lobby", "f") in events
    assert talk.hears("gap", room="lobby", epoch="f", **{"from": 1, "to": 2}, reason="epoch") == [
        Missed("lobby", "f", 1, 2, "epoch")
    ]
    assert [type(event) for event in talk.hears("chat", **chat(3, "f"))] == [Message]


def test_a_gap_of_an_empty_epoch_tells_of_no_message() -> None:
    talk = talk_in_lobby()
    events = talk.hears("gap", room="lobby", epoch="f", **{"from": 1, "to": 0}, reason="epoch")
    assert events == [Restarted("lobby", "f")]
    assert talk.client.rooms["lobby"].position == Position("f", 0)


def test_an_offset_from_the_future_begins_the_room_anew() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    events = talk.open(rooms={"lobby": {"epoch": "e", "offset": 1, "recovered": "none"}})
    assert Restarted("lobby", "e") in events


def test_a_hole_that_nobody_announced_is_told() -> None:
    talk = talk_in_lobby()
    events = talk.hears("chat", **chat(7))
    assert events[0] == Missed("lobby", "e", 4, 6, "unknown")


def test_a_mailbox_goes_on_as_a_room_does() -> None:
    talk = Talk()
    talk.open()
    for offset in (1, 2):
        events = talk.hears("dm", **chat(offset, room="@ann"), to="ann")
        assert events == [DirectMessage("ann", "ben", "ben", "hi", "e", offset, 1)]
    talk.breaks()
    assert talk.connect()["resume"]["rooms"]["@ann"] == {"epoch": "e", "offset": 2}


def test_a_room_that_was_not_resumed_is_asked_for_from_where_it_was() -> None:
    talk = talk_in_lobby()
    talk.client.rooms["lobby"].meta = {"mood": "fine"}
    talk.say("waits for the room")
    talk.breaks()
    talk.welcome(talk.connect())
    assert talk.read() == []
    talk.passes(2)
    (join,) = talk.read()
    position = {"epoch": "e", "offset": 3}
    assert join == {"type": "join", "id": join["id"], "room": "lobby", "since": position, "presence": True,
                    "meta": {"mood": "fine"}}  # fmt: skip
    talk.hears("error", id=join["id"], code=429, name="rate_limited", message="x", retry="after", retry_after_ms=100)
    assert talk.read() == []
    talk.passes(0.1)
    (again,) = talk.read()
    assert again == join
    events = talk.hears("ok", id=again["id"], room="lobby", **position, recovered="full", rev=1, users=[BEN])
    assert events == [Left("lobby", Member("ann", "ann")), Joined("lobby", Member("ben", "Ben"))]
    assert [frame["content"] for frame in talk.read()] == ["waits for the room"]


def test_a_room_that_is_not_resumed_for_now_is_asked_for_when_the_server_said() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    talk.welcome(talk.connect())
    wait = {"code": 503, "name": "over_capacity", "message": "x", "retry": "after", "retry_after_ms": 7_000}
    assert talk.hears("error", **wait, room="lobby") == []
    talk.passes(6.9)
    assert talk.read() == []
    talk.passes(0.1)
    assert [frame["type"] for frame in talk.read()] == ["join"]


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_room_that_is_closed_to_it_now_is_told_and_so_is_who_waits(is_asked: bool) -> None:
    talk = talk_in_lobby()
    waiting = talk.say()
    talk.breaks()
    talk.welcome(talk.connect())
    answer: Frame = {"code": 403, "name": "forbidden", "message": "no", "retry": "no", "room": "lobby"}
    if is_asked:
        talk.passes(2)
        (join,) = talk.read()
        answer["id"] = join["id"]
    assert talk.hears("error", **answer) == [Kicked("lobby", 403, "forbidden")]
    assert talk.read() == []
    assert isinstance(waiting.error, RequestRefused)
    assert "lobby" not in talk.client.rooms


def test_a_room_left_meanwhile_is_left_again() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    hello = talk.connect()
    left = talk.client.leave("lobby", math.inf)
    assert left.reply == {}
    talk.welcome(hello, rooms={"lobby": {"epoch": "e", "offset": 3, "recovered": "full"}})
    assert [(frame["type"], frame["room"]) for frame in talk.read()] == [("leave", "lobby")]
    assert talk.hears("chat", **chat(4)) == []


def test_metadata_is_said_again_where_the_session_was_forgotten() -> None:
    talk = talk_in_lobby()
    talk.client.set_meta("lobby", {"mood": "fine"}, math.inf)
    (frame,) = talk.read()
    talk.hears("ok", id=frame["id"])
    talk.breaks()
    talk.open(rooms={"lobby": {"epoch": "e", "offset": 3, "recovered": "full"}})
    talk.turn()
    assert [frame["meta"] for frame in talk.sent if frame["type"] == "presence"] == [{"mood": "fine"}]


def test_the_room_of_the_url_is_joined_unasked() -> None:
    talk = Talk()
    talk.open()
    frame = {"type": "ok", "id": None, "room": "lobby", "epoch": "e", "offset": 0, "recovered": "none", "rev": 1}
    talk.hears_text(json.dumps(frame))
    (members,) = talk.read()
    assert members["type"] == "members"
    talk.hears("ok", id=members["id"], room="lobby", rev=1, users=[])
    assert list(talk.client.rooms) == ["@ann", "lobby"]


def test_a_join_that_nobody_waits_for_any_more_is_undone() -> None:
    talk = Talk()
    talk.open()
    request = talk.client.join("lobby", math.inf)
    (join,) = talk.read()
    talk.client.outbox.forget(request.id)
    talk.hears("ok", id=join["id"], room="lobby", epoch="e", offset=0, recovered="none", rev=1, users=[])
    assert [frame["type"] for frame in talk.read()] == ["leave"]


# -- requests ----------------------------------------------------------------------------------------------------------


def test_two_joins_at_once_are_one() -> None:
    talk = Talk()
    talk.open()
    assert talk.client.join("lobby", math.inf) is talk.client.join("lobby", math.inf)
    assert len(talk.read()) == 1


def test_what_is_asked_offline_is_sent_in_order_with_its_keys() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    requests = [talk.say(f"m{number}") for number in range(400)]
    assert talk.read() == []
    talk.open(rooms={"lobby": {"epoch": "e", "offset": 3, "recovered": "full"}})
    said: list[Frame] = []
    for _ in range(100):
        said += [frame for frame in talk.read() if frame["type"] == "chat"]
        talk.passes(0.1)
    assert [frame["content"] for frame in said] == [f"m{number}" for number in range(400)]
    assert len({frame["key"] for frame in said}) == 400
    for frame in said:
        talk.hears("ok", id=frame["id"], room="lobby", epoch="e", offset=4, ts=1)
    assert all(request.reply for request in requests)


def test_it_says_no_more_than_the_server_takes() -> None:
    """A server's bucket of the same size never runs dry, however the network bunches what was sent."""
    talk = talk_in_lobby()
    for number in range(900):
        talk.say(str(number))
    tokens, at = 250.0, talk.now
    talk.orders.clear()
    for _ in range(200):
        before = len(talk.orders)
        talk.turn()
        talk.passes(0.1)
        tokens = min(250.0, tokens + (talk.now - at) * 50) - (len(talk.orders) - before)
        at = talk.now
        assert tokens >= 0
    assert len(talk.orders) == 900


def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_key() -> None:
    talk = talk_in_lobby()
    request = talk.say()
    (first,) = talk.read()
    talk.breaks()
    talk.open(resumed=True, rooms={"lobby": {"epoch": "e", "offset": 3, "recovered": "full"}})
    again = [frame for frame in talk.read() if frame["type"] == "chat"]
    assert again == [first]
    talk.hears("ok", id=first["id"], room="lobby", epoch="e", offset=4, ts=1, dup=True)
    assert request.reply is not None
    assert request.reply["dup"] is True


def test_a_key_that_the_server_may_have_forgotten_is_not_used_again() -> None:
    talk = talk_in_lobby()
    late = talk.say("late")
    talk.read()
    for _ in range(6):
        talk.passes(50)
        talk.client.heard(talk.now)
    unsent = talk.say("new")
    talk.breaks()
    assert isinstance(late.error, NotAnswered)
    assert (late.error.was_sent, late.error.key) == (True, "k1")
    assert not unsent.is_over


@pytest.mark.parametrize("is_online", [True, False])
def test_a_request_without_an_answer_fails_in_its_time(is_online: bool) -> None:
    talk = talk_in_lobby()
    if not is_online:
        talk.breaks()
    request = talk.say(timeout_s=5)
    talk.turn()
    talk.passes(4.9)
    assert not request.is_over
    talk.passes(0.1)
    assert isinstance(request.error, NotAnswered)
    assert isinstance(request.error, TimeoutError)
    assert request.error.was_sent is is_online
    assert len(talk.client.outbox) == 0


def test_a_full_outbox_takes_no_more() -> None:
    talk = Talk(outbox=3)
    talk.open()
    talk.join()
    talk.breaks()
    for _ in range(3):
        talk.say()
    with pytest.raises(OutboxFull, match="3 requests wait"):
        talk.say()


def test_an_error_is_raised_as_it_is() -> None:
    talk = talk_in_lobby()
    request = talk.say()
    (frame,) = talk.read()
    fields = {"code": 423, "name": "muted", "message": "quiet", "retry": "after", "retry_after_ms": 1_500}
    talk.hears("error", id=frame["id"], room="lobby", field="room", **fields)
    error = request.error
    assert isinstance(error, RequestRefused)
    assert (error.name, error.code, error.field, error.retry, error.retry_after_s, error.room) == (
        "muted", 423, "room", "after", 1.5, "lobby",
    )  # fmt: skip


def test_a_rate_limit_is_waited_for_and_so_is_what_comes_behind() -> None:
    talk = talk_in_lobby()
    first = talk.say("first", timeout_s=5)
    (frame,) = talk.read()
    limited = {"code": 429, "name": "rate_limited", "message": "x", "retry": "after", "retry_after_ms": 200}
    talk.hears("error", id=frame["id"], **limited)
    talk.say("second")
    assert talk.read() == []
    talk.passes(0.19)
    assert talk.read() == []
    talk.passes(0.1)  # the second one a little later, for the server's bucket is empty
    assert [frame["content"] for frame in talk.read()] == ["first", "second"]
    assert not first.is_over


def test_a_rate_limit_beyond_the_time_of_a_request_is_an_error_now() -> None:
    talk = talk_in_lobby()
    request = talk.say(timeout_s=5)
    (frame,) = talk.read()
    limited = {"code": 429, "name": "rate_limited", "message": "x", "retry": "after", "retry_after_ms": 6_000}
    talk.hears("error", id=frame["id"], **limited)
    assert isinstance(request.error, RequestRefused)


def test_a_message_that_the_server_would_close_for_is_not_sent() -> None:
    talk = talk_in_lobby()
    request = talk.say("ä" * 40_000)
    assert talk.read() == []
    assert isinstance(request.error, RequestRefused)
    assert request.error.name == "too_large"


def test_what_is_for_now_alone_does_not_wait() -> None:
    talk = talk_in_lobby()
    shout = talk.client.shout("lobby", "wave", "x", math.inf)
    assert shout is not None
    talk.read()
    talk.breaks()
    assert isinstance(shout.error, NotConnected)
    assert talk.client.shout("lobby", "wave", "x", math.inf) is None
    talk.client.typing("lobby", True, talk.now)
    assert talk.read() == []


def test_typing_is_said_as_often_as_it_is_passed_on() -> None:
    talk = talk_in_lobby()
    states = []
    for seconds, is_typing in ((0, True), (1, True), (1.9, True), (0.2, True), (0.1, False), (0, False), (0, True)):
        talk.passes(seconds)
        talk.client.typing("lobby", is_typing, talk.now)
        states.append([frame["state"] for frame in talk.read()])
    assert states == [["start"], [], [], ["start"], ["stop"], [], ["start"]]


def test_who_left_says_nothing_more() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    waiting = talk.say()
    talk.client.leave("lobby", math.inf)
    assert isinstance(waiting.error, ChatClosed)
    with pytest.raises(ChatClosed):
        talk.say()


def test_the_end_fails_all_that_waits() -> None:
    talk = talk_in_lobby()
    waiting = talk.say()
    talk.breaks(Ended(4002, "banned"))
    assert waiting.error is talk.client.final
    assert talk.client.next_due == math.inf


def test_a_kick_is_told_and_the_room_is_gone() -> None:
    talk = talk_in_lobby()
    events = talk.hears("kicked", room="lobby", code=4004, reason="kicked", until_ms=5_000)
    assert events == [Kicked("lobby", 4004, "kicked", 5.0)]
    talk.breaks()
    assert "lobby" not in talk.connect()["resume"]["rooms"]


def test_an_error_that_nobody_asked_for_is_an_event() -> None:
    talk = talk_in_lobby()
    (event,) = talk.hears("error", code=400, name="bad_request", message="x", retry="no")
    assert isinstance(event, Failed)
    assert event.error.name == "bad_request"


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_replaced_before_it_ends() -> None:
    talk = Talk()
    talk.open(expires_ms=100_000)
    assert talk.client.refresh_at == talk.now + 80
    talk.now += 80
    talk.client.refresh("next")
    (auth,) = talk.read()
    assert auth == {"type": "auth", "id": auth["id"], "token": "next"}
    talk.hears_text(json.dumps({"type": "ok", "id": auth["id"], "expires_ms": 50_000}))
    assert talk.client.refresh_at == talk.now + 40


def test_a_token_that_ended_unnoticed_is_replaced_and_the_message_said_again() -> None:
    talk = talk_in_lobby()
    request = talk.say(timeout_s=5)
    (frame,) = talk.read()
    talk.hears("error", id=frame["id"], code=419, name="token_expired", message="x", retry="now")
    assert talk.client.refresh_at == talk.now
    talk.client.refresh("next")
    assert [sent["type"] for sent in talk.read()] == ["auth"]
    talk.passes(1)
    assert talk.read() == [frame]
    assert not request.is_over


def test_a_token_that_is_not_taken_is_told() -> None:
    talk = Talk()
    talk.open(expires_ms=100_000)
    talk.client.refresh("next")
    (auth,) = talk.read()
    (event,) = talk.hears("error", id=auth["id"], code=401, name="unauthorized", message="x", retry="no")
    assert isinstance(event, Failed)


# -- rosters -----------------------------------------------------------------------------------------------------------


def came(rev: int, user: str = "ben") -> Frame:
    return {"room": "lobby", "username": user, "content": "", "user": user, "rev": rev, "devices": 1}


def test_a_roster_is_folded_by_its_revision() -> None:
    talk = talk_in_lobby()
    ben = Member("ben", "ben")
    assert talk.hears("user_joined", **came(2)) == [Joined("lobby", ben)]
    assert talk.hears("user_joined", **came(2)) == []
    assert talk.hears("presence", room="lobby", rev=3, updated=[{**BEN, "devices": 2, "meta": {"a": 1}}]) == [
        Changed("lobby", Member("ben", "Ben", 2, {"a": 1}))
    ]
    assert set(talk.client.rooms["lobby"].members) == {"ann", "ben"}
    left = {**came(4), "devices": 0, "reason": "kicked"}
    assert talk.hears("user_left", **left) == [Left("lobby", Member("ben", "ben", 0), "kicked")]
    assert set(talk.client.rooms["lobby"].members) == {"ann"}


def test_a_hole_in_the_revisions_asks_for_the_roster() -> None:
    talk = talk_in_lobby()
    assert talk.hears("user_joined", **came(5)) == []
    (members,) = talk.read()
    assert members["type"] == "members"
    assert talk.hears("user_joined", **came(6, "cid")) == [], "it is in the roster that comes"
    users = [
        {**BEN},
        {"user": "ann", "username": "ann", "devices": 1},
        {"user": "cid", "username": "cid", "devices": 1},
    ]
    events = talk.hears("ok", id=members["id"], room="lobby", rev=6, users=users)
    assert events == [Joined("lobby", Member("ben", "Ben")), Joined("lobby", Member("cid", "cid"))]
    assert talk.hears("user_joined", **came(7, "dan")) == [Joined("lobby", Member("dan", "dan"))]


def test_a_roster_in_place_of_the_old_one() -> None:
    talk = talk_in_lobby()
    events = talk.hears("presence", room="lobby", rev=9, users=[BEN])
    assert events == [Left("lobby", Member("ann", "ann")), Joined("lobby", Member("ben", "Ben"))]


def test_after_a_resume_the_roster_is_asked_for_and_what_changed_is_told() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    talk.open(rooms={"lobby": {"epoch": "e", "offset": 3, "recovered": "full"}})
    (members,) = talk.read()
    events = talk.hears("ok", id=members["id"], room="lobby", rev=0, users=[BEN])  # of a server that began anew
    assert events == [Left("lobby", Member("ann", "ann")), Joined("lobby", Member("ben", "Ben"))]


def test_a_roster_that_is_as_it_was_is_not_asked_for() -> None:
    talk = talk_in_lobby()
    for resumed, rev, kinds in ((True, 1, []), (True, 2, ["members"]), (False, 1, ["members"])):
        talk.breaks()
        place = {"epoch": "e", "offset": 3, "recovered": "full", "rev": rev}
        talk.welcome(talk.connect(), resumed=resumed, rooms={"lobby": place})
        assert [frame["type"] for frame in talk.read()] == kinds


def test_typing_and_shouts_are_events() -> None:
    talk = talk_in_lobby()
    who = {"room": "lobby", "username": "Ben", "user": "ben"}
    assert talk.hears("typing", **who, state="start") == [Typing("lobby", "ben", "Ben", True)]
    assert talk.hears("event", **who, name="wave", content="x") == [Shout("lobby", "ben", "Ben", "wave", "x")]


# -- what no server says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "hello?", "[]", "1", "null", '{"type":1}', "{}", "[" * 50_000, '{"type":"chat","id":' + "9" * 9_999 + "}",
        '{"type":"chat","room":"lobby"}', '{"type":"chat","room":1}', '{"type":"gap","room":"lobby"}',
        '{"type":"x","a":NaN}',
        '{"type":"typing","room":"lobby","username":"\\ud800","user":"x","state":"start"}',
        '{"type":"draining","in_ms":1,"reconnect_ms":[5,1]}', '{"type":"draining","in_ms":-1,"reconnect_ms":[1,5]}',
        '{"type":"draining","in_ms":' + "9" * 400 + ',"reconnect_ms":[1,5]}',
        '{"type":"draining","in_ms":true,"reconnect_ms":[1,5]}', '{"type":"error","code":1}',
        '{"type":"user_joined","room":"lobby","username":"x","content":"","user":"x","rev":2,"devices":1,"meta":3}',
        '{"type":"presence","room":"lobby","rev":2,"joined":[{"user":"x"}]}',
    ],
)  # fmt: skip
def test_a_broken_frame_ends_the_connection(text: str) -> None:
    talk = talk_in_lobby()
    assert talk.hears_text(text) == []
    (hang_up,) = [order for order in talk.orders if isinstance(order, HangUp)]
    assert hang_up.code == 4000
    assert 0 < len(hang_up.reason) <= 123
    assert talk.hears("chat", **chat(4)) == [], "nothing counts any more"
    (event,) = talk.breaks(Ended(None, hang_up.reason))
    assert isinstance(event, Disconnected)


def test_what_is_not_known_is_ignored() -> None:
    talk = talk_in_lobby()
    assert talk.hears_text('{"type":"reaction","emoji":"+1","room":7}') == []
    assert talk.hears_text(json.dumps({"type": "chat", **chat(4), "edited": True, "to": None}))[0] == Message(
        "lobby", "ben", "ben", "hi", "e", 4, 1
    )
    assert talk.hears_text('{"type":"ok","id":9999}') == []
    assert talk.hears_text('{"type":"pong"}') == []
    assert talk.client.phase is Phase.OPEN


def test_frames_of_rooms_that_it_is_not_in_are_ignored() -> None:
    talk = Talk()
    talk.open()
    who = {"room": "attic", "username": "x", "user": "x"}
    assert talk.hears("chat", **chat(1, room="attic")) == []
    assert talk.hears("typing", **who, state="start") == []
    assert talk.hears("gap", room="attic", epoch="e", **{"from": 1, "to": 2}, reason="slow") == []
    assert talk.hears("kicked", room="attic", code=4004, reason="kicked") == []
    assert talk.hears("user_joined", **{**came(1), "room": "attic"}) == []


VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 3, 10**400, 1.5, "", "lobby", "@ann", "e", "ann", "start", "none", "after", [], [1],
    [1, 5], [5, 1], {}, {"epoch": "e", "offset": 1}, {"lobby": {"epoch": "e", "offset": 9, "recovered": "none"}}, [BEN],
    {"message_bytes": "many", "message_rate_per_s": 0, "message_burst": None},
]  # fmt: skip
FIELDS = sorted({field.name for fields in SERVER_MESSAGES.values() for field in fields})


@st.composite
def frames(draw: st.DrawFn) -> str:
    """A frame of the tables, with some of its fields wrong or missing."""
    kind = draw(st.sampled_from([*SERVER_MESSAGES, "news"]))
    known = SERVER_MESSAGES.get(kind, ())
    names = [field.name for field in known] + draw(st.lists(st.sampled_from(FIELDS), max_size=2))
    return json.dumps({"type": kind, **{name: draw(st.sampled_from(VALUES)) for name in names}})


@given(st.lists(frames(), max_size=8), st.booleans())
def test_no_frame_raises(texts: list[str], is_greeting: bool) -> None:
    talk = Talk() if is_greeting else talk_in_lobby()
    if is_greeting:
        talk.connect()
    else:
        talk.say()
    for text in texts:
        talk.hears_text(text)
        talk.passes(1)
    talk.breaks()
    assert talk.client.reconnect_at >= talk.now or talk.client.final is not None


# -- any course of events ----------------------------------------------------------------------------------------------


class Courses(RuleBasedStateMachine):
    """A client and a model of a server with one room that keeps the last ten messages, over any breaks.

    What the client tells its program must be the room's log: in order, each once, and holes only where it said so.
    """

    @initialize()
    def begin(self) -> None:
        self.talk = Talk()
        self.epoch, self.log, self.keys = 1, 0, dict[str, int]()
        self.told: list[tuple[str, int]] = []
        self.answers: list[Frame] = []
        self.said = dict[str, Request]()
        self.is_on = False
        self.heard_to = 0
        self.connect()
        self.answer()

    def serve(self) -> None:
        """Take what the client sent."""
        for frame in self.talk.read():
            kind, id_ = frame["type"], frame.get("id")
            if kind == "join":
                self.enter(frame, frame.get("since"))
            elif kind == "members":
                self.answers.append({"type": "ok", "id": id_, "room": "lobby", "rev": 0, "users": []})
            elif kind == "chat":
                is_dup = frame["key"] in self.keys
                if not is_dup:
                    self.log += 1
                    self.keys[frame["key"]] = self.log
                place = {"room": "lobby", "epoch": f"e{self.epoch}", "offset": self.keys[frame["key"]], "ts": 1}
                self.answers.append({"type": "ok", "id": id_, **place, **({"dup": True} if is_dup else {})})

    def place(self, since: Frame | None) -> Frame:
        epoch = f"e{self.epoch}"
        if since is not None and since["epoch"] == epoch and since["offset"] <= self.log:
            first = max(self.log - 9, 1)
            self.heard_to = since["offset"]
            return {
                "epoch": epoch,
                "offset": since["offset"],
                "recovered": "full" if first <= since["offset"] + 1 else "partial",
            }
        self.heard_to = self.log
        return {"epoch": epoch, "offset": self.log, "recovered": "none"}

    def enter(self, frame: Frame, since: Frame | None) -> None:
        place = self.place(since)
        self.answers.append({"type": "ok", "id": frame["id"], "room": "lobby", **place, "rev": 0, "users": []})
        self.gap(place, since)

    def gap(self, place: Frame, since: Frame | None) -> None:
        first = max(self.log - 9, 1)
        if place["recovered"] == "partial":
            self.answers.append(
                {
                    "type": "gap",
                    "room": "lobby",
                    "epoch": place["epoch"],
                    "from": self.heard_to + 1,
                    "to": first - 1,
                    "reason": "expired",
                }
            )
            self.heard_to = first - 1

    @rule()
    @precondition(lambda self: not self.is_on)
    def connect(self) -> None:
        hello = self.talk.connect()
        self.is_on = True
        since = hello.get("resume", {}).get("rooms", {}).get("lobby")
        rooms = {} if since is None else {"lobby": self.place(since)}
        self.note(self.talk.welcome(hello, rooms=rooms))
        if since is None:
            self.talk.client.join("lobby", math.inf)
        else:
            self.gap(rooms["lobby"], since)
        self.serve()

    @rule()
    @precondition(lambda self: self.is_on)
    def answer(self) -> None:
        answers, self.answers = self.answers, []
        for frame in answers:
            self.note(self.talk.hears(**{"kind": frame.pop("type"), **frame}))
        self.serve()

    @rule()
    @precondition(lambda self: self.is_on)
    def deliver(self) -> None:
        self.answer()
        while self.heard_to < self.log:
            self.heard_to += 1
            self.note(self.talk.hears("chat", **chat(self.heard_to, f"e{self.epoch}")))

    @rule()
    def someone_speaks(self) -> None:
        self.log += 1

    @rule()
    def many_speak(self) -> None:
        self.log += 12

    @rule()
    def say(self) -> None:
        if "lobby" in self.talk.client.rooms:
            request = self.talk.say()
            self.said[request.fields["key"]] = request
            if self.is_on:
                self.serve()

    @rule()
    @precondition(lambda self: self.is_on)
    def break_(self) -> None:
        self.is_on = False
        self.answers.clear()
        self.note(self.talk.breaks())

    @rule()
    @precondition(lambda self: not self.is_on)
    def restart(self) -> None:
        self.epoch += 1
        self.log = 0
        self.keys.clear()

    def note(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Message):
                self.told.append((event.epoch, event.offset))
            elif isinstance(event, Missed):
                assert event.reason in ("expired", "epoch"), event
                self.told += [(event.epoch, offset) for offset in range(event.first, event.last + 1)]

    @invariant()
    def the_log_is_told_in_order_and_once(self) -> None:
        for (epoch, offset), (next_epoch, next_offset) in zip(self.told, self.told[1:], strict=False):
            assert int(next_epoch[1:]) > int(epoch[1:]) or next_offset == offset + 1

    @invariant()
    def what_was_acknowledged_has_its_place(self) -> None:
        for key, request in self.said.items():
            if request.reply is not None and request.reply["epoch"] == f"e{self.epoch}":
                assert request.reply["offset"] == self.keys[key]


TestCourses = Courses.TestCase


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_closing_leaves_the_rooms_before_it_hangs_up() -> None:
    talk = talk_in_lobby()
    talk.join("attic")
    pending = talk.client.join("cellar", math.inf)
    talk.read()
    talk.client.join("roof", math.inf)  # which is not sent yet, nor ever
    talk.client.close(ChatClosed("enough"))
    assert talk.client.is_hanging_up
    assert [(frame["type"], frame["room"]) for frame in talk.read()] == [
        ("leave", "lobby"),
        ("leave", "attic"),
        ("leave", "cellar"),
    ]
    assert talk.orders[-1] == HangUp(1000, "")
    assert isinstance(pending.error, ChatClosed)


def test_closing_without_a_connection_leaves_nothing() -> None:
    talk = talk_in_lobby()
    talk.breaks()
    talk.client.close(ChatClosed("enough"))
    talk.turn()
    assert (talk.sent, talk.orders[-1]) == ([], HangUp(1000, ""))


def test_a_message_over_the_servers_bound_is_refused_with_a_round_number() -> None:
    talk = talk_in_lobby()
    request = talk.say("x" * 70_000)
    talk.turn()
    assert isinstance(request.error, RequestRefused)
    assert request.error.message == "the message is over 65536 bytes: send less"
