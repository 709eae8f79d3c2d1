"""The simulation's seeds: more than 200,000 steps, and none of them differs from the naive model."""

import subprocess
import sys
from pathlib import Path

import pytest

from roomhub.core.hub import Hub
from tests.core import simulation

ROOT = Path(__file__).parents[2]
SEEDS = (*range(1, 41), 1302)
STEPS = 8_000


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crowd_gets_exactly_what_the_model_says(seed: int) -> None:
    world = simulation.run(seed, STEPS)
    assert world.steps >= STEPS


def test_the_seeds_make_more_than_200_000_steps() -> None:
    assert len(SEEDS) * STEPS >= 200_000


def test_a_seed_is_the_same_crowd_each_time() -> None:
    assert simulation.run(3, 2_000).hub.statistics() == simulation.run(3, 2_000).hub.statistics()


def test_a_failing_seed_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "pull", lambda hub, client: b"")
    with pytest.raises(simulation.Failed, match=r"python -m tests\.core\.simulation --seed 5 --steps \d+"):
        simulation.run(5, STEPS)


def test_the_command_that_replays_a_seed_runs() -> None:
    command = [sys.executable, "-m", "tests.core.simulation", "--seed", "2", "--steps", "500"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 2: ")
