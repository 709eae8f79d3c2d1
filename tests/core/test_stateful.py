"""A state machine drives the hub beside the naive model of ``model.py``; hypothesis looks for the shortest difference.

The model compares on each step: order (each client's frames are exactly the room's, from its join to its leave),
membership (the fold of the joins and leaves seen), one departure a user, nothing lost in silence, nobody named twice,
bounds, deadlines. ``check`` adds the hub's insides.
"""

import math

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from roomhub.core.codec import Lane
from roomhub.core.limits import Limits
from tests.core.model import LANES, World

ROOMS = st.sampled_from(("a", "b", "c"))
USERS = st.sampled_from(("Ann", "Ben", "Çelik", "D,d"))

LIMITS = st.builds(
    Limits,
    lag_messages=st.sampled_from((1, 3, 6)),
    v1_lag_messages=st.sampled_from((2, 8)),
    lag_bytes=st.sampled_from((150, 400, 5_000)),
    chunk_bytes=st.sampled_from((1, 130, 300, 5_000)),
    direct_bytes=st.sampled_from((100, 250, 5_000)),
    log_messages=st.sampled_from((1, 4, 100)),
    log_age_s=st.sampled_from((1, 4, math.inf)),
    write_timeout_s=st.sampled_from((1, 3)),
    ping_interval_s=st.just(2),
    pong_timeout_s=st.sampled_from((3, 5)),
    idle_timeout_s=st.sampled_from((4, math.inf)),
    message_rate_per_s=st.sampled_from((1, 4, math.inf)),
    message_burst=st.sampled_from((1, 3, 20)),
    join_rate_per_s=st.sampled_from((1, 4)),
    join_burst=st.sampled_from((2, 20)),
    rooms_per_client=st.sampled_from((1, 2, 3)),
    rooms=st.sampled_from((1, 2, 9)),
    connections=st.sampled_from((3, 100)),
    connections_per_address=st.sampled_from((1, 100)),
    presence_batch_members=st.sampled_from((1, 2, 3, 100)),
    presence_interval_s=st.sampled_from((0, 0.25, 0.5)),
    auth_timeout_s=st.just(math.inf),
)


class HubMachine(RuleBasedStateMachine):
    clients: Bundle[int] = Bundle("clients")

    @initialize(limits=LIMITS, announces=st.booleans(), authorizes=st.booleans())
    def start(self, limits: Limits, announces: bool, authorizes: bool) -> None:
        self.world = World(limits, announces=announces and authorizes, authorizes=authorizes and not announces)

    @rule(
        target=clients,
        lane=st.sampled_from(LANES),
        user=USERS,
        rooms=st.lists(ROOMS, max_size=2),
        address=st.sampled_from(("", "x")),
        shares=st.booleans(),
    )
    def connect(self, lane: Lane, user: str, rooms: list[str], address: str, shares: bool) -> int:
        return self.world.connect(lane, user, rooms, address, shares)

    @rule(target=clients, room=ROOMS, lane=st.sampled_from(LANES))
    def connect_a_crowd(self, room: str, lane: Lane) -> MultipleResults[int]:
        users = ("Ann", "Ben", "Eve")
        return multiple(*(self.world.connect(lane, user, [room], "", True) for user in users))

    @rule(client=clients)
    def say(self, client: int) -> None:
        self.world.say(client)

    @rule(client=clients)
    def hear(self, client: int) -> None:
        self.world.hear(client)

    @rule(client=clients)
    def block(self, client: int) -> None:
        self.world.block(client)

    @rule(client=clients)
    def unblock(self, client: int) -> None:
        self.world.unblock(client)

    @rule(client=clients)
    def disconnect(self, client: int) -> None:
        self.world.disconnect(client)

    @rule(room=ROOMS, count=st.integers(1, 4))
    def publish(self, room: str, count: int) -> None:
        for _ in range(count):
            self.world.publish(room)

    @rule(client=clients, room=ROOMS)
    def enter(self, client: int, room: str) -> None:
        if client in self.world.peers:
            self.world.enter(client, room)

    @rule(client=clients, room=ROOMS)
    def exit(self, client: int, room: str) -> None:
        self.world.exit(client, room)

    @rule(user=USERS, room=st.none() | ROOMS)
    def kick(self, user: str, room: str | None) -> None:
        self.world.kick(user, room)

    @rule(leaving=st.lists(clients, max_size=4))
    def dismiss(self, leaving: list[int]) -> None:
        self.world.dismiss(leaving)

    @rule(room=ROOMS)
    def close_room(self, room: str) -> None:
        self.world.close_room(room)

    @precondition(lambda self: self.world.asked)
    @rule(yes=st.booleans())
    def answer_authorize(self, yes: bool) -> None:
        self.world.answer_authorize(0, yes)

    @precondition(lambda self: self.world.announced)
    @rule(yes=st.booleans())
    def answer_announce(self, yes: bool) -> None:
        self.world.answer_announce(0, yes)

    @rule(seconds=st.sampled_from((0, 0, 0.125, 0.5, 1, 2)))
    def tick(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(most_members=st.integers(1, 3))
    def share(self, most_members: int) -> None:
        self.world.share(most_members)

    @rule(turns_too=st.booleans())
    def ready(self, turns_too: bool) -> None:
        self.world.ready(turns_too=turns_too)

    @rule(client=clients)
    def pull(self, client: int) -> None:
        self.world.pull(client)

    @rule(most_members=st.integers(1, 3))
    def flush(self, most_members: int) -> None:
        self.world.flush(most_members)

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(dice=st.integers(0, 9))
    def drain(self, dice: int) -> None:
        if dice == 9:
            self.world.drain()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            for client in list(self.world.peers):
                self.world.disconnect(client)
            self.world.check()
            assert not self.world.hub.rooms()
            assert self.world.hub.is_settled
            assert not len(self.world.hub._deadlines)


TestHub = HubMachine.TestCase
TestHub.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
