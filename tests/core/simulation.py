"""A crowd in virtual time: clients that stall, vanish, return, flood and read slowly, from one seed.

    python -m tests.core.simulation --seed 7 --steps 20000

replays one seed alone. A step is one call of the hub (``handle``, ``share``, ``ready``, ``pull``). Everything the hub
does is compared with the naive model of ``model.py``; its insides are looked at every few hundred steps.
"""

import argparse
import math
from dataclasses import replace
from random import Random

from roomhub.core.limits import Limits
from tests.core.model import LANES, World

__all__ = ["Failed", "run"]

USERS = ("Ann", "Ben", "Çelik", "Dora", "E,ve", "Fay", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou")
ROOMS = ("a", "b", "c", "d", "e")


class Failed(AssertionError):
    """What a seed has shown, and how to see it again."""


def limits_of(random: Random) -> Limits:
    """Bounds small enough to be hit; fractions of 2, so that the model's sums are exact."""
    pick = random.choice
    return Limits(
        auth_timeout_s=math.inf,
        lag_messages=pick((3, 8, 40)),
        v1_lag_messages=pick((5, 20, 60)),
        lag_bytes=pick((400, 2_000, 20_000)),
        chunk_bytes=pick((1, 150, 400, 4_000)),
        direct_bytes=pick((150, 600, 10_000)),
        log_messages=pick((1, 5, 50)),
        write_timeout_s=pick((1, 4)),
        ping_interval_s=2,
        pong_timeout_s=pick((3, 6)),
        idle_timeout_s=pick((8, math.inf)),
        message_rate_per_s=pick((2, 8, math.inf)),
        message_burst=pick((4, 16)),
        join_rate_per_s=pick((1, 8)),
        join_burst=pick((3, 12)),
        rooms_per_client=pick((1, 2, 4)),
        rooms=pick((3, 100)),
        connections=pick((20, 40)),
        connections_per_address=pick((4, 40)),
        presence_batch_members=pick((1, 3, 6, 100)),
        presence_interval_s=pick((0.25, 0.5)),
    )


class Simulation:
    """One seed: a world, and what its crowd is up to."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        # Not drawn from the crowd's dice: so the seeds that once found something stay the crowds they were.
        limits = replace(limits_of(random), log_age_s=(math.inf, 4, 16)[seed % 3])
        self.world = World(limits, announces=random.random() < 0.15, authorizes=random.random() < 0.15)
        self.shares = random.choice((0.0, 0.5, 1.0))
        self.most_members = random.choice((1, 2, 5, 64))
        self.acts = {
            self.connect: 9,
            self.say: 20,
            self.flood: 1,
            self.hear: 6,
            self.block: 2,
            self.unblock: 6,
            self.vanish: 1,
            self.hang_up: 4,
            self.publish: 3,
            self.enter: 5,
            self.exit: 3,
            self.kick: 1,
            self.close_room: 0.3,
            self.tick: 8,
            self.share: 8,
            self.ready: 4,
            self.pull: 5,
            self.flush: 3,
            self.answer: 8,
            self.settle: 0.2,
            self.drain: 0.02,
        }

    def run(self, steps: int) -> World:
        acts, weights = list(self.acts), list(self.acts.values())
        next_check = 0
        while self.world.steps < steps:
            self.random.choices(acts, weights)[0]()
            if self.world.draining and not self.world.peers:
                # The end of a hub; the crowd goes on to the next.
                assert self.world.hub.is_settled
                assert not self.world.hub.rooms()
                done, self.world = self.world, World(self.world.limits, authorizes=self.world.hub.authorizes)
                self.world.steps = done.steps
                self.world.hub.announces = done.hub.announces
            elif self.world.draining and self.random.random() < 0.3 and self.world.peers:
                self.world.disconnect(self.somebody())
            if self.world.steps >= next_check:
                self.world.check()
                next_check = self.world.steps + 250
        self.world.settle()
        return self.world

    # -- what clients do ------------------------------------------------------------------------------------------

    def somebody(self) -> int:
        return self.random.choice(list(self.world.peers)) if self.world.peers else 0

    def connect(self) -> None:
        random = self.random
        rooms = random.sample(ROOMS, random.choice((0, 1, 1, 1, 2)))
        address = random.choice(("", "x", "y"))
        self.world.connect(random.choice(LANES), random.choice(USERS), rooms, address, random.random() < self.shares)

    def say(self) -> None:
        self.world.say(self.somebody())

    def flood(self) -> None:
        client = self.somebody()
        for _ in range(self.random.choice((5, 20))):
            self.world.say(client)

    def hear(self) -> None:
        for client in list(self.world.peers):
            if client % 5 and self.random.random() < 0.6:  # every fifth is deaf to pings
                self.world.hear(client)

    def block(self) -> None:
        self.world.block(self.somebody())

    def unblock(self) -> None:
        self.world.unblock(self.somebody())

    def vanish(self) -> None:
        self.world.disconnect(self.somebody())

    def hang_up(self) -> None:
        """Whoever was told to close does, most of them after they have read what was left for them."""
        for client in [client for client, peer in self.world.peers.items() if not peer.open]:
            if self.random.random() < 0.7:
                self.world.pull_all(client)
            self.world.disconnect(client)

    def enter(self) -> None:
        if self.world.peers:
            self.world.enter(self.somebody(), self.random.choice(ROOMS))

    def exit(self) -> None:
        client = self.somebody()
        peer = self.world.peers.get(client)
        rooms = list(peer.places) if peer and peer.places else ROOMS
        self.world.exit(client, self.random.choice(rooms))

    def pull(self) -> None:
        waiting = [client for client, peer in self.world.peers.items() if peer.named or not peer.open]
        client = self.random.choice(waiting) if waiting and self.random.random() < 0.9 else self.somebody()
        if self.random.random() < 0.5:
            self.world.pull(client)
        else:
            self.world.pull_all(client)
        if self.random.random() < 0.15:
            self.world.block(client)

    # -- what the program and the runtime do ----------------------------------------------------------------------

    def publish(self) -> None:
        self.world.publish(self.random.choice(ROOMS))

    def answer(self) -> None:
        if self.world.announced:
            self.world.answer_announce(0, self.random.random() < 0.9)
        if self.world.asked:
            self.world.answer_authorize(self.random.randrange(len(self.world.asked)), self.random.random() < 0.9)

    def kick(self) -> None:
        self.world.kick(self.random.choice(USERS), self.random.choice((None, *ROOMS)))

    def close_room(self) -> None:
        self.world.close_room(self.random.choice(ROOMS))

    def drain(self) -> None:
        self.world.drain()

    def tick(self) -> None:
        self.world.tick(self.random.choice((0, 0, 1 / 64, 1 / 8, 1 / 2, 1)))

    def share(self) -> None:
        self.world.share(self.most_members)

    def ready(self) -> None:
        self.world.ready(turns_too=self.random.random() < 0.5)

    def flush(self) -> None:
        self.world.tick(0)
        self.world.flush(self.most_members)

    def settle(self) -> None:
        self.world.settle()


def run(seed: int, steps: int) -> World:
    """Run one seed.

    Raises:
        Failed: the hub did something else than the model; the message says how to replay it.
    """
    simulation = Simulation(seed)
    try:
        return simulation.run(steps)
    except Exception as error:
        at = simulation.world.steps
        raise Failed(
            f"seed {seed} fails at step {at}: {error!r}\n"
            f"replay: python -m tests.core.simulation --seed {seed} --steps {at + 1}"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    world = run(arguments.seed, arguments.steps)
    print(f"seed {arguments.seed}: {world.steps} steps, {world.hub.statistics()}")


if __name__ == "__main__":
    main()
