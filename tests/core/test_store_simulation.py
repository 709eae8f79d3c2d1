"""The guarantees of v1 where messages outlive the process: seeds, and faults that the simulation must find."""

from collections import Counter
from typing import Any

import pytest

from roomhub.core.hub import Hub
from roomhub.core.pages import Pages
from roomhub.core.replay import Replay
from roomhub.core.speech import Speech
from roomhub.core.state import HubState
from roomhub.core.storage import Snapshot
from tests.core import store_simulation
from tests.core.store_simulation import StoreSimulation

SEEDS = range(1, 25)
STEPS = 5_000
counts: Counter[str] = Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_guarantees_hold_over_a_store_and_its_restarts(seed: int) -> None:
    counts.update(store_simulation.run(seed, STEPS).counts)


def test_it_all_happens() -> None:
    if counts["starts"] < len(SEEDS):
        pytest.skip("the seeds have not run")
    wanted = (
        *("acknowledged", "healed", "failed", "refused", "pages failed", "closed"),
        *("recovered full", "recovered partial", "recovered none"),
        *("moderated", "moderating: bad_request", "moderating: internal"),
        *("gap lost", "gap expired", "gap slow", "gap epoch", "see dm", "see bye", "see presence"),
    )
    assert [name for name in wanted if not counts[name]] == []


def give_offsets_beyond_what_is_reserved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Speech, "_drift", lambda self, room: None)


def say_ok_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    restore = Hub.restore

    def faulty(self: Any, *arguments: Any, **named: Any) -> None:
        restore(self, *arguments, confirms=False, **named)

    patch.setattr(Hub, "restore", faulty)


def forget_the_keys_of_the_store(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HubState, "remember", lambda self, key, receipt, now: None)


def forget_the_bans_of_the_store(patch: pytest.MonkeyPatch) -> None:
    restore = Hub.restore

    def faulty(self: Any, snapshot: Snapshot, **named: Any) -> None:
        restore(self, snapshot._replace(sanctions=()), **named)

    patch.setattr(Hub, "restore", faulty)


def pass_over_a_page(patch: pytest.MonkeyPatch) -> None:
    take = Replay.take

    def faulty(self: Any, records: Any, gaps: Any, end: int) -> None:
        take(self, records[1:] if len(records) > 1 else records, gaps, end)
        self._next += len(records) > 1

    patch.setattr(Replay, "take", faulty)


def pass_over_what_would_have_to_be_asked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pages, "bring", lambda self, now: self._state.delivery.asking.clear())


def close_in_the_middle_of_a_replay(patch: pytest.MonkeyPatch) -> None:
    def faulty(self: Any, session: Any) -> None:
        session.direct = [item for item in session.direct or () if isinstance(item, str | bytes)]

    patch.setattr("roomhub.core.delivery.Delivery.cut", faulty)


@pytest.mark.parametrize(
    "fault",
    [
        give_offsets_beyond_what_is_reserved,
        say_ok_before_the_commit,
        forget_the_keys_of_the_store,
        forget_the_bans_of_the_store,
        pass_over_a_page,
        pass_over_what_would_have_to_be_asked_for,
        close_in_the_middle_of_a_replay,
    ],
)
def test_a_fault_is_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)

    def run_all() -> None:
        for seed in SEEDS:
            store_simulation.run(seed, STEPS)

    with pytest.raises(AssertionError, match="replay: python -m tests"):
        run_all()


def test_a_seed_is_the_same_world_each_time() -> None:
    first, second = (store_simulation.run(3, 500) for _ in range(2))
    assert first.counts == second.counts
    assert isinstance(first, StoreSimulation)
