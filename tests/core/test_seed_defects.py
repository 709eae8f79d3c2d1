"""The fifteen defects of the seed (shared/seed/README.md), mended: a test of each name, as far as the core goes."""

import itertools
import json
from random import Random

import pytest

from roomhub.core.commands import Drain, Enter, Kick, Publish
from roomhub.core.effects import Close, Report, Settle
from roomhub.core.errors import (
    DRAINING,
    OVER_CAPACITY,
    PROTOCOL,
    RATE_LIMITED,
    SLOW_CONSUMER,
)
from roomhub.core.events import Blocked, Connected, Disconnected, Received, Ticked
from roomhub.core.message import USER_LEFT, Position
from roomhub.core.session import State
from tests.core.playbook import BYTES, TEXT, After, Nothing, Playbook, Sees, brief


def join(client: str, user: str, *rooms: str) -> Connected[str]:
    return Connected(client, TEXT, user, rooms or ("r",), shares=True)


def room_of(*users: str, **limits: float) -> Playbook:
    play = Playbook(**limits)
    for user in users:
        play >> join(user.lower(), user)
    return play.forget()


def fold(frames: list[str]) -> tuple[set[str], list[str]]:
    """Membership as a member sees it: its first roster with the joins and leaves since; and the last roster."""
    members: set[str] | None = None
    roster: list[str] = []
    for frame in map(json.loads, frames):
        if frame["type"] == "online_users":
            roster = frame["content"].split(",")
            members = set(roster) if members is None else members
        elif members is not None and frame["type"] == "user_joined":
            members.add(frame["username"])
        elif members is not None and frame["type"] == "user_left":
            members.discard(frame["username"])
    return members or set(), roster


# Everything that can end a slow client, each also after each other.
ENDS = {
    "evicted": (Blocked("ann"), *[Publish("r", "x")] * 4, Ticked(), Ticked()),
    "end of file": (Disconnected("ann"),),
    "kicked": (Kick("Ann"),),
    "left": (Kick("Ann", "r"),),
    "talks": (Received("ann", "still here"), Received("ann", "and here")),
}


@pytest.mark.parametrize("order", list(itertools.permutations(ENDS, 4)), ids=" then ".join)
def test_defect_01_evict_eof_and_leave_in_every_order_are_one_leave(order: tuple[str, ...]) -> None:
    play = room_of("Ann", "Ben", lag_messages=3)
    play.hub.reports = True
    left = []
    for name in order:
        for item in ENDS[name]:
            effects = play.hub.handle(item, 0.0)  # type: ignore[arg-type]
            left += [e.message for e in effects if isinstance(e, Report) and e.message.kind == USER_LEFT]
    assert [message.username for message in left] == ["Ann"]
    play.serve()
    assert [brief(frame) for frame in play.raw["ben"]].count("-Ann") == 1
    assert play.hub.members("r") == ("Ben",)


def test_defect_02_a_client_dropped_for_slowness_is_seen_to_leave() -> None:
    play = room_of("Ann", "Ben", "Cy", lag_messages=3, presence_batch_members=1_000)
    random = Random(2)
    for step in range(300):
        client = f"c{step}"
        play >> join(client, f"U{step}") >> Blocked(client if random.random() < 0.5 else "nobody")
        play >> Publish("r", "x") >> After(0)
        play.orders.clear()
        play.serve()
        here = list(play.hub.members("r"))
        assert fold(play.raw["ben"]) == (set(here), here)
    assert play.hub.statistics().evictions["slow_consumer"] > 100


def test_defect_03_everybody_sees_the_leave_in_the_same_place() -> None:
    play = room_of("Ann", "Ben", "Cy", "Dan", "Eve", lag_messages=3)
    start = len(play.raw["eve"])
    since = {client: len(raw) for client, raw in play.raw.items()}
    play >> Blocked("cy")
    for number in range(10):
        play >> Publish("r", f"{number}")
        # A pass is under way while more is said and Cy is put out.
        share = play.hub.share(2)
        assert share is not None
        for client in share.clients:
            play.take(client, share.chunk)
        play >> Received("dan", f"d{number}") >> After(0)
        play.orders.clear()
    play.serve()
    seen = {tuple(play.raw[client][since[client] :]) for client in ("ann", "ben", "dan", "eve")}
    assert len(seen) == 1
    lines = [brief(frame) for frame in play.raw["eve"][start:]]
    assert lines.count("-Cy") == 1
    assert [line for line in lines if line.startswith(": ")] == [f": {number}" for number in range(10)]
    assert [line for line in lines if line.startswith("Dan: ")] == [f"Dan: d{number}" for number in range(10)]


def test_defect_04_a_storm_of_joins_leaves_and_messages_ends() -> None:
    play = room_of("Ann", lag_messages=5, write_timeout_s=2, join_burst=5)
    random = Random(4)
    for step in range(3_000):
        client = f"c{random.randrange(50)}"
        item = random.choice(("join", "say", "leave", "block", "kick"))
        if item == "join" and play.hub.state_of(client) is State.ABSENT:
            play >> join(client, f"U{client}")
        elif item == "say":
            play >> Received(client, "x")
        elif item == "leave":
            play >> Disconnected(client)
        elif item == "block":
            play >> Blocked(client)
        elif item == "kick":
            play >> Kick(f"U{client}")
        play.orders.clear()
        play >> After(0.01)
        play.orders.clear()
        if step % 7 == 0:
            play.serve()
    play.serve()
    assert play.hub.is_settled
    here = list(play.hub.members("r"))
    assert here[0] == "Ann"
    assert fold(play.raw["ann"]) == (set(here), here)


def test_defect_05_a_stop_among_a_thousand_joins_and_leaves_leaves_nothing() -> None:
    play = room_of("Ann")
    random = Random(5)
    for step in range(1_000):
        if step == 500:
            play >> Drain()
            play.orders.clear()
        play >> join(f"c{step}", f"U{step}")
        play.orders.clear()
        play >> Disconnected(f"c{random.randrange(step + 1)}")
        play.orders.clear()
    play.forget()
    for client in ("ann", *(f"c{step}" for step in range(1_000))):
        play >> Disconnected(client) << Nothing()
    numbers = play.hub.statistics()
    assert (numbers.connections, numbers.rooms, numbers.members) == (0, 0, 0)
    assert play.hub.is_settled
    assert play.hub.next_deadline() == float("inf")


def test_defect_06_a_joiner_gets_a_snapshot_and_then_exactly_what_follows() -> None:
    play = room_of("Ann")
    for number in range(5):
        play >> Publish("r", f"before {number}")
    play >> join("ben", "Ben")
    for number in range(5):
        play >> Publish("r", f"after {number}")
    play << Sees("ben", "online Ann,Ben", "+Ben", *(f": after {number}" for number in range(5)))


def test_defect_06_nothing_is_seen_between_a_join_and_its_roster() -> None:
    play = room_of("Ann", "Ben")
    play >> Received("ann", "one") >> join("cy", "Cy") >> Received("ann", "two")
    play << Sees("ben", "Ann: one", "online Ann,Ben,Cy", "+Cy", "Ann: two")


def test_defect_07_two_sessions_of_one_user_close_one_and_the_user_is_still_there_once() -> None:
    play = (room_of("Ann", "Ben") >> join("phone", "Ann")).forget()
    play >> Disconnected("ann") << Nothing()
    assert play.hub.members("r") == ("Ann", "Ben")
    play >> join("cy", "Cy") << Sees("ben", "online Ann,Ben,Cy", "+Cy")
    play >> Disconnected("phone") << Sees("ben", "-Ann", "online Ben,Cy")


# Defect 8, a foreign Origin, is the handshake's: tests/transports/websocket/test_handshake.py.


def test_defect_09_a_name_with_a_comma_is_refused_with_a_reason() -> None:
    play = room_of("Ann")
    play >> join("ben", "Ben,Cy") << Close("ben", PROTOCOL) << Nothing()
    assert play.hub.members("r") == ("Ann",)


def test_defect_10_big_messages_to_a_client_that_does_not_read_are_bounded_in_bytes() -> None:
    lag_bytes, size = 100_000, 10_000
    play = Playbook(lag_bytes=lag_bytes, write_timeout_s=1e9, presence_batch_members=10)
    play >> Connected("ann", BYTES, "Ann", ["r"]) >> Connected("ben", BYTES, "Ben", ["r"])
    play.forget()
    play >> Blocked("ann")
    most = 0
    for _ in range(200):
        play >> Publish("r", "x" * size) >> After(0)
        play.orders.clear()
        play.serve()
        kept = sum(len(frame) for log in play.hub._rooms["r"].lanes.values() for frame in log.frames)
        most = max(most, kept)
    assert play.closed == {"ann": "slow_consumer"}
    assert size < most <= lag_bytes + size + 1_000
    assert sum(len(frame) for log in play.hub._rooms["r"].lanes.values() for frame in log.frames) == 0


def test_defect_11_rates_rooms_names_and_connections_have_limits_with_a_reason() -> None:
    play = room_of("Ann", message_burst=1)
    play >> Received("ann", "x") >> Received("ann", "x") << Close("ann", RATE_LIMITED)
    play = room_of("Ann", join_burst=1)
    play >> Enter("ann", "s") << Nothing()
    assert play.hub.statistics().refusals == {"rate_limited": 1}
    play = room_of("Ann", rooms=1)
    play >> join("ben", "Ben", "s") << Close("ben", OVER_CAPACITY)
    play = room_of("Ann", connections=1)
    play >> join("ben", "Ben") << Close("ben", OVER_CAPACITY)
    play = room_of("Ann")
    play >> join("ben", "x" * 65) << Close("ben", PROTOCOL)
    play >> join("cy", "Cy", "x" * 65) << Close("cy", PROTOCOL)


def test_defect_12_an_evicted_client_is_told_why() -> None:
    play = room_of("Ann", "Ben", write_timeout_s=1)
    play >> Blocked("ann") >> After(1) << Close("ann", SLOW_CONSUMER)
    assert (SLOW_CONSUMER.name, SLOW_CONSUMER.code, SLOW_CONSUMER.plain_code) == ("slow_consumer", 4101, 1008)


def test_defect_13_every_message_has_a_position_and_positions_rise_by_one() -> None:
    play = room_of("Ann", "Ben")
    positions = []
    for number in range(20):
        play >> Received("ann", "x") >> join(f"c{number}", f"U{number}") >> Publish("r", "y", ref=number)
        settle = play.orders.popleft()
        assert isinstance(settle, Settle)
        positions.append(settle.position)
    assert positions == [Position("e.1", 2 * number + 2) for number in range(20)]
    assert [message.offset for message in play.hub.history("r")] == list(range(1, 41))


def test_defect_14_a_stop_takes_nobody_in_gives_notice_and_drains() -> None:
    play = room_of("Ann", "Ben")
    (
        play
        >> Publish("r", "last words")
        >> Drain()
        << Close("ann", DRAINING)
        << Close("ben", DRAINING)
        << Sees("ann", ": last words")
        << Sees("ben", ": last words")
        >> join("cy", "Cy")
        << Close("cy", DRAINING)
        >> Disconnected("ann")
        >> Disconnected("ben")
        >> Disconnected("cy")
        << Nothing()
    )
    assert (play.hub.statistics().connections, play.hub.rooms()) == (0, ())


@pytest.mark.parametrize(
    ("user", "room"),
    [
        ("", "r"),
        ("x" * 65, "r"),
        ("a\x00", "r"),
        ("a\u202eb", "r"),
        ("a\u200bb", "r"),
        ("e\u0301", "r"),
        ("\ud800", "r"),
        ("Ann", ""),
        ("Ann", "../x"),
        ("Ann", ".."),
        ("Ann", "*"),
        ("Ann", "a\r\nb"),
        ("Ann", "x" * 65),
    ],
)
def test_defect_15_names_and_rooms_are_validated(user: str, room: str) -> None:
    play = Playbook() >> join("x", user, room) << Close("x", PROTOCOL) << Nothing()
    assert play.hub.rooms() == ()


def test_defect_15_a_peer_cannot_speak_as_another() -> None:
    forged = '{"type":"chat","content":"x","room":"s","username":"Ben"}'
    room_of("Ann", "Ben") >> Received("ann", forged) << Sees("ben", f"Ann: {forged}")
