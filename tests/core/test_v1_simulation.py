"""The v1 crowd's seeds, and that the simulation finds faults: each of those planted here is one that it must see."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roomhub.core import dialogue, replay
from roomhub.core.delivery import Delivery
from roomhub.core.dialogue import Dialogue
from roomhub.core.errors import REPLACED
from roomhub.core.hub import Hub
from roomhub.core.membership import Membership
from roomhub.core.moderation import Moderation
from roomhub.core.replay import Recovery, Replay, recover
from roomhub.core.roster import Roster
from roomhub.core.sanctions import Sanctions
from roomhub.core.speech import Speech
from roomhub.core.state import HubState
from tests.core import v1_simulation

ROOT = Path(__file__).parents[2]
SEEDS = range(1, 41)
STEPS = 5_000
FAULT_SEEDS = range(1, 9)
FAULT_STEPS = 3_000

HAPPENS = (
    "recovered full",
    "recovered partial",
    "recovered none",
    "gap slow",
    "gap expired",
    "gap epoch",
    "replayed",
    "resumed",
    "skipped",
    "dup",
    "pages",
    "rosters agree",
    "plain chat",
    "see dm",
    "see user_joined",
    "see user_left",
    "see presence",
    "see typing",
    "see event",
    "see kicked",
    "see draining",
    "see pong",
    "error already_joined",
    "error forbidden",
    "error muted",
    "error over_capacity",
    "error rate_limited",
    "error unknown_room",
    "error unrecoverable",
    "moderated ban",
    "moderated kick",
    "moderated mute",
    "moderated unban",
    "moderated unmute",
    "close banned",
    "close draining",
    "close hello_timeout",
    "close idle",
    "close kicked",
    "close no_pong",
    "close rate_limited",
    "close replaced",
    "close room_closed",
    "close slow_consumer",
)
"""What the fixed seeds must come to; a simulation in which nothing happens finds nothing."""

seen: Counter[str] = Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_guarantees_hold_for_a_crowd(seed: int) -> None:
    done = v1_simulation.run(seed, STEPS)
    assert done.steps >= STEPS
    seen.update(done.counts)


def test_it_all_happens() -> None:
    if seen["connected"] < len(SEEDS):
        pytest.skip("the seeds have not run")
    assert [name for name in HAPPENS if not seen[name]] == []


def test_a_seed_is_the_same_crowd_each_time() -> None:
    first, second = (v1_simulation.run(3, 1_000) for _ in range(2))
    assert (first.counts, first.steps) == (second.counts, second.steps)
    assert first.hub.statistics() == second.hub.statistics()


# -- planted faults ----------------------------------------------------------------------------------------------------


def skip_one_of_a_replay(patch: pytest.MonkeyPatch) -> None:
    read = Replay.read

    def faulty(self: Any, *args: Any, **more: Any) -> Any:
        if self._next < self._until:
            self._next += 1
        return read(self, *args, **more)

    patch.setattr(Replay, "read", faulty)


def reuse_an_offset(patch: pytest.MonkeyPatch) -> None:
    append = Speech.append_chat

    def faulty(self: Any, room: Any, *args: Any) -> None:
        append(self, room, *args)
        room.offset -= room.offset == 5

    patch.setattr(Speech, "append_chat", faulty)


def leave_a_revision_as_it_is(patch: pytest.MonkeyPatch) -> None:
    news = Roster.news

    def faulty(self: Any, *args: Any) -> Any:
        told = news(self, *args)
        self.rev -= self.rev == 4
        return told

    patch.setattr(Roster, "news", faulty)


def forget_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Speech, "_is_repeated", lambda *_: False)


def skip_without_a_gap(patch: pytest.MonkeyPatch) -> None:
    def faulty(_: Any, member: Any, now: float) -> None:
        member.cursor = member.room.head

    patch.setattr(Dialogue, "skip", faulty)


def skip_with_a_gap_too_short(patch: pytest.MonkeyPatch) -> None:
    frame = replay.gap_frame

    def faulty(lane: Any, room: str, epoch: str, first: int, last: int, reason: str) -> Any:
        return frame(lane, room, epoch, first + (reason == "slow"), last, reason)

    patch.setattr(dialogue, "gap_frame", faulty)


def recover_more_than_there_is(patch: pytest.MonkeyPatch) -> None:
    def faulty(room: Any, since: Any, missing: int | None = None) -> Recovery:
        found = recover(room, since, missing)
        return found._replace(recovered="full", gap=None) if found.recovered == "partial" else found

    patch.setattr(dialogue, "recover", faulty)


def recover_nothing_when_nothing_was_said(patch: pytest.MonkeyPatch) -> None:
    def faulty(room: Any, since: Any, missing: int | None = None) -> Recovery:
        found = recover(room, since, missing)
        return found if found.first else found._replace(recovered="none", gap=None)

    patch.setattr(dialogue, "recover", faulty)


def let_the_old_connection_live(patch: pytest.MonkeyPatch) -> None:
    evict = Membership.evict

    def faulty(self: Any, session: Any, reason: Any, now: float, **more: Any) -> None:
        if reason is not REPLACED:
            evict(self, session, reason, now, **more)

    patch.setattr(Membership, "evict", faulty)


def forget_to_name_who_goes_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "resume", lambda *_: None)


def keep_a_change_of_the_roster_to_oneself(patch: pytest.MonkeyPatch) -> None:
    note = Roster.note

    def faulty(self: Any, user: str, reason: str = "") -> None:
        if self.rev != 3:
            note(self, user, reason)

    patch.setattr(Roster, "note", faulty)


def let_replies_pile_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "judge_direct", lambda *_: None)


def reply_twice(patch: pytest.MonkeyPatch) -> None:
    ok = Dialogue._ok

    def faulty(self: Any, *args: Any) -> None:
        ok(self, *args)
        ok(self, *args)

    patch.setattr(Dialogue, "_ok", faulty)


def do_not_reply(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dialogue, "_ok", lambda *_: None)


def keep_rooms_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "free_if_empty", lambda *_: None)


def keep_ended_sessions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "forget_sessions", lambda _: None)


def lose_what_was_unread(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "keep_unread", lambda *_: None)


def let_time_fall(patch: pytest.MonkeyPatch) -> None:
    place = Speech._place

    def faulty(self: Any, room: Any, *args: Any) -> None:
        room.ts_ms = 0
        place(self, room, *args)

    patch.setattr(Speech, "_place", faulty)


def let_the_banned_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HubState, "ban_of", lambda *_: None)


def leave_the_banned_where_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Moderation, "put_out", lambda *_, **__: True)


def let_the_muted_speak(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HubState, "mute_of", lambda *_: None)


def forget_to_unban(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sanctions, "remove", lambda *_: None)


FAULTS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    skip_one_of_a_replay,
    reuse_an_offset,
    leave_a_revision_as_it_is,
    forget_keys,
    skip_without_a_gap,
    skip_with_a_gap_too_short,
    recover_more_than_there_is,
    recover_nothing_when_nothing_was_said,
    let_the_old_connection_live,
    forget_to_name_who_goes_on,
    keep_a_change_of_the_roster_to_oneself,
    let_replies_pile_up,
    reply_twice,
    do_not_reply,
    keep_rooms_for_ever,
    keep_ended_sessions,
    lose_what_was_unread,
    let_time_fall,
    let_the_banned_in,
    leave_the_banned_where_they_are,
    let_the_muted_speak,
    forget_to_unban,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(v1_simulation.Failed):
        run_all(FAULT_SEEDS, FAULT_STEPS)


def run_all(seeds: range, steps: int) -> None:
    for seed in seeds:
        v1_simulation.run(seed, steps)


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_failing_seed_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "pull", lambda hub, client: b"")
    with pytest.raises(v1_simulation.Failed, match=r"python -m tests\.core\.v1_simulation --seed 5 --steps \d+"):
        v1_simulation.run(5, STEPS)


def test_a_failure_is_the_same_when_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    do_not_reply(monkeypatch)
    for seed in FAULT_SEEDS:
        with pytest.raises(v1_simulation.Failed) as first:
            v1_simulation.run(seed, FAULT_STEPS)
        steps = int(str(first.value).rsplit(" ", 1)[1])
        with pytest.raises(v1_simulation.Failed) as second:
            v1_simulation.run(seed, steps)
        assert str(first.value).split(":")[0] == str(second.value).split(":")[0]


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "tests.core.v1_simulation", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_command_that_replays_a_seed_runs() -> None:
    done = command("--seed", "2", "--steps", "500")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 2: ")


def test_many_seeds_get_a_line_each(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = command("--seeds", "2-4", "--steps", "300")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["seed 2", "seed 3", "seed 4"]
    do_not_reply(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["v1_simulation", "--seeds", "1-8", "--steps", "3000"])
    with pytest.raises(SystemExit, match="1"):
        v1_simulation.main()
    assert "replay: python -m tests.core.v1_simulation --seed " in capsys.readouterr().out
