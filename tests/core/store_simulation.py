"""A hub, its store and their restarts, simulated: the guarantees of v1 where messages outlive the process.

    python -m tests.core.store_simulation --seed 7 --steps 3000

The store is a model: it commits late, fails, refuses, does not answer, answers pages late; and the process is killed,
so that the next one begins with what was committed and reserved. Clients resume from what they have seen, over all of
it. Judged is what they saw:

* no place, an epoch and an offset, ever has two messages (G1);
* what a client sees is contiguous but for gaps that it is told (G2), and a gap never covers what was stored (G3);
* what got an ``ok`` is in the store, and a key that got one gets the same place again (G4);
* a ban or mute that got an ``ok`` is in force after a restart, and one that was lifted with an ``ok`` is not.
"""

import argparse
import json
import math
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from random import Random
from typing import Any

from roomhub.core.commands import Drain
from roomhub.core.effects import Authorize, Close, Impose, Lift, Load, Moderated, Store
from roomhub.core.events import (
    Authorized,
    Blocked,
    Connected,
    Disconnected,
    Loaded,
    Received,
    Stored,
    StoreFailed,
    Ticked,
    Writable,
)
from roomhub.core.hub import Hub
from roomhub.core.identity import Identity
from roomhub.core.limits import Limits
from roomhub.core.sanctions import Sanction
from roomhub.core.session import State
from roomhub.core.storage import Page, Report, Snapshot, StoredGap, StoredKey, StoredMessage, StoredRoom
from tests.core.playbook import V1, frames

__all__ = ["StoreSimulation", "run"]

ROOMS = ("a", "b")
USERS = ("Ann", "Ben", "Cy")
OUTSIDERS = ("Dee", "Eve")
"""They are banned and muted, and never come."""
RESERVE = 6


class Shelf:
    """What the file has: rows that survive a kill."""

    def __init__(self) -> None:
        self.epochs: dict[str, str] = {}
        self.last: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self.messages: dict[str, dict[int, StoredMessage]] = {}
        self.keys: dict[tuple[str, str, str], StoredKey] = {}
        self.sanctions: dict[tuple[str, str, str], Sanction] = {}

    def snapshot(self) -> Snapshot:
        """As after a kill: what was reserved may have been used."""
        for room in self.epochs:
            self.last[room] = self.reserved[room]
            self.reserved[room] += RESERVE
        rooms = [
            StoredRoom(room, epoch, self.last[room], self.reserved[room], 0) for room, epoch in self.epochs.items()
        ]
        return Snapshot(rooms, list(self.keys.values()), list(self.sanctions.values()))

    def reserve(self, room: str, epoch: str, in_use: int) -> dict[tuple[str, str], int]:
        if room not in self.epochs:
            self.epochs[room], self.last[room], self.reserved[room], self.messages[room] = epoch, 0, 0, {}
        if self.epochs[room] == epoch and self.reserved[room] - in_use < RESERVE / 2:
            self.reserved[room] = in_use + RESERVE
            return {(room, epoch): self.reserved[room]}
        return {}

    def take(self, order: Impose) -> None:
        if isinstance(order, Lift):
            self.sanctions.pop(order.sanction[:3], None)
        else:
            self.sanctions[order.sanction[:3]] = order.sanction

    def commit(self, message: StoredMessage) -> dict[tuple[str, str], int]:
        reserved = self.reserve(message.room, message.epoch, message.offset)
        assert self.epochs[message.room] == message.epoch, "what is stored is of the epoch that the store has"
        assert message.offset > self.last[message.room], "in order"
        self.last[message.room] = message.offset
        self.messages[message.room][message.offset] = message
        if message.key is not None:
            assert (message.room, message.user, message.key) not in self.keys, "one key, one message"
            place = (message.epoch, message.offset, message.ts_ms)
            self.keys[message.room, message.user, message.key] = StoredKey(
                message.room, message.user, message.key, *place
            )
        return reserved

    def page(self, load: Load) -> Page:
        messages = self.messages.get(load.room, {})
        first, last = (load.after or 0) + 1, min(self.last.get(load.room, 0), (load.before or 10**9) - 1)
        found = [messages[offset] for offset in range(first, last + 1) if offset in messages]
        missing = last + 1 - first - len(found)
        most = min(load.limit, 1 + int(load.most_bytes // 200))
        more = len(found) > most
        found = found[-most:] if load.after is None else found[:most]
        if more and load.after is None:
            first = found[0].offset
        elif more:
            last = found[-1].offset
        gaps = [StoredGap(offset, offset, "lost") for offset in range(first, last + 1) if offset not in messages]
        return Page(found, gaps, more, max(0, missing))


class Client:
    """One user's client over all its connections."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.handle = ""
        self.secret = "none yet"
        self.positions: dict[str, tuple[str, int]] = {}
        self.pending: dict[str, tuple[str, str, str]] = {}  # by id: room, content, key
        self.moderating: dict[str, tuple[str, str, str]] = {}  # by id: kind, user, room
        self.blocked = False
        self.welcomed = False


class StoreSimulation:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.limits = Limits(
            log_messages=random.choice((1, 3, 10)),
            chunk_bytes=random.choice((1, 300, 4_000)),
            history_page=random.choice((2, 5)),
            v1_lag_messages=random.choice((4, 100)),
            room_linger_s=random.choice((0, 5)),
            rooms=random.choice((4, 100)),
            history_timeout_s=random.choice((2, math.inf)),
            message_burst=10**6,
            join_burst=10**6,
            error_burst=10**6,
            ping_interval_s=10**6,
            pong_timeout_s=10**7,
            key_ttl_s=10**6,
            session_ttl_s=10,
        )
        self.now = 0.0
        self.number = 0
        self.shelf = Shelf()
        self.clients = [Client(user) for user in USERS]
        self.places: dict[tuple[str, str, int], str] = {}
        self.acknowledged: dict[str, tuple[str, str, int]] = {}
        self.by_key: dict[tuple[str, str, str], tuple[str, int]] = {}
        # By kind, user and room: what was done from the last on that is known to be stored; "" stands for nothing.
        self.sanctions: dict[tuple[str, str, str], list[tuple[str, bool]]] = {}
        self.begin()

    # -- the process ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A process starts on what the file has."""
        self.counts["starts"] += 1
        self.hub: Hub[str] = Hub(
            epoch=f"run{self.counts['starts']}", limits=self.limits, slow=self.random.choice(("close", "skip"))
        )
        self.hub.restore(self.shelf.snapshot(), reserve=RESERVE, now=self.now)
        self.check_sanctions()
        self.queue: deque[tuple[StoredMessage | Impose, Hashable]] = deque()
        self.loads: deque[Load] = deque()
        self.short: dict[tuple[str, str], int] = {}
        self.is_stuck = False

    def check_sanctions(self) -> None:
        """After a restart: each as it was when it was last stored for certain, or as it was left since."""
        held = self.hub.sanctions(self.now)
        now: dict[tuple[str, str, str], str] = {(each.kind, each.user, each.room): each.reason for each in held}
        assert set(now) <= set(self.sanctions)
        for key, done in self.sanctions.items():
            found = [(number, holds) for number, holds in done if now.get(key) == (number if holds else None)]
            assert found, f"{key} is {now.get(key)}, and it was {done}"
            self.sanctions[key] = found[-1:]

    def kill(self) -> None:
        """What was not committed is gone, and so are the connections."""
        for client in self.clients:
            client.handle, client.welcomed, client.blocked = "", False, False
            client.moderating.clear()
        self.begin()

    def stop(self) -> None:
        """In good order: what was taken is written."""
        self.do(Drain())
        self.is_stuck = False
        while self.queue:
            self.commit()
        self.kill()

    def do(self, item: Any) -> None:
        for effect in self.hub.handle(item, self.now):
            if isinstance(effect, Store):
                room = max(0, 12 - len(self.queue))
                self.queue.extend(list(zip(effect.messages, effect.refs, strict=True))[:room])
                if room < len(effect.messages):
                    for message in effect.messages[room:]:
                        self.note_short(message)
                    self.counts["refused"] += 1
                    self.do(StoreFailed([ref for ref in effect.refs[room:] if ref is not None], "full"))
            elif isinstance(effect, Impose):
                if len(self.queue) >= 12:
                    self.do(StoreFailed([effect.ref], "full"))
                else:
                    self.queue.append((effect, effect.ref))
            elif isinstance(effect, Authorize):
                self.do(Authorized(effect.client, effect.room, effect.ref))
            elif isinstance(effect, Moderated):
                kind = "mute" if effect.action.endswith("mute") else "ban"
                done = self.sanctions.setdefault((kind, effect.user, effect.room), [("", False)])
                done.append((effect.reason, not effect.action.startswith("un")))
            elif isinstance(effect, Load):
                if len(self.loads) > 20:
                    self.do(Loaded(effect.ref, None, "too many"))
                else:
                    self.loads.append(effect)
            elif isinstance(effect, Close):
                self.close(effect.client)

    def close(self, handle: str) -> None:
        client = next((client for client in self.clients if client.handle == handle), None)
        if client is not None and not client.blocked:
            self.pull(client)
        if client is not None:
            client.handle, client.welcomed, client.blocked = "", False, False
        self.counts["closed"] += 1
        self.do(Disconnected(handle))

    # -- the store ----------------------------------------------------------------------------------------------------

    def note_short(self, message: StoredMessage) -> None:
        place = (message.room, message.epoch)
        self.short[place] = max(self.short.get(place, 0), message.offset)

    def commit(self) -> None:
        if self.is_stuck:
            return
        batch = [self.queue.popleft() for _ in range(min(len(self.queue), self.random.choice((1, 3, 9))))]
        refs = [ref for _, ref in batch if ref is not None]
        if batch and self.random.random() < 0.1:
            for item, _ in batch:
                if isinstance(item, StoredMessage):
                    self.note_short(item)
            self.counts["failed"] += 1
            self.answer(StoreFailed(refs, "disk"))
            return
        reserved: dict[tuple[str, str], int] = {}
        for item, _ in batch:
            if isinstance(item, StoredMessage):
                reserved |= self.shelf.commit(item)
            else:
                self.shelf.take(item)
        if batch:
            self.counts["commits"] += 1
            self.answer(Stored(refs, reserved))

    def answer(self, report: Report) -> None:
        self.do(report)

    def heal(self) -> None:
        """The store reserves of its own accord what it is short of."""
        if self.is_stuck or self.queue:
            return
        reserved: dict[tuple[str, str], int] = {}
        for (room, epoch), offset in self.short.items():
            reserved |= self.shelf.reserve(room, epoch, max(offset, self.shelf.last.get(room, 0)))
        self.short.clear()
        if reserved:
            self.counts["healed"] += 1
            self.do(Stored((), reserved))

    def bring(self) -> None:
        """A page, which sees all that was appended before it was asked for."""
        if not self.loads or self.is_stuck:
            return
        load = self.loads.popleft()
        if self.random.random() < 0.07:
            self.counts["pages failed"] += 1
            self.do(Loaded(load.ref, None, "disk"))
            return
        while self.queue and not self.is_stuck:
            self.commit()
        self.counts["pages"] += 1
        self.do(Loaded(load.ref, self.shelf.page(load)))

    # -- the clients --------------------------------------------------------------------------------------------------

    def somebody(self) -> Client:
        return self.random.choice(self.clients)

    def connect(self) -> None:
        client = self.somebody()
        if client.handle:
            return
        self.number += 1
        client.handle = f"{client.user}{self.number}"
        secret = f"secret{self.number}"
        self.do(Connected(client.handle, V1, "", secret=secret, identity=Identity(user=client.user)))
        rooms = {room: {"epoch": epoch, "offset": offset} for room, (epoch, offset) in client.positions.items()}
        for room in ROOMS:
            rooms.setdefault(room, {"epoch": "", "offset": 0})
        resume = {"session": client.secret, "rooms": rooms}
        client.secret = secret
        client.pending = {id_: asked for id_, asked in client.pending.items() if asked[2]}
        self.say(client, type="hello", id="hello", resume=resume)
        # What was not answered is sent again: it has a key.
        for id_, (room, content, key) in list(client.pending.items()):
            if client.handle:
                self.say_again(client, id_, room, content, key)

    def say_again(self, client: Client, id_: str, room: str, content: str, key: str) -> None:
        if room.startswith("@"):
            self.say(client, type="dm", id=id_, to=room[1:], content=content, key=key)
        else:
            self.say(client, type="chat", id=id_, room=room, content=content, key=key)

    def say(self, client: Client, **fields: Any) -> None:
        self.do(Received(client.handle, json.dumps(fields)))

    def talk(self) -> None:
        client = self.somebody()
        if client.handle and self.hub.state_of(client.handle) is State.OPEN:
            self.number += 1
            room = self.random.choice((*ROOMS, *ROOMS, f"@{self.random.choice(USERS)}"))
            content = f"m{self.number}"
            key = content if self.random.random() < 0.8 else ""
            client.pending[content] = (room, content, key)
            fields: Mapping[str, Any] = {"key": key} if key else {}
            kind = {"type": "dm", "to": room[1:]} if room.startswith("@") else {"type": "chat", "room": room}
            self.say(client, id=content, content=content, **kind, **fields)

    def moderate(self) -> None:
        client = self.somebody()
        if client.handle and self.hub.state_of(client.handle) is State.OPEN:
            self.number += 1
            action, user = self.random.choice(("ban", "unban", "mute", "unmute")), self.random.choice(OUTSIDERS)
            room = self.random.choice(("", *ROOMS))
            where = {"room": room} if room else {}
            id_ = f"mod{self.number}"
            client.moderating[id_] = ("mute" if action.endswith("mute") else "ban", user, room)
            self.say(client, type="mod", id=id_, action=action, user=user, reason=id_, **where)

    def vanish(self) -> None:
        client = self.somebody()
        if client.handle:
            handle, client.handle, client.welcomed, client.blocked = client.handle, "", False, False
            self.do(Disconnected(handle))

    def block(self) -> None:
        client = self.somebody()
        if client.handle:
            client.blocked = True
            self.do(Blocked(client.handle))

    def unblock(self) -> None:
        client = self.somebody()
        if client.handle and client.blocked:
            client.blocked = False
            self.do(Writable(client.handle))

    def stick(self) -> None:
        self.is_stuck = not self.is_stuck

    def tick(self) -> None:
        self.now += self.random.choice((0, 0, 0.1, 1))
        self.do(Ticked())
        for handle in self.hub.ready():
            client = next((client for client in self.clients if client.handle == handle), None)
            if client is not None and not client.blocked:
                self.pull(client)

    def pull(self, client: Client) -> None:
        handle = client.handle
        while chunk := self.hub.pull(handle):
            for frame in frames(chunk):
                self.see(client, json.loads(frame))

    def see(self, client: Client, seen: dict[str, Any]) -> None:
        self.counts[f"see {seen['type']}"] += 1
        match seen["type"]:
            case "welcome":
                client.welcomed = True
                for room, place in seen["rooms"].items():
                    self.arrive(client, room, place)
            case "chat" | "dm":
                self.see_said(client, seen)
            case "gap":
                self.see_gap(client, seen)
            case "ok" if seen["id"] in client.moderating:
                done = self.sanctions[client.moderating.pop(seen["id"])]
                numbers = [number for number, _ in done]
                if seen["id"] in numbers:  # otherwise a later one is known to be stored
                    del done[: numbers.index(seen["id"])]
                self.counts["moderated"] += 1
            case "error" if seen.get("id") in client.moderating:
                del client.moderating[seen["id"]]
                self.counts[f"moderating: {seen['name']}"] += 1
            case "ok" if seen["id"] in client.pending:
                self.acknowledge(client, seen, *client.pending.pop(seen["id"]))
            case "error" if seen.get("id") in client.pending and seen["name"] != "internal":
                del client.pending[seen["id"]]
            case "error" if seen.get("id") in client.pending:
                # It was said, but is not stored; a repeat would be told the same.
                del client.pending[seen["id"]]

    def arrive(self, client: Client, room: str, place: Mapping[str, Any]) -> None:
        before = client.positions.get(room, ("", 0))
        self.counts[f"recovered {place['recovered']}"] += 1
        if place["recovered"] != "none":
            assert place["offset"] == before[1], "it goes on where the client stands"
            assert before[0] in ("", place["epoch"])
        elif place["epoch"] and before[0] == place["epoch"]:
            assert before[1] > place["offset"], "the same epoch is resumed, unless the position is of the future"
        if place["epoch"]:
            client.positions[room] = place["epoch"], place["offset"]
        else:
            client.positions.pop(room, None)  # a mailbox that nothing has been written to

    def see_said(self, client: Client, seen: Mapping[str, Any]) -> None:
        room, epoch, offset = seen["room"], seen["epoch"], seen["offset"]
        at = self.places.setdefault((room, epoch, offset), seen["content"])
        assert at == seen["content"], f"{room} {epoch}/{offset} is {at} to others, here {seen['content']}"
        before = client.positions.get(room, (epoch, 0))
        assert before[0] == epoch, "another epoch without a word"
        assert offset == before[1] + 1, f"{offset} follows {before[1]} in {room} without a gap"
        client.positions[room] = epoch, offset

    def see_gap(self, client: Client, seen: Mapping[str, Any]) -> None:
        room, epoch, first, last = seen["room"], seen["epoch"], seen["from"], seen["to"]
        reason = seen["reason"]
        self.counts[f"gap {reason}"] += 1
        before = client.positions.get(room, (epoch, 0))
        if reason != "epoch":
            assert before == (epoch, first - 1), f"a gap from {first} where the client stands at {before}"
        if reason == "lost":
            # A page that failed loses what it would have brought; without such, what is lost is not stored.
            stored = self.shelf.messages.get(room, {}) if self.shelf.epochs.get(room) == epoch else {}
            if not self.counts["pages failed"] and self.limits.history_timeout_s == math.inf:
                assert not any(first <= offset <= last for offset in stored), f"{first} to {last} of {room} is stored"
        client.positions[room] = epoch, last

    def acknowledge(self, client: Client, ok: Mapping[str, Any], room: str, content: str, key: str) -> None:
        place = (ok["epoch"], ok["offset"])
        stored = self.shelf.messages.get(room, {}).get(ok["offset"])
        assert stored is not None, f"{content} was acknowledged, and is not stored"
        assert (stored.epoch, stored.content) == (ok["epoch"], content)
        if key:
            assert self.by_key.setdefault((room, client.user, key), place) == place, f"{key} has two places"
        self.counts["acknowledged"] += 1

    def run(self, steps: int) -> "StoreSimulation":
        acts = {
            self.connect: 8,
            self.talk: 30,
            self.moderate: 4,
            self.vanish: 3,
            self.block: 2,
            self.unblock: 4,
            self.commit: 14,
            self.bring: 16,
            self.heal: 4,
            self.tick: 30,
            self.stick: 0.6,
            self.kill: 0.3,
            self.stop: 0.2,
        }
        for _ in range(steps):
            self.random.choices(list(acts), list(acts.values()))[0]()
        self.settle()
        return self

    def settle(self) -> None:
        """At last the store works, everybody reads, and all of them have seen the same."""
        self.is_stuck = False
        for _ in range(200):
            for client in self.clients:
                if client.blocked:
                    client.blocked = False
                    self.do(Writable(client.handle))
            if not all(client.handle for client in self.clients):
                self.connect()
            while self.queue:
                self.commit()
            self.bring()
            self.heal()
            self.now += 0.5
            self.tick()
        for name, room in self.hub._rooms.items():
            for client in self.clients:
                assert client.positions[name] == (room.epoch, room.offset), f"{client.user} in {name}"
        assert not self.loads
        assert all(not asked[2] for client in self.clients for asked in client.pending.values()), "no answer came"


def run(seed: int, steps: int) -> StoreSimulation:
    """Run one seed; what it raises says how to replay it."""
    simulation = StoreSimulation(seed)
    try:
        return simulation.run(steps)
    except Exception as error:
        raise AssertionError(
            f"seed {seed}: {error!r}; replay: python -m tests.core.store_simulation --seed {seed} --steps {steps}"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a hub with a store that fails, and its restarts.")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--seeds", default="1-20", help="from-to")
    parser.add_argument("--steps", type=int, default=3_000)
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    for seed in [arguments.seed] if arguments.seed is not None else range(int(first), int(last or first) + 1):
        simulation = run(seed, arguments.steps)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(simulation.counts.items()))
        print(f"seed {seed}: {counts}")


if __name__ == "__main__":
    main()
