"""The hub, fact by fact: limits, deadlines, leaving in order, the program's orders, refusals and misuse."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from roomhub.core import errors
from roomhub.core.codec import Lane, PlainCodec
from roomhub.core.commands import CloseRoom, Dismiss, Drain, Enter, Exit, Kick, Publish
from roomhub.core.effects import Announce, Authorize, Close, Probe, Report, Settle
from roomhub.core.errors import (
    DRAINING,
    FORBIDDEN,
    IDLE,
    KICKED,
    NO_PONG,
    OVER_CAPACITY,
    PROTOCOL,
    RATE_LIMITED,
    ROOM_CLOSED,
    SLOW_CONSUMER,
    application_close_reason,
)
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
    Ticked,
    Writable,
)
from roomhub.core.hub import Hub
from roomhub.core.limits import Limits
from roomhub.core.message import CHAT, Message, Position
from roomhub.core.requests import Chat, Join, Leave, Request
from roomhub.core.session import State
from tests.core.playbook import BYTES, TEXT, After, Nothing, Playbook, Sees, brief, netstring_lane, told

FRAME_BYTES = len('{"type":"chat","content":"","room":"r","username":""}')


def join(client: str, user: str, *rooms: str, **more: Any) -> Connected[str]:
    return Connected(client, TEXT, user, rooms or ("r",), **more)


def ann_and_ben(**limits: float) -> Playbook:
    """Ann and Ben in room r, and all of it read."""
    return (Playbook(**limits) >> join("ann", "Ann") >> join("ben", "Ben", shares=True)).forget()


class TalkativeCodec(PlainCodec):
    """A dialect that can ask for rooms, and has no word for presence: as v1 will be."""

    __slots__ = ()

    def decode(self, text: str) -> Request:
        word, _, rest = text.partition(" ")
        match word:
            case "join":
                return Join(rest)
            case "leave":
                return Leave(rest)
            case _:
                return Chat(word, rest)

    def encode(self, message: Message) -> str:
        return super().encode(message) if message.kind == CHAT else ""


V1 = netstring_lane(TalkativeCodec(), v1=True)

# -- talking --------------------------------------------------------------------------------------------------------


def test_a_message_reaches_everybody_in_the_room_its_sender_too() -> None:
    (
        ann_and_ben()
        >> Received("ann", "hi")
        << Sees("ann", "Ann: hi")
        << Sees("ben", "Ann: hi")
        >> Publish("r", "from the program")
        >> Publish("r", "for somebody", "Zoe")
        << Sees("ben", ": from the program", "Zoe: for somebody")
        << Sees("ann", ": from the program", "Zoe: for somebody")
    )


def test_it_reaches_nobody_elsewhere() -> None:
    (
        (ann_and_ben() >> join("cy", "Cy", "s")).forget()
        >> Received("cy", "hi")
        << Sees("cy", "s| Cy: hi")
        << Sees("ann")
    )


def test_a_client_in_no_room_talks_to_nobody() -> None:
    play = Playbook() >> Connected("ann", TEXT, "Ann")
    (play >> Received("ann", "hi") << Nothing())
    assert play.hub.statistics().messages_dropped == 1
    assert play.hub.state_of("ann") is State.OPEN


def test_another_dialect_names_the_room_and_may_have_no_word_for_a_kind() -> None:
    play = Playbook() >> Connected("ann", V1, "Ann", ["r"], shares=True) >> join("ben", "Ben")
    play.forget()
    (
        play
        >> Received("ann", "join s")
        >> Received("ann", "s hello")
        >> Received("ann", "r hi")
        << Sees("ann", "Ann: hi", "s| Ann: hello")
        << Sees("ben", "Ann: hi")
        >> Received("ann", "leave r")
        >> Received("ann", "r nobody hears it")
        << Sees("ann")
        << Sees("ben", "-Ann", "online Ben")
        >> Received("ann", "t hi")
        << Nothing()
    )
    assert play.hub.statistics().messages_dropped == 2


def test_a_turn_without_a_byte_for_anybody_is_no_share() -> None:
    play = Playbook() >> Connected("ann", V1, "Ann", ["r"], shares=True)
    assert play.hub.share() is None
    assert play.hub.is_settled
    play >> Connected("ann2", V1, "Ann", ["r"])
    play << Nothing()
    play >> Publish("r", "hi") << Sees("ann", ": hi") << Sees("ann2", ": hi")


def test_a_wordless_entry_is_pulled_without_a_byte() -> None:
    play = Playbook() >> Connected("ann", V1, "Ann", ["r"])
    assert play.hub.ready() == ["ann"]
    assert play.hub.pull("ann") == b""
    play >> Publish("r", "hi") >> join("ben", "Ben") >> Kick("Ann") << Close("ann", KICKED) << Sees("ann", ": hi")


def test_a_lone_surrogate_reaches_no_encoder() -> None:
    play = Playbook() >> Connected("ann", BYTES, "Ann", ["r"])
    play.forget()
    play >> Received("ann", "\ud800") << Nothing()
    assert play.hub.statistics().messages_dropped == 1
    play >> Received("ann", "é") << Sees("ann", "Ann: é")


# -- positions, time and history ------------------------------------------------------------------------------------


def test_positions_rise_by_one_within_a_life_of_the_room() -> None:
    play = ann_and_ben()
    play >> Publish("r", "a", ref="1") << Settle("1", Position("e.1", 1))
    play >> Received("ann", "b") >> Publish("r", "c", ref="2") << Settle("2", Position("e.1", 3))
    play >> CloseRoom("r")
    play.forget()
    play >> Publish("r", "d", ref="3") << Settle("3", Position("e.2", 1))
    play >> Publish("r", "e", ref="4") << Settle("4", Position("e.3", 1))
    assert play.hub.rooms() == (), "a room that nobody is in goes at once"


def test_wall_time_comes_as_a_fact_and_never_falls_within_a_room() -> None:
    play = ann_and_ben() >> ClockSet(1_000_000) >> Publish("r", "a")
    play >> After(0.5) >> Publish("r", "b")
    play >> ClockSet(900_000) >> Publish("r", "c")
    play >> ClockSet(2_000_000) >> Publish("r", "d")
    stamps = [message.ts_ms for message in play.hub.history("r")]
    assert stamps == [1_000_000, 1_000_500, 1_000_500, 2_000_000]


def test_history_keeps_the_newest_messages() -> None:
    play = ann_and_ben(log_messages=3)
    for content in "abcd":
        play >> Publish("r", content, "Zoe")
    history = play.hub.history("r")
    assert [message.content for message in history] == ["b", "c", "d"]
    assert history[0] == Message(CHAT, "r", "Zoe", "Zoe", "b", 2, 0, epoch="e.1")
    assert [message.content for message in play.hub.history("r", 1)] == ["d"]
    assert play.hub.history("elsewhere") == ()


def test_history_is_bounded_in_age_and_bytes() -> None:
    play = ann_and_ben(log_age_s=10) >> Publish("r", "a") >> After(10.5) >> Publish("r", "b")
    assert [message.content for message in play.hub.history("r")] == ["b"]
    play = ann_and_ben(log_bytes=200)
    for content in "abcd":
        play >> Publish("r", content * 50)
    assert [message.content[0] for message in play.hub.history("r")] == ["d"]


def kept(play: Playbook, room: str = "r") -> str:
    return "".join(message.content for message in play.hub.history(room))


def test_a_quiet_room_lets_go_of_what_is_too_old() -> None:
    play = ann_and_ben(log_age_s=16) >> Publish("r", "a")
    assert play.hub.next_deadline() == play.now + 2
    play >> After(8) >> Publish("r", "b")
    play.forget()
    play >> After(6)
    assert kept(play) == "ab", "for seven eighths of the time at least"
    play >> After(2)
    assert kept(play) == "b"
    play >> After(8)
    assert kept(play) == ""
    assert play.hub._rooms["r"].log_bytes == 0
    assert not play.hub._deadlines.is_armed("age", play.hub._rooms["r"]), "an empty log is not looked through"
    play >> Publish("r", "c")
    assert play.hub._deadlines.is_armed("age", play.hub._rooms["r"])


def test_nothing_is_ever_older_than_it_may_be() -> None:
    play = ann_and_ben(log_age_s=8, ping_interval_s=1e6, pong_timeout_s=1e7)
    said_at: dict[str, float] = {}
    for number in range(200):
        content = chr(0x4E00 + number)
        play >> Publish("r", content) >> After(0.375)
        said_at[content] = play.now - 0.375
        ages = [play.now - said_at[one] for one in kept(play)]
        assert max(ages) <= 8
        assert len(ages) >= min(number, 7 / 0.375 - 1), "and what is younger than seven eighths of it is there"


@pytest.mark.parametrize("step_ms", [-3_600_000, 3_600_000])
def test_a_wall_clock_that_is_set_makes_no_message_older_or_younger(step_ms: int) -> None:
    play = ann_and_ben(log_age_s=8) >> ClockSet(10_000_000) >> Publish("r", "a")
    play >> After(1) >> ClockSet(10_000_000 + step_ms) >> Publish("r", "b")
    play.forget()
    play >> After(5)
    assert kept(play) == "ab"
    play >> After(3)
    assert kept(play) == ""


def test_a_member_still_gets_what_is_too_old_for_history() -> None:
    play = ann_and_ben(log_age_s=4) >> Blocked("ann") >> Publish("r", "old")
    play << Sees("ben", ": old")
    play >> After(2) >> Blocked("ann") >> After(2) >> Blocked("ann")
    assert kept(play) == ""
    play >> Writable("ann") << Sees("ann", ": old")


def test_without_an_age_no_log_has_a_deadline() -> None:
    play = ann_and_ben() >> Publish("r", "a")
    assert not play.hub._deadlines.is_armed("age", play.hub._rooms["r"])
    play >> After(50) >> Heard("ann") >> Heard("ben") >> After(50)
    play.forget()
    assert kept(play) == "a"


def test_a_room_that_goes_takes_its_deadlines_with_it() -> None:
    play = ann_and_ben(log_age_s=8, idle_timeout_s=1)
    play >> Publish("r", "a") >> Publish("nobody-is-here", "b")
    play >> After(1) << Close("ann", IDLE) << Close("ben", IDLE)
    assert play.hub.rooms() == ()
    assert play.hub.next_deadline() == math.inf
    play = ann_and_ben(log_age_s=8, idle_timeout_s=2) >> Publish("r", "a")
    play >> After(1) >> After(1) << Close("ann", IDLE) << Close("ben", IDLE)
    assert play.hub.next_deadline() == math.inf, "though a look was due in the same tick"


# -- slow clients ---------------------------------------------------------------------------------------------------


def flood(play: Playbook, count: int, size: int = 1) -> Playbook:
    for _ in range(count):
        play >> Publish("r", "x" * size)
    return play


def test_slow_by_messages() -> None:
    play = ann_and_ben(lag_messages=5) >> Blocked("ann") >> After(0)
    flood(play, 5) >> After(0)
    assert play.hub.state_of("ann") is State.OPEN
    (
        flood(play, 1)
        >> After(0)
        << Close("ann", SLOW_CONSUMER)
        << Sees("ann")
        << Sees("ben", *[": x"] * 6, "-Ann", "online Ben")
    )
    assert play.hub.statistics().evictions == {"slow_consumer": 1}


def test_a_v1_client_may_lag_further() -> None:
    play = Playbook(lag_messages=2, v1_lag_messages=5) >> Connected("ann", V1, "Ann", ["r"]) >> join("ben", "Ben")
    play.forget()
    play >> Blocked("ann") >> Blocked("ben")
    flood(play, 3) >> After(0) << Close("ben", SLOW_CONSUMER)
    flood(play, 3) >> After(0) << Close("ann", SLOW_CONSUMER)


def test_slow_by_bytes() -> None:
    play = ann_and_ben(lag_bytes=10 * (FRAME_BYTES + 100)) >> Blocked("ann")
    flood(play, 10, 100) >> After(0)
    assert play.hub.state_of("ann") is State.OPEN
    flood(play, 1) >> After(0) << Close("ann", SLOW_CONSUMER)


def test_bytes_are_those_of_utf_8() -> None:
    play = ann_and_ben(lag_bytes=1_000) >> Blocked("ann")
    play >> Publish("r", "😀" * 300) >> After(0) << Close("ann", SLOW_CONSUMER)


def test_slow_without_write_progress() -> None:
    (
        ann_and_ben(write_timeout_s=10)
        >> Blocked("ann")
        >> After(9.5)
        << Nothing()
        >> After(0.5)
        << Close("ann", SLOW_CONSUMER)
        << Sees("ben", "-Ann", "online Ben")
    )


def test_blocked_said_again_is_progress() -> None:
    play = ann_and_ben(write_timeout_s=10, lag_messages=5) >> Blocked("ann")
    for _ in range(4):
        play >> After(9) >> Blocked("ann") << Nothing()
        assert play.hub.next_deadline() == play.now + 10
    flood(play, 6) >> After(0) << Close("ann", SLOW_CONSUMER)


def test_writable_ends_the_write_deadline() -> None:
    (
        ann_and_ben(write_timeout_s=10)
        >> Blocked("ann")
        >> Publish("r", "hi")
        << Sees("ann")
        >> After(9)
        >> Writable("ann")
        << Sees("ann", ": hi")
        << Sees("ben", ": hi")
        >> After(9)
        << Nothing()
    )


def test_a_burst_costs_a_healthy_member_nothing() -> None:
    play = flood(ann_and_ben(lag_messages=5, lag_bytes=100), 1_000) >> After(0)
    (play << Sees("ann", *[": x"] * 1_000) << Sees("ben", *[": x"] * 1_000))


def test_a_burst_before_the_block_is_not_held_against_it_in_a_quiet_room() -> None:
    play = flood(ann_and_ben(lag_messages=5, chunk_bytes=100), 10) >> After(0)
    assert play.hub.ready() == ["ann", "ben"]
    assert play.hub.pull("ann")
    play >> Blocked("ann") >> After(0)
    assert play.hub.state_of("ann") is State.OPEN
    flood(play, 1) >> After(0) << Close("ann", SLOW_CONSUMER)


def test_what_came_after_the_tick_is_judged_at_the_next_though_it_is_served_by_then() -> None:
    play = ann_and_ben(lag_messages=5) >> Blocked("ann") >> After(0)
    flood(play, 6)
    play.serve()
    play >> After(0) << Close("ann", SLOW_CONSUMER)


def test_the_notices_of_those_put_out_count_too() -> None:
    play = (Playbook(lag_messages=3) >> join("a", "A") >> join("b", "B") >> join("c", "C")).forget()
    play >> Blocked("a")
    flood(play, 2)
    play >> Blocked("b")
    play.serve()
    flood(play, 2) >> After(0) << Close << Close
    assert play.closed == {"a": "slow_consumer", "b": "slow_consumer"}
    play.serve()
    assert [brief(frame) for frame in play.raw["c"][-4:]] == ["-A", "online B,C", "-B", "online C"]


def test_a_blocked_client_that_enters_a_room_is_judged_there() -> None:
    play = (ann_and_ben(lag_messages=3) >> Connected("cy", TEXT, "Cy", ["s"])).forget()
    play >> Blocked("cy") >> Enter("cy", "r")
    flood(play, 4) >> After(0) << Close("cy", SLOW_CONSUMER)


def test_slow_by_replies_not_pulled() -> None:
    play = (ann_and_ben(direct_bytes=200) >> Connected("ann2", TEXT, "Ann")).forget()
    play >> Blocked("ann2") >> Enter("ann2", "r")
    assert play.hub.state_of("ann2") is State.OPEN
    (play >> Exit("ann2", "r") >> Enter("ann2", "r") << Close("ann2", SLOW_CONSUMER) << Sees("ann2") << Sees("ben"))


def test_leaving_with_more_unread_than_replies_may_be_is_slow() -> None:
    play = ann_and_ben(direct_bytes=200) >> Blocked("ann")
    flood(play, 10) >> Exit("ann", "r") << Close("ann", SLOW_CONSUMER) << Sees("ann")


def test_replies_of_a_client_that_reads_are_not_judged() -> None:
    play = flood(ann_and_ben(direct_bytes=200), 50) >> Exit("ann", "r") << Sees("ann", *[": x"] * 50)
    assert play.hub.state_of("ann") is State.OPEN


# -- silence --------------------------------------------------------------------------------------------------------


def test_the_seed_s_pings_and_its_silence() -> None:
    (
        (Playbook() >> join("ann", "Ann")).forget()
        >> After(53.9)
        << Nothing()
        >> After(0.1)
        << Probe("ann")
        >> After(5.9)
        << Nothing()
        >> After(0.1)
        << Close("ann", NO_PONG)
    )


def test_whatever_is_heard_counts() -> None:
    play = (Playbook() >> join("ann", "Ann")).forget()
    play >> After(30) >> Heard("ann") >> After(24) << Probe("ann")
    play >> Received("ann", "hi") << Sees("ann", "Ann: hi") >> After(54) << Probe("ann")
    play >> Heard("ann") >> After(54) << Probe("ann")
    play >> After(6) << Close("ann", NO_PONG)


def test_whoever_says_nothing_is_idle_though_it_answers_pings() -> None:
    play = (Playbook(idle_timeout_s=100) >> join("ann", "Ann")).forget()
    play >> After(50) >> Received("ann", "hi") << Sees("ann", "Ann: hi")
    play >> Heard("ann") >> After(50) << Probe("ann")
    play >> Heard("ann") >> After(49.9) >> Heard("ann") << Nothing() >> After(0.1) << Close("ann", IDLE)


def test_next_deadline_is_the_next_of_all() -> None:
    play = Playbook(write_timeout_s=3)
    assert play.hub.next_deadline() == math.inf
    play >> join("ann", "Ann")
    assert play.hub.next_deadline() == 54
    play >> Blocked("ann")
    assert play.hub.next_deadline() == 3
    play >> Disconnected("ann")
    assert play.hub.next_deadline() == math.inf


def test_silence_and_a_stuck_write_close_once() -> None:
    play = (Playbook(pong_timeout_s=10, ping_interval_s=5, idle_timeout_s=10) >> join("ann", "Ann")).forget()
    play >> Blocked("ann") >> After(5) << Probe("ann") >> After(5) << Probe("ann") << Close("ann", NO_PONG) << Nothing()


def test_a_stalled_program_gives_its_peers_time_to_answer() -> None:
    play = (Playbook() >> join("ann", "Ann") >> join("bob", "Bob")).forget()
    play >> After(3600) << Probe("ann") << Probe("bob") << Nothing()
    play >> Heard("ann") >> After(60) << Probe("ann") << Probe("bob") << Close("bob", NO_PONG)


# -- rates and caps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [0.0, 0.1, 12_345.678, 9_876_543.21])
def test_a_burst_is_let_through_whole_and_one_more_is_not(now: float) -> None:
    play = Playbook()
    play.now = now
    (play >> join("ann", "Ann")).forget()
    for _ in range(250):
        play >> Received("ann", "x")
    assert play.hub.statistics().messages_published == 250
    assert play.hub.state_of("ann") is State.OPEN
    play >> Received("ann", "x") << Close("ann", RATE_LIMITED) << Sees("ann", *["Ann: x"] * 250)


def test_a_client_may_talk_at_the_rate_for_ever() -> None:
    play = (Playbook(message_rate_per_s=4, message_burst=1) >> join("ann", "Ann")).forget()
    for _ in range(40):
        play >> After(0.25) >> Received("ann", "x")
    play >> After(0.2) >> Received("ann", "x") << Close("ann", RATE_LIMITED)


def test_no_rate_is_no_limit() -> None:
    play = (Playbook(message_rate_per_s=math.inf, message_burst=1) >> join("ann", "Ann")).forget()
    for _ in range(1_000):
        play >> Received("ann", "x")
    assert play.hub.state_of("ann") is State.OPEN


def test_joins_have_a_rate_and_without_a_room_the_client_is_closed() -> None:
    play = Playbook(join_rate_per_s=1, join_burst=2) >> Connected("ann", TEXT, "Ann")
    play >> Enter("ann", "r") >> Exit("ann", "r") >> Enter("ann", "r") >> Exit("ann", "r")
    play >> Enter("ann", "r") << Close("ann", RATE_LIMITED)
    play = (Playbook(join_rate_per_s=1, join_burst=2) >> join("ann", "Ann", "a", "b")).forget()
    play >> Enter("ann", "c") << Nothing()
    assert play.hub.statistics().refusals == {"rate_limited": 1}
    play >> After(1) >> Enter("ann", "c") << Sees("ann", "c| online Ann", "c| +Ann")


def test_connecting_again_does_not_renew_the_joins_of_a_user() -> None:
    play = Playbook(join_rate_per_s=1, join_burst=2)
    for number in range(2):
        play >> Connected(f"a{number}", TEXT, "Ann", ["r"], address="x") >> Disconnected(f"a{number}")
    play >> Connected("a2", TEXT, "Ann", ["r"], address="x") << Close("a2", RATE_LIMITED)
    play >> Connected("b", TEXT, "Ben", ["r"], address="x")
    play >> Connected("c", TEXT, "Ann", ["r"], address="y")
    play.forget()
    play >> After(2) >> Connected("a3", TEXT, "Ann", ["s"], address="x") << Sees("a3", "s| online Ann", "s| +Ann")
    assert len(play.hub._admission._joins_due) == 1


def test_rooms_per_client() -> None:
    play = Playbook(rooms_per_client=2) >> join("ann", "Ann", "a", "b", "c")
    assert play.hub.rooms() == ("a", "b")
    assert play.hub.statistics().refusals == {"rate_limited": 1}
    assert play.hub.state_of("ann") is State.OPEN


def test_rooms_in_all() -> None:
    play = Playbook(rooms=1) >> join("ann", "Ann", "a") >> join("ben", "Ben", "b") << Close("ben", OVER_CAPACITY)
    play >> join("cy", "Cy", "a")
    assert play.hub.members("a") == ("Ann", "Cy")
    play >> Disconnected("ann") >> Disconnected("cy") >> join("dan", "Dan", "b")
    assert play.hub.rooms() == ("b",)


def test_connections_in_all() -> None:
    play = Playbook(connections=1) >> join("ann", "Ann")
    assert play.hub.refusal() is OVER_CAPACITY
    play >> join("ben", "Ben") << Close("ben", OVER_CAPACITY)
    assert play.hub.members("r") == ("Ann",)
    play >> Disconnected("ann") >> Disconnected("ben")
    assert play.hub.refusal() is None


def test_connections_of_an_address() -> None:
    play = Playbook(connections_per_address=1) >> join("ann", "Ann", address="x")
    assert play.hub.refusal("x") is OVER_CAPACITY
    assert play.hub.refusal("y") is None
    play >> join("ben", "Ben", address="x") << Close("ben", OVER_CAPACITY)
    play >> join("cy", "Cy", address="y") >> join("u1", "U1") >> join("u2", "U2")
    assert play.hub.members("r") == ("Ann", "Cy", "U1", "U2"), "without an address there is no cap"
    play >> Disconnected("ann") >> Disconnected("ben")
    assert play.hub.refusal("x") is None


def test_a_pressing_room_asks_to_be_served_before_more_is_read() -> None:
    play = (ann_and_ben(lag_messages=5) >> join("cy", "Cy", "s")).forget()
    flood(play, 5)
    assert not play.hub.pressing
    assert not play.hub.is_backlogged("ann")
    flood(play, 1)
    assert play.hub.pressing
    assert play.hub.is_backlogged("ann")
    assert not play.hub.is_backlogged("cy")
    assert not play.hub.is_backlogged("nobody")
    play.serve()
    assert not play.hub.pressing
    flood(play, 6) >> CloseRoom("r")
    assert not play.hub.pressing


# -- pulling --------------------------------------------------------------------------------------------------------


def test_a_pull_gives_at_most_chunk_bytes_of_all_its_rooms() -> None:
    play = (Playbook(chunk_bytes=250) >> join("ann", "Ann", "r", "s")).forget()
    flood(play, 5)
    play >> Publish("s", "y")
    sizes = []
    while chunk := play.hub.pull("ann"):
        sizes.append(sum(len(str(frame)) for frame in chunk))
    assert len(sizes) == 2
    assert max(sizes) <= 250


def test_a_frame_larger_than_a_chunk_goes_alone() -> None:
    play = (Playbook(chunk_bytes=10) >> join("ann", "Ann", "r", "s")).forget()
    play >> Publish("r", "one") >> Publish("s", "two")
    assert [len(play.hub.pull("ann")) for _ in range(3)] == [1, 1, 0]


def test_replies_come_before_room_frames_in_chunks_too() -> None:
    play = ann_and_ben(chunk_bytes=10)
    flood(play, 2) >> Exit("ann", "r") >> Enter("ann", "r")
    play << Sees("ann", ": x", ": x", "online Ben,Ann", "+Ann")
    assert all(len(chunk) == 1 for chunk in play.chunks["ann"][-4:])


def test_a_client_is_named_once_until_it_has_pulled_all() -> None:
    play = flood(ann_and_ben(chunk_bytes=10), 2)
    assert set(play.hub.ready()) == {"ann", "ben"}
    flood(play, 1)
    assert play.hub.ready() == ()
    assert play.hub.pull("ann")
    flood(play, 1)
    assert play.hub.ready() == ()
    play.pull("ann")
    flood(play, 1)
    assert play.hub.ready() == ["ann"]


def test_a_client_that_pulled_before_it_was_named_is_not_named_for_nothing() -> None:
    play = ann_and_ben() >> Publish("r", "hi") >> Blocked("ann") >> Writable("ann")
    assert play.hub.pull("ann")
    assert "ann" not in play.hub.ready()
    play >> Publish("r", "more")
    assert play.hub.ready() == ["ann"], "and not twice for the next"


def test_named_ones_can_be_taken_without_serving_a_room() -> None:
    play = ann_and_ben() >> join("ann2", "Ann")
    assert play.hub.take_named() == ["ann2"]
    play >> Publish("r", "hi")
    assert play.hub.take_named() == ()
    assert not play.hub.is_settled
    assert play.hub.share() is not None
    assert play.hub.take_named() == ["ann"]


def test_an_unknown_client_pulls_nothing() -> None:
    assert not Playbook().hub.pull("nobody")


# -- leaving in order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [Kick("Ann"), Kick("Ann", "r"), CloseRoom("r"), Drain()], ids=repr)
@pytest.mark.parametrize("blocked", [False, True])
def test_what_was_said_up_to_then_goes_out_before_the_close(order: Any, blocked: bool) -> None:
    play = ann_and_ben() >> Publish("r", "one")
    if blocked:
        play >> Blocked("ann")
    play >> Publish("r", "two") >> order
    play.orders.clear()
    play << Sees("ann", ": one", ": two")
    play >> Publish("r", "three") << Sees("ann")
    assert play.hub.state_of("ann") is State.CLOSING
    assert not play.hub.pull("ann")


def test_a_client_over_its_rate_gets_what_was_said_up_to_then() -> None:
    play = ann_and_ben(message_burst=2)
    play >> Received("ann", "1") >> Received("ann", "2") >> Received("ann", "3") << Close("ann", RATE_LIMITED)
    play << Sees("ann", "Ann: 1", "Ann: 2") << Sees("ben", "Ann: 1", "Ann: 2", "-Ann", "online Ben")


def test_leaving_one_room_of_two_leaves_nothing_unread_behind() -> None:
    play = (Playbook() >> join("ann", "Ann", "r", "s") >> join("ben", "Ben")).forget()
    play >> Publish("r", "one") >> Publish("s", "two") >> Exit("ann", "r") >> Publish("r", "three")
    play << Sees("ann", ": one", "s| : two")
    assert play.hub.state_of("ann") is State.OPEN


def test_leaving_and_coming_back_reads_in_order() -> None:
    (
        ann_and_ben()
        >> Publish("r", "one")
        >> Exit("ann", "r")
        >> Publish("r", "not for ann")
        >> Enter("ann", "r")
        >> Publish("r", "two")
        << Sees("ann", ": one", "online Ben,Ann", "+Ann", ": two")
    )


def test_to_leave_a_room_one_is_not_in_is_nothing() -> None:
    ann_and_ben() >> Exit("ann", "s") << Nothing() >> Exit("nobody", "r") << Nothing()


# -- the program's orders -------------------------------------------------------------------------------------------


def test_kick_puts_all_of_a_user_s_connections_out_of_every_room() -> None:
    play = (ann_and_ben() >> join("ann2", "Ann", "r", "s")).forget()
    play >> Kick("Ann") << Close("ann", KICKED) << Close("ann2", KICKED) << Sees("ben", "-Ann", "online Ben")
    assert play.hub.rooms() == ("r",)
    assert play.hub.statistics().evictions == {"kicked": 2}


def test_kick_from_one_room_leaves_the_others() -> None:
    play = (ann_and_ben() >> Enter("ann", "s")).forget()
    play >> Kick("Ann", "r") << Sees("ben", "-Ann", "online Ben")
    assert play.hub.members("s") == ("Ann",)
    play >> Kick("Ann", "t") << Nothing()
    play >> Kick("Ann", "s") << Close("ann", KICKED)


def test_kick_takes_a_reason_of_the_program_s_own() -> None:
    reason = application_close_reason("enough", 4500)
    ann_and_ben() >> Kick("Ann", close_reason=reason) << Close("ann", reason)


def test_a_user_that_is_closing_or_unknown_is_not_kicked_again() -> None:
    play = ann_and_ben() >> Kick("Ann") << Close("ann", KICKED)
    play.forget()
    play >> Kick("Ann") << Nothing() >> Kick("Nobody") << Nothing()


def test_close_room_tells_nobody_of_the_others_and_closes_who_is_nowhere_else() -> None:
    play = (ann_and_ben() >> Enter("ann", "s")).forget()
    play >> CloseRoom("r") << Close("ben", ROOM_CLOSED) << Nothing()
    assert play.hub.rooms() == ("s",)
    play >> CloseRoom("r") << Nothing()


def test_dismissed_clients_get_what_was_said_and_do_not_hear_of_each_other() -> None:
    play = (ann_and_ben() >> join("cy", "Cy") >> join("ann2", "Ann", "s")).forget()
    reason = application_close_reason("moving", 4700)
    play >> Publish("r", "last words")
    play >> Dismiss(["ann", "ben", "ann2", "nobody", "ann"], reason)
    play << Close("ann", reason) << Close("ben", reason) << Close("ann2", reason)
    play << Sees("ann", ": last words") << Sees("ben", ": last words")
    play << Sees("cy", ": last words", "-Ann", "online Ben,Cy", "-Ben", "online Cy") << Nothing()
    assert play.hub.rooms() == ("r",)
    assert play.hub.statistics().evictions == {"moving": 3}
    play >> Dismiss(["ann", "ben"], reason) << Nothing()


def test_drain_closes_all_takes_nobody_in_and_is_said_once() -> None:
    play = (ann_and_ben() >> Enter("ann", "s")).forget()
    play >> Drain() << Close("ann", DRAINING) << Close("ben", DRAINING)
    assert play.hub.draining
    assert play.hub.refusal() is DRAINING
    assert play.hub.rooms() == ()
    play >> Drain() << Nothing()
    play >> join("late", "Late") << Close("late", DRAINING)
    play >> Publish("r", "to nobody", ref=1) << Settle << Nothing()
    assert play.hub.rooms() == ()


# -- hooks: announces, authorizes, reports --------------------------------------------------------------------------


def test_authorizes_asks_before_each_join() -> None:
    play = Playbook()
    play.hub.authorizes = True
    (
        play
        >> join("ann", "Ann")
        << Authorize("ann", "r", "Ann")
        << Nothing()
        >> Authorized("ann", "r")
        << Sees("ann", "online Ann", "+Ann")
        >> Authorized("ann", "r")
        << Nothing()
        >> Enter("ann", "s")
        << Authorize("ann", "s", "Ann")
        >> Denied("ann", "s")
        << Nothing()
    )
    assert play.hub.statistics().refusals == {"forbidden": 1}
    play >> join("ben", "Ben") << Authorize >> Denied("ben", "r") << Close("ben", FORBIDDEN) << Nothing()


def test_announces_asks_before_each_message() -> None:
    play = ann_and_ben()
    play.hub.announces = True
    play >> Received("ann", "hi")
    announce = play.orders.popleft()
    assert isinstance(announce, Announce)
    assert (told(announce.message), announce.ref) == ("Ann: hi", None)
    play << Nothing()
    play >> Published(announce.message) << Sees("ben", "Ann: hi") << Sees("ann", "Ann: hi")
    play >> Publish("r", "news", ref=7)
    announce = play.orders.popleft()
    assert isinstance(announce, Announce)
    assert announce.ref == 7
    rewritten = Message(CHAT, "r", "", "", "better news")
    play >> Published(rewritten, 7) << Settle(7, Position("e.1", 2)) << Sees("ben", ": better news")
    play << Sees("ann", ": better news")
    assert rewritten.offset == 0, "an event is not changed"
    play >> Refused(rewritten, 7) << Settle(7, None) << Sees("ben")
    play >> Refused(rewritten) << Nothing()
    assert play.hub.statistics().messages_dropped == 2


def test_a_message_whose_room_has_gone_meanwhile_has_a_place_and_no_hearers() -> None:
    play = ann_and_ben()
    play.hub.announces = True
    play >> Received("ann", "hi")
    announce = play.orders.popleft()
    assert isinstance(announce, Announce)
    play >> CloseRoom("r")
    play.forget()
    play >> Published(announce.message, 1) << Settle(1, Position("e.2", 1)) << Nothing()
    assert play.hub.rooms() == ()


def test_reports_chats_arrivals_and_departures_in_order() -> None:
    play = Playbook()
    play.hub.reports = True
    play >> join("ann", "Ann")
    assert play.tell() == ["report +Ann"]
    play >> join("ann2", "Ann")
    assert play.tell() == []
    play >> Received("ann", "hi")
    assert play.tell() == ["report Ann: hi"]
    play >> Publish("r", "news", ref=3)
    assert play.tell() == ["report : news", "settle 3 e.1/2"]
    play >> Disconnected("ann")
    assert play.tell() == []
    play >> Kick("Ann")
    assert play.tell() == ["report -Ann", "close ann2 kicked"]
    play >> Disconnected("ann2")
    assert play.tell() == []


def test_a_report_carries_the_position_and_the_time() -> None:
    play = ann_and_ben() >> ClockSet(77)
    play.hub.reports = True
    play >> Received("ann", "hi")
    report = play.orders.popleft()
    assert isinstance(report, Report)
    assert report.message == Message(CHAT, "r", "Ann", "Ann", "hi", 1, 77, epoch="e.1")


# -- what a peer may not be called, and what the caller may not do --------------------------------------------------


@pytest.mark.parametrize("user", ["", "x" * 65, "a\x00b", "a,b", "\ud800", " ", "a\u202eb"])
def test_a_bad_name_is_refused(user: str) -> None:
    play = Playbook() >> join("x", user) << Close("x", PROTOCOL) << Nothing()
    assert play.hub.rooms() == ()
    assert play.hub.statistics().refusals == {"protocol": 1}
    play >> Disconnected("x") << Nothing()
    assert play.hub.statistics().connections == 0


def test_a_comma_is_for_plain_alone() -> None:
    play = Playbook() >> Connected("x", netstring_lane(v1=True), "a,b", ["r"])
    assert play.hub.members("r") == ("a,b",)


@pytest.mark.parametrize("room", ["", ".", "..", "../x", "*", "a b", "a\r\nb", "x" * 65, "é"])
def test_a_bad_room_is_refused(room: str) -> None:
    play = Playbook() >> join("x", "X", room) << Close("x", PROTOCOL) << Nothing()
    assert play.hub.rooms() == ()


def test_a_client_closed_for_its_first_room_is_not_asked_into_the_next() -> None:
    play = Playbook() >> join("x", "X", "../x", "r") << Close("x", PROTOCOL) << Nothing()
    assert play.hub.rooms() == ()


def test_a_program_has_a_rule_of_its_own_for_rooms() -> None:
    hub: Hub[str] = Hub(epoch="e", room_rule=lambda room: None if room.startswith("#") else "must begin with #")
    play = Playbook()
    play.hub = hub
    play >> join("ann", "Ann", "#talk")
    assert hub.rooms() == ("#talk",)
    play >> join("ben", "Ben", "talk") << Close("ben", PROTOCOL)
    with pytest.raises(ValueError, match="room: must begin with #"):
        play >> Publish("talk", "hi")


class RuleBroke(Exception):
    pass


def rule_that_breaks(room: str) -> str | None:
    if room == "boom":
        raise RuleBroke
    return None


def playing_by(rule: Callable[[str], str | None]) -> Playbook:
    play = Playbook()
    play.hub = Hub(epoch="e", room_rule=rule)
    return play


def test_a_rule_that_raises_leaves_no_connection_behind() -> None:
    play = playing_by(rule_that_breaks) >> join("ann", "Ann")
    play.hub.reports = True
    before = state(play.hub)
    for rooms in (("boom",), ("s", "boom"), ("boom", "s")):
        with pytest.raises(RuleBroke):
            play.hub.handle(join("ben", "Ben", *rooms, address="x"), 0.0)
        assert state(play.hub) == before
    assert play.hub.handle(Disconnected("ben"), 0.0) == ()
    play.forget() >> join("ben", "Ben") << Report << Sees("ann", "online Ann,Ben", "+Ben")


def test_a_rule_that_raises_changes_nothing_for_who_is_there() -> None:
    play = playing_by(rule_that_breaks) >> Connected("ann", V1, "Ann", ["r"])
    play.forget()
    before = state(play.hub)
    for order in (Enter("ann", "boom"), Publish("boom", "hi"), Published(Message(CHAT, "boom", "", "", "hi"))):
        with pytest.raises(RuleBroke):
            play.hub.handle(order, 0.0)
        assert state(play.hub) == before
    joins = dict(play.hub._admission._joins_due)
    with pytest.raises(RuleBroke):
        play.hub.handle(Received("ann", "join boom"), 0.0)
    assert play.hub._admission._joins_due == joins, "a join that nobody could judge is not counted"
    assert play.hub.members("boom") == ()
    play >> Received("ann", "r still here") << Sees("ann", "Ann: still here")


def test_a_rule_is_asked_once_for_each_room() -> None:
    asked: list[str] = []
    play = playing_by(asked.append) >> join("ann", "Ann", "a", "b") >> Enter("ann", "c")
    assert asked == ["a", "b", "c"]
    play >> Publish("a", "hi") >> Publish("d", "hi")
    assert asked == ["a", "b", "c", "d"], "a room that is there has a good name"


def test_a_room_that_no_wire_can_name_is_refused_though_the_program_s_rule_takes_all() -> None:
    play = playing_by(lambda room: None) >> Connected("ann", BYTES, "Ann", ["\ud800"]) << Close("ann", PROTOCOL)
    play << Nothing()
    assert play.hub.rooms() == ()
    with pytest.raises(ValueError, match="lone surrogate"):
        play.hub.handle(Publish("\ud800", "hi"), 0.0)


def state(hub: Hub[str]) -> object:
    """Everything a hub holds that a test can compare."""
    return (
        hub.statistics(),
        {name: (room.head, room.offset, list(room.members), dict(room.users)) for name, room in hub._rooms.items()},
        {client: (session.state, len(session.members)) for client, session in hub._sessions.items()},
        dict(hub._admission._addresses),
        dict(hub._admission._joins_due),
        {user: len(sessions) for user, sessions in hub._users.items()},
        [room.name for room in hub._delivery.dirty],
        list(hub._delivery.named),
        list(hub._effects),
        hub._state.incarnations,
        hub._state.wall_offset_ms,
        hub.next_deadline(),
    )


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (join("ann", "Ann"), ValueError),
        (join("cy", 5), TypeError),  # type: ignore[arg-type]
        (Publish("../x", "hi"), ValueError),
        (Publish("r", "\ud800"), ValueError),
        (Publish("r", "hi", "\ud800"), ValueError),
        (Publish("r", b"hi"), TypeError),  # type: ignore[arg-type]
        (Publish("r", "hi", None), TypeError),  # type: ignore[arg-type]
        (Published(Message(CHAT, "r", "", "", "\ud800")), ValueError),
        (Published(Message(CHAT, "../x", "", "", "hi")), ValueError),
        (Published(Message(CHAT, "r", "\ud800", "", "hi")), ValueError),
        (Enter("nobody", "r"), KeyError),
        (Enter("ann", "../x"), ValueError),
        (Kick("Ann", close_reason="out"), TypeError),  # type: ignore[arg-type]
        (Dismiss(["ann"], "out"), TypeError),  # type: ignore[arg-type]
        (join("cy", "Cy", 5), TypeError),  # type: ignore[arg-type]
        (ClockSet("now"), TypeError),  # type: ignore[arg-type]
        ("hi", TypeError),
        (None, TypeError),
    ],
    ids=repr,
)
def test_misuse_raises_before_anything_has_changed(item: Any, error: type[Exception]) -> None:
    play = ann_and_ben() >> Publish("r", "unserved")
    before = state(play.hub)
    with pytest.raises(error):
        play.hub.handle(item, 5.0)
    assert state(play.hub) == before
    assert play.hub.handle(Ticked(), 0.0) == ()
    play << Sees("ann", ": unserved") << Sees("ben", ": unserved")


def test_an_order_to_a_client_that_is_closing_is_nothing() -> None:
    play = ann_and_ben() >> Kick("Ann") << Close("ann", KICKED)
    play.forget()
    play >> Enter("ann", "s") << Nothing() >> Exit("ann", "r") << Nothing()


@pytest.mark.parametrize(
    "late",
    [Received("ann", "hi"), Heard("ann"), Blocked("ann"), Writable("ann"), Authorized("ann", "s"), Denied("ann", "s")],
    ids=repr,
)
@pytest.mark.parametrize("end", [Kick("Ann"), Disconnected("ann")], ids=repr)
def test_facts_that_come_too_late_are_nothing(end: Any, late: Any) -> None:
    play = ann_and_ben() >> end
    play.forget()
    play >> late << Nothing()
    assert play.hub.members("r") == ("Ben",)


# -- questions ------------------------------------------------------------------------------------------------------


def test_statistics_count() -> None:
    play = Playbook() >> join("ann", "Ann", address="x") >> Connected("ben", BYTES, "Ben", ["r", "s"], shares=True)
    play.serve()
    play >> Received("ann", "é") >> Blocked("ben") >> Publish("r", "news")
    play.serve()
    numbers = play.hub.statistics()
    assert (numbers.connections, numbers.rooms, numbers.members) == (2, 2, 3)
    assert (numbers.messages_in, numbers.messages_published, numbers.messages_dropped) == (1, 2, 0)
    assert numbers.bytes_in == 2
    assert numbers.deliveries == sum(map(len, play.raw.values()))
    written = {
        client: b"".join(c if isinstance(c, bytes) else "".join(c).encode() for c in chunks)
        for client, chunks in play.chunks.items()
    }
    assert numbers.bytes_out == sum(map(len, written.values()))
    assert numbers.lag_messages == 2
    assert (numbers.evictions, numbers.refusals) == ({}, {})


def test_clients_are_all_connections_those_that_close_too() -> None:
    play = Playbook()
    assert play.hub.is_empty
    assert play.hub.clients() == ()
    play >> join("ann", "Ann") >> Kick("Ann") << Close("ann", KICKED) >> join("ben", "Ben")
    assert play.hub.clients() == ("ann", "ben")
    assert not play.hub.is_empty
    play >> Disconnected("ann") >> Disconnected("ben")
    assert play.hub.is_empty


def test_members_are_users_in_order_of_joining_each_once() -> None:
    play = ann_and_ben() >> join("ann2", "Ann") >> join("cy", "Cy")
    assert play.hub.members("r") == ("Ann", "Ben", "Cy")
    play >> Disconnected("ann")
    assert play.hub.members("r") == ("Ann", "Ben", "Cy")
    assert play.hub.members("s") == ()


def test_a_lane_with_a_framing_of_its_own_for_replies() -> None:
    lane = Lane(PlainCodec(), lambda text: f"<{text}>", lambda parts: tuple(map(str, parts)), direct=lambda text: text)
    play = ann_and_ben() >> Connected("ann2", lane, "Ann", ["r"])
    first = play.hub.pull("ann2")
    assert [str(frame)[0] for frame in first] == ["{", "{"]
    play >> Publish("r", "hi")
    assert str(play.hub.pull("ann2")[0])[0] == "<"


def test_the_reasons_a_hub_closes_with_are_in_the_registry() -> None:
    reasons = (SLOW_CONSUMER, NO_PONG, IDLE, RATE_LIMITED, ROOM_CLOSED, DRAINING, OVER_CAPACITY, FORBIDDEN, PROTOCOL)
    assert all(errors.CLOSE_REASONS[reason.name] is reason for reason in reasons)


def test_limits_are_the_defaults_unless_given() -> None:
    assert Hub[str](epoch="e").limits == Limits()
