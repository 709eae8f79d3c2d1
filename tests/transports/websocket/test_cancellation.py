"""Row 65: cancelled at any point of connect, serve and stop, nothing is left."""

import gc

import anyio
import pytest
from anyio.lowlevel import checkpoint

from roomhub import Runtime
from roomhub.testing import ManualClock
from roomhub.transports.websocket import Server, serve
from tests.transports.websocket.support import Driver, Peer, World, chat, open_files, until

pytestmark = pytest.mark.anyio


class Life:
    """A whole one: start, two clients that come, talk and go, a third that stays until the stop, the stop."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.clock = ManualClock()
        self.runtime = Runtime(clock=self.clock)
        self.server: Server | None = None

    async def live(self) -> None:
        peers: list[Peer] = []
        try:
            async with (
                anyio.create_task_group() as tasks,
                self.runtime,
                serve(self.runtime, port=0, driver=self.driver) as server,
            ):
                self.server = server
                world = World(self.runtime, server, self.clock)
                world.peers = peers
                ann, bob, eve = await world.room_of("ann", "bob", "eve")
                await ann.say("hi")
                for peer in (ann, bob, eve):
                    assert await peer.receive() == chat("ann", "hi")
                ann.disconnect()
                await bob.receive()
                self.runtime.kick("bob")
                await bob.closed()
                tasks.start_soon(eve.closed)
        finally:
            for peer in peers:
                peer.sock.close()

    async def cut_short(self, turns: int) -> bool:
        """Live it, cancelled after so many turns of the event loop; True if it ended before that."""
        life = anyio.CancelScope()
        flow = anyio.CancelScope(shield=True)

        async def cancel() -> None:
            for _ in range(turns):
                await checkpoint()
            life.cancel()

        async def let_time_pass() -> None:
            # Peers that were cancelled too answer nobody, and the server's goodbye waits for them.
            with flow:
                while True:
                    await checkpoint()
                    if life.cancel_called:
                        self.clock.advance(0.5)

        ended = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            tasks.start_soon(let_time_pass)
            with life:
                await self.live()
                ended = True
            flow.cancel()
            tasks.cancel_scope.cancel()
        return ended

    def check_that_nothing_is_left(self) -> None:
        assert self.runtime.hub.is_empty
        assert self.runtime.rooms() == ()
        assert self.runtime._timers == []
        if self.server is not None:
            assert self.server.connections == 0
            assert len(self.server._service.deadlines) == 0
            assert not self.server._service.live


async def test_cancelled_at_any_turn_of_the_loop_nothing_is_left(driver: Driver) -> None:
    gc.collect()
    files = open_files()
    tasks_before = len(anyio.get_running_tasks())
    turns = 0
    ended = False
    while not ended:
        life = Life(driver)
        with anyio.fail_after(20):
            ended = await life.cut_short(turns)
        life.check_that_nothing_is_left()
        # asyncio's transports close a turn later, and so do tasks of its own.
        await until(lambda: open_files() <= files and len(anyio.get_running_tasks()) <= tasks_before)
        turns += 1
        assert turns < 1_000
    assert turns > 10
