"""The room: lane logs, passes in turns, the floor and what can be let go."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub.core.commands import Enter, Publish
from roomhub.core.events import Blocked, Connected, Disconnected, Received, Ticked, Writable
from roomhub.core.hub import Hub
from roomhub.core.message import CHAT, Message
from roomhub.core.room import RECORD_OVERHEAD_BYTES, LaneLog, Room
from tests.core.playbook import BYTES, TEXT, Playbook, brief, frames, netstring_lane


def chat(content: str) -> Message:
    return Message(CHAT, "r", "x", "x", content)


def log_of(*contents: str, base: int = 0) -> LaneLog:
    log = LaneLog(BYTES, base)
    for content in contents:
        log.append(chat(content))
    return log


# -- a lane's log ---------------------------------------------------------------------------------------------------


def test_a_read_gives_all_frames_to_the_head() -> None:
    log = log_of("a", "b", "c", base=10)
    chunk, after = log.read(11, 1e9)
    assert [brief(frame) for frame in frames(chunk)] == ["x: b", "x: c"]
    assert after == 13
    assert log.lag_bytes(11) == len(chunk)
    assert log.lag_bytes(13) == 0


def test_a_read_gives_at_least_one_frame_and_at_most_so_many_bytes() -> None:
    size = len(log_of("a").frames[0])
    for most, frames_read in ((1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (3 * size, 3), (1e9, 3)):
        assert log_of("a", "b", "c").read(0, most)[1] == frames_read


def test_whoever_stands_at_one_cursor_gets_the_same_object() -> None:
    log = log_of("a", "b")
    assert log.read(0, 1e9)[0] is log.read(0, 1e9)[0]
    before, _ = log.read(0, 1e9)
    log.append(chat("c"))
    assert log.read(0, 1e9)[0] is not before
    assert log.read(2, 1e9)[0] is log.frames[2], "one frame is its own chunk"


def test_trimmed_it_reads_on_where_it_was() -> None:
    log = log_of("a", "b", "c")
    log.trim(2)
    assert (log.base, len(log.frames)) == (2, 1)
    assert [brief(frame) for frame in frames(log.read(2, 1e9)[0])] == ["x: c"]
    log.trim(1)
    assert log.base == 2
    log.trim(3)
    assert (log.base, log.frames, log.totals) == (3, [], [0])


@given(st.lists(st.text("ab", max_size=9), max_size=12), st.integers(0, 12), st.integers(1, 400), st.integers(0, 12))
def test_reads_equal_slices_of_a_list(contents: list[str], cursor: int, most: int, trimmed: int) -> None:
    log = log_of(*contents)
    cursor = min(cursor, len(contents))
    log.trim(min(trimmed, cursor))
    got: list[str] = []
    at = cursor
    while at < len(contents):
        chunk, after = log.read(at, most)
        assert len(chunk) <= most or after == at + 1
        assert log.lag_bytes(at) - log.lag_bytes(after) == len(chunk)
        got += frames(chunk)
        at = after
    assert [brief(frame) for frame in got] == [f"x: {content}" for content in contents[cursor:]]


# -- what a room remembers ------------------------------------------------------------------------------------------


def record(room: Room[str], *contents: str, messages: float = 99, size: float = 1e9) -> None:
    for content in contents:
        room.offset += 1
        room.record(Message(CHAT, "r", "x", "x", content, room.offset), room.offset, messages, size)


def kept(room: Room[str], limit: float = math.inf) -> list[str]:
    return [message.content for message in room.messages(limit)]


def test_a_room_remembers_so_many_messages() -> None:
    room: Room[str] = Room("r", "e.1")
    record(room, "a", "b", "c", messages=2)
    assert kept(room) == ["b", "c"]
    assert kept(room, 1) == ["c"]
    assert kept(room, 0) == []


def test_a_room_remembers_so_many_bytes_of_utf_8() -> None:
    room: Room[str] = Room("r", "e.1")
    most = 2 * (RECORD_OVERHEAD_BYTES + 4)
    record(room, "aaaa", "éé", "bbbb", size=most)
    assert kept(room) == ["éé", "bbbb"]
    assert room.log_bytes == most
    record(room, "x" * 1_000, size=most)
    assert kept(room) == []
    assert room.log_bytes == 0


def test_a_room_forgets_what_was_said_before_a_moment() -> None:
    room: Room[str] = Room("r", "e.1")
    record(room, "a", "b", "c")
    room.forget(2)
    assert kept(room) == ["b", "c"]
    assert room.log_bytes == 2 * (RECORD_OVERHEAD_BYTES + 1)
    room.forget(9)
    assert (kept(room), room.log_bytes) == ([], 0)


# -- serving --------------------------------------------------------------------------------------------------------


def crowd(size: int, *, shares: bool = True, **limits: float) -> Playbook:
    play = Playbook(**limits)
    for number in range(size):
        play >> Connected(f"m{number}", BYTES, f"M{number}", ["r"], shares=shares)
    return play.forget()


def contents(chunk: bytes | tuple[str, ...]) -> list[str]:
    return [brief(frame).partition(": ")[2] for frame in frames(chunk)]


def test_a_turn_looks_at_so_many_members_and_the_next_goes_on() -> None:
    play = crowd(5) >> Publish("r", "one")
    served = []
    for _ in range(3):
        share = play.hub.share(2)
        assert share is not None
        served.append(list(share.clients))
    assert served == [["m0", "m1"], ["m2", "m3"], ["m4"]]
    assert play.hub.share(2) is None
    assert play.hub.is_settled


def test_a_turn_of_nobody_is_refused() -> None:
    play = crowd(1) >> Publish("r", "one")
    with pytest.raises(ValueError, match="at least 1"):
        play.hub.share(0)
    assert play.hub.share(1) is not None


def test_rooms_take_turns() -> None:
    play = Playbook()
    for room in ("r", "s"):
        for number in range(3):
            play >> Connected(f"{room}{number}", BYTES, f"U{number}", [room], shares=True)
    play.forget()
    play >> Publish("r", "one") >> Publish("s", "two")
    turns = []
    while share := play.hub.share(1):
        turns.append(share.clients[0])
    assert turns == ["r0", "s0", "r1", "s1", "r2", "s2"]


def test_whoever_spoke_last_is_served_first() -> None:
    play = crowd(5) >> Received("m3", "hi")
    share = play.hub.share(2)
    assert share is not None
    assert share.clients[0] == "m3"
    rest = [client for share in iter(lambda: play.hub.share(2), None) for client in share.clients]
    assert sorted([*share.clients, *rest]) == ["m0", "m1", "m2", "m3", "m4"]


def test_a_speaker_who_left_is_not_served() -> None:
    play = crowd(3) >> Received("m2", "hi") >> Disconnected("m2")
    play.serve()
    assert [brief(frame) for frame in play.raw["m0"][-3:]] == ["M2: hi", "-M2", "online M0,M1"]


def test_what_is_said_during_a_pass_reaches_everybody_in_order() -> None:
    play = crowd(4) >> Publish("r", "one")
    got: dict[str, list[str]] = {f"m{number}": [] for number in range(4)}
    said = 1
    while share := play.hub.share(1):
        for client in share.clients:
            got[client] += contents(share.chunk)
        if said < 6:
            said += 1
            play >> Publish("r", f"more{said}")
    assert set(map(tuple, got.values())) == {("one", "more2", "more3", "more4", "more5", "more6")}


def test_members_at_different_cursors_are_served_in_one_pass() -> None:
    play = crowd(2) >> Publish("r", "one")
    assert play.hub.share(1) is not None
    play >> Connected("late", BYTES, "Late", ["r"], shares=True) >> Publish("r", "two")
    play.serve()
    assert [brief(frame) for frame in play.raw["late"]] == ["online M0,M1,Late", "+Late", ": two"]
    assert [brief(frame) for frame in play.raw["m1"]][-4:] == [": one", "online M0,M1,Late", "+Late", ": two"]


def test_a_member_that_left_during_a_pass_is_skipped() -> None:
    play = crowd(3) >> Publish("r", "one")
    assert play.hub.share(1) is not None
    play >> Disconnected("m1")
    served = [client for share in iter(lambda: play.hub.share(1), None) for client in share.clients]
    assert "m1" not in served


def test_frames_wait_for_a_healthy_member_however_late_its_turn() -> None:
    play = crowd(3, lag_messages=1)
    play >> Publish("r", "0")
    assert play.hub.share(1) is not None
    for number in range(1, 100):
        play >> Publish("r", str(number)) >> Ticked()
    while share := play.hub.share(1):
        for client in share.clients:
            play.take(client, share.chunk)
    play.serve()
    assert [brief(frame) for frame in play.raw["m2"][-100:]] == [f": {number}" for number in range(100)]


def test_frames_that_everybody_has_are_let_go() -> None:
    for shares in (True, False):
        play = crowd(3, shares=shares)
        for number in range(100):
            play >> Publish("r", str(number))
        assert len(frames_kept(play.hub)) == 100
        play.serve()
        assert frames_kept(play.hub) == []


def test_frames_wait_for_a_blocked_member_and_go_when_it_has_them_or_has_gone() -> None:
    for end in (Writable("m1"), Disconnected("m1")):
        play = crowd(3) >> Blocked("m1")
        for number in range(100):
            play >> Publish("r", str(number))
            play.serve()
        assert len(frames_kept(play.hub)) == 100
        play >> end
        play.serve()
        assert frames_kept(play.hub) == []
        assert len(play.raw["m1"]) < 100 or isinstance(end, Writable)


def test_what_the_slowest_has_goes_now_and_then() -> None:
    play = crowd(3) >> Blocked("m1")
    for number in range(40):
        play >> Publish("r", str(number))
    play.serve()
    assert len(frames_kept(play.hub)) == 40
    assert play.hub.pull("m1")
    play >> Publish("r", "40")
    play.serve()
    assert len(frames_kept(play.hub)) == 1


def frames_kept(hub: Hub[str]) -> list[object]:
    return [frame for log in hub._rooms["r"].lanes.values() for frame in log.frames]


def test_a_lane_s_log_is_there_while_somebody_is_in_the_lane() -> None:
    play = crowd(2)
    other = netstring_lane()
    play >> Connected("o", other, "O", ["r"])
    room = play.hub._rooms["r"]
    assert set(room.lanes) == {BYTES, other}
    play >> Disconnected("o")
    assert set(room.lanes) == {BYTES}


def test_a_member_that_pulled_during_a_pass_is_not_served_twice() -> None:
    play = crowd(3) >> Enter("m2", "s")
    play.forget()
    play >> Publish("r", "one")
    assert play.hub.share(1) is not None
    before = len(play.raw["m2"])
    play.pull("m2")
    play.serve()
    assert [brief(frame) for frame in play.raw["m2"][before:]] == [": one"]


def test_a_text_lane_is_shared_too() -> None:
    play = Playbook()
    for number in range(3):
        play >> Connected(f"m{number}", TEXT, f"M{number}", ["r"], shares=True)
    play.forget()
    play >> Publish("r", "one")
    share = play.hub.share()
    assert share is not None
    assert contents(share.chunk) == ["one"]
    assert len(share.clients) == 3
