"""A crowd of v1 clients in virtual time, some plain ones among them, from one seed.

    python -m tests.core.v1_simulation --seed 7 --steps 5000
    python -m tests.core.v1_simulation --seeds 1-200 --steps 5000

The first replays one seed, the second runs many. A step is one call of the hub. Each device knows what came over its
own wire and nothing else: it checks every frame as it arrives, keeps its positions and rosters as the protocol says,
and resumes from them later. The simulation beside it keeps ledgers of what may be true only once: which message has an
offset of an epoch, which roster a ``rev`` stands for, which offset a key got. Its insides are looked at now and then.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

from roomhub.core import errors
from roomhub.core.codec import Chunk, Lane, text_lane, wire_bytes
from roomhub.core.commands import Ban, CloseRoom, Dismiss, Drain, Enter, Exit, Kick, Mute, Publish, Unban, Unmute
from roomhub.core.delivery import LATER_BYTES
from roomhub.core.effects import Announce, Authorize, Close, Moderated, Probe, Report, Settle
from roomhub.core.errors import CloseReason
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
from roomhub.core.identity import Identity
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.core.message import Message, Position
from roomhub.core.room import Room
from roomhub.core.session import Session, State
from tests.core.playbook import TEXT, V1, check_shape, frames

__all__ = ["Failed", "Simulation", "run"]

USERS = ("Ann", "Ben", "Çelik", "Dora", "E,ve")
ROOMS = ("a", "b", "c", "d")
V1_TEXT = text_lane(JsonCodec(Limits()), v1=True)
GARBAGE = ("", "nonsense", "[1]", "{}", '{"type":"sing","id":"garbage"}', '{"type":"chat","room":7}')
CHECK_STEPS = 50
QUIET_STEPS = 1_500
QUIET_S = 9.0
NEEDS_ROOM = frozenset({"leave", "chat", "event", "typing", "presence", "members", "history"})
REFUSALS: Mapping[str, frozenset[str]] = {
    "hello": frozenset({"bad_request"}),
    "join": frozenset({"already_joined", "bad_request", "over_capacity", "forbidden", "rate_limited"}),
    "chat": frozenset({"unknown_room", "forbidden", "muted"}),
    "dm": frozenset({"over_capacity", "forbidden", "muted"}),
    "event": frozenset({"unknown_room", "muted"}),
    "typing": frozenset({"unknown_room", "muted"}),
    "presence": frozenset({"unknown_room", "muted"}),
    "mod": frozenset({"bad_request", "forbidden", "over_capacity"}),
    "history": frozenset({"unknown_room", "unrecoverable"}),
    "ping": frozenset(),
    **{kind: frozenset({"unknown_room"}) for kind in ("leave", "members")},
}
"""The errors that a request may get, beside those for too many of them and for those before hello."""


class Failed(AssertionError):
    """What a seed has shown, and how to see it again."""


class Said(NamedTuple):
    """What has an offset."""

    number: int
    user: str
    username: str
    content: str
    ts: int
    to: str


class Entry(NamedTuple):
    """How a device must hear that it is in a room: the reply, and the gap that follows it."""

    epoch: str
    head: int
    recovered: str
    offset: int
    gap: tuple[int, int, str] | None


class Log(NamedTuple):
    """A room's or mailbox's log before a call of the hub."""

    epoch: str
    head: int
    kept: tuple[int, ...]

    def entry(self, since: Position | None) -> Entry:
        """What G3 promises to who comes in with this position."""
        epoch, head, kept = self
        if since is None or (since.epoch == epoch and since.offset > head):
            return Entry(epoch, head, "none", head, None)
        if since.epoch != epoch and since != ("", 0):
            return Entry(epoch, head, "none", head, (1, head, "epoch") if head else None)
        first = kept[0] if kept else head + 1
        if first <= since.offset + 1:
            return Entry(epoch, head, "full", since.offset, None)
        return Entry(epoch, head, "partial", since.offset, (since.offset + 1, first - 1, "expired"))


class Arrival:
    """That a device has come into a room, which it will be told."""

    def __init__(self, log: Log, since: Position | None) -> None:
        self.log = log
        self.since = since
        self.is_left = False  # the program took it out again


class Asked:
    """A request that waits for its reply."""

    def __init__(self, kind: str, room: str, number: int = 0, key: str = "", **fields: Any) -> None:
        self.kind = kind
        self.room = room
        self.number = number
        self.key = key
        self.is_in = False  # the room, when the hub got it
        self.page: tuple[list[int], bool] | None = None  # of a history, what must come
        self.is_unrecoverable = False
        self.is_first_hello: bool = fields.get("is_first_hello", False)
        self.resume: str = fields.get("resume", "")


class Stay:
    """A device's time in one room, or with its mailbox: where it stands, and who it knows to be there."""

    def __init__(self, entry: Entry) -> None:
        self.epoch = entry.epoch
        self.offset = entry.offset
        self.gap = entry.gap
        self.replayed_until = entry.head
        self.rev: int | None = None  # of the last telling that came as a frame
        self.known_rev = 0  # of the roster, which a reply may have brought ahead of the frames
        self.roster: dict[str, Any] | None = None
        self.wants_roster = False  # it was told to skip
        self.is_left = False  # the program took it out, which nothing on the wire says


class Device:
    """One connection, with the memory of the one before it.

    Attributes:
        positions: where it stands in each room, of all its connections up to this one.
        held: what its transport has and the device has not seen yet; lost with the connection.
    """

    def __init__(self, client: int, user: str, lane: Lane, *, shares: bool) -> None:
        self.client = client
        self.user = user
        self.lane = lane
        self.shares = shares
        self.secret = f"secret {client}"
        self.talks = lane is not TEXT
        self.positions: dict[str, Position] = {}
        self.resumed_from: Device | None = None
        self.held: deque[str] = deque()
        self.blocked = False
        self.named = False
        self.closing: CloseReason | None = None
        self.is_dead = False
        self.is_deaf = False
        # What it sees
        self.frames = 0
        self.welcomed = False
        self.bye: dict[str, Any] | None = None
        self.stays: dict[str, Stay] = {}
        self.pending: dict[int, Asked] = {}
        self.number = 0
        # What the simulation expects for it
        self.arrivals: dict[str, deque[Arrival]] = {}
        self.came_closing = False
        self.is_unsure = False
        self.ends: dict[str, deque[int]] = {}  # what was said last in each stay that is over
        self.wanted: dict[str, Position] = {}
        self.awaits: set[str] = set()
        self.has_said_hello = False
        # Of a plain client: the stays, and the chat it saw last in each room
        self.plain_entries: dict[str, deque[tuple[str, int]]] = {}
        self.plain_at: dict[str, tuple[str, int]] = {}
        self.plain_roster: dict[str, str] = {}


def limits_of(random: Random) -> Limits:
    """Bounds small enough to be hit."""
    pick = random.choice
    return Limits(
        auth_timeout_s=math.inf,
        lag_messages=pick((3, 8, 40)),
        v1_lag_messages=pick((2, 5, 12, 60)),
        lag_bytes=pick((1_500, 20_000, 1_000_000)),
        chunk_bytes=pick((1, 200, 600, 4_000)),
        direct_bytes=pick((900, 3_000, 100_000)),
        log_messages=pick((1, 4, 8, 8, 20)),
        log_age_s=pick((math.inf, math.inf, 6)),
        write_timeout_s=pick((2, 6)),
        ping_interval_s=4,
        pong_timeout_s=7,
        idle_timeout_s=pick((math.inf, math.inf, 20)),
        hello_timeout_s=3,
        message_rate_per_s=pick((math.inf, math.inf, math.inf, 3)),
        message_burst=pick((6, 20)),
        join_rate_per_s=pick((1, 20, 20)),
        join_burst=pick((5, 50)),
        error_burst=pick((5, 50, 1_000)),
        rooms_per_client=pick((2, 4)),
        rooms=pick((3, 5, 100, 100)),
        room_linger_s=pick((0, 3, 10)),
        connections=25,
        presence_batch_members=pick((1, 3, 100)),
        presence_grace_s=pick((0, 2, 6)),
        presence_interval_s=pick((0, 0.25, 0.5)),
        typing_interval_s=1,
        typing_timeout_s=2,
        history_page=pick((3, 10)),
        session_ttl_s=pick((3, 15)),
        sessions=pick((2, 5, 100)),
        key_ttl_s=pick((2, 8)),
        sanctions=pick((2, 100)),
    )


class Simulation:
    """One seed: a hub, its crowd, and the ledgers.

    Attributes:
        steps: how many calls of the hub there were.
        counts: what happened how often, by name; so that tests can tell that it happens at all.
    """

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.limits = limits_of(random)
        self.skips = random.random() < 0.5
        self.hub: Hub[int] = Hub(epoch="s", limits=self.limits, slow="skip" if self.skips else "close")
        self.hub.reports = True
        self.hub.announces = random.random() < 0.25
        self.hub.authorizes = random.random() < 0.25
        self.vouches = random.random() < 0.5
        self.share_rate = random.choice((0.0, 0.3, 1.0))
        self.most_members = random.choice((1, 2, 64))
        self.now = 0.0
        self.ticked_at = 0.0
        self.wall_ms = 1_000_000
        self.steps = 0
        self.is_finishing = False
        self.counts: Counter[str] = Counter()
        self.devices: dict[int, Device] = {}
        self.memories: list[Device] = []
        self.used_secrets: set[str] = set()
        self.next_client = 0
        self.next_number = 0
        self.asked: list[tuple[int, str]] = []
        self.announced: list[tuple[Message, Any]] = []
        self.moderating: list[Authorize[int]] = []
        # The ledgers
        self.said: dict[tuple[str, str], list[Said]] = {}
        self.places: dict[int, tuple[str, str, int]] = {}
        self.authors: dict[int, int] = {}  # by number: the client
        self.keyed: dict[int, str] = {}
        self.keys: dict[tuple[str, str, str], tuple[int, float]] = {}
        self.rosters: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.epochs: dict[str, str] = {}
        self.last_of: dict[tuple[str, str, int], int] = {}
        self.events: dict[int, tuple[str, str]] = {}
        self.here: dict[str, set[str]] = {}
        self.settled: set[object] = set()
        self.sanctions: dict[tuple[str, str, str], float] = {}  # by kind, user, room: when it ends, Unix ms
        self.acts = {
            self.connect: 6,
            self.talk: 40,
            self.flood: 1,
            self.hear: 5,
            self.block: 3,
            self.unblock: 6,
            self.vanish: 2,
            self.hang_up: 5,
            self.read: 6,
            self.publish: 4,
            self.enter: 2,
            self.exit: 1,
            self.kick: 0.7,
            self.moderate: 0.7,
            self.close_room: 0.4,
            self.dismiss: 0.2,
            self.tick: 9,
            self.jump: 0.5,
            self.set_clock: 0.5,
            self.share: 7,
            self.ready: 5,
            self.pull: 7,
            self.flush: 4,
            self.answer: 9,
        }

    def run(self, steps: int) -> "Simulation":
        acts, weights = list(self.acts), list(self.acts.values())
        next_check, next_quiet = 0, QUIET_STEPS
        while self.steps < steps:
            self.random.choices(acts, weights)[0]()
            if self.steps >= next_check:
                self.check()
                next_check = self.steps + CHECK_STEPS
            if self.steps >= next_quiet:
                self.be_quiet()
                next_quiet = self.steps + QUIET_STEPS
        self.is_finishing = True
        self.finish()
        return self

    # -- what the crowd does ----------------------------------------------------------------------------------------

    def live(self) -> list[Device]:
        return [device for device in self.devices.values() if device.closing is None]

    def somebody(self) -> Device | None:
        found = self.live()
        return self.random.choice(found) if found else None

    def connect(self) -> None:
        random = self.random
        if len(self.devices) > 16 and random.random() < 0.8:
            return
        self.next_client += 1
        is_plain = random.random() < 0.2
        user = random.choice(USERS[:4] if is_plain else USERS)
        lane = TEXT if is_plain else V1 if random.random() < 0.7 else V1_TEXT
        device = Device(self.next_client, user, lane, shares=random.random() < self.share_rate)
        device.is_deaf = random.random() < 0.1
        rooms = random.sample(ROOMS, random.choice((1, 1, 2)) if is_plain else random.choice((0, 0, 0, 1)))
        self.devices[device.client] = device
        self.counts["connected"] += 1
        secret = device.secret if device.talks else ""
        identity = Identity(user=user) if self.vouches else None
        self.do(Connected(device.client, lane, user, rooms, shares=device.shares, secret=secret, identity=identity))
        if device.talks and random.random() < 0.9:
            self.hello(device)

    def hello(self, device: Device) -> None:
        """Fresh, or from what an earlier connection of this user has seen; sometimes from what nobody has."""
        random = self.random
        resume: dict[str, Any] | None = None
        before = [other for other in self.memories if other.user == device.user]
        if not device.has_said_hello:
            device.wanted = {}
            if before and random.random() < 0.75:
                old = random.choice(before[-4:])
                device.positions = dict(old.positions)
                device.resumed_from = old
                secret, positions = old.secret, dict(device.positions)
                if random.random() < 0.1:
                    secret = random.choice(("forged", random.choice(self.memories).secret))
                if random.random() < 0.15:
                    positions |= {random.choice((*ROOMS, "a b", f"@{device.user}", "@Ann")): self.wrong_position()}
                resume = {
                    "session": secret,
                    "rooms": {room: position._asdict() for room, position in positions.items()},
                }
                device.wanted = positions
        session = self.hub._sessions.get(device.client)
        is_first = not device.has_said_hello and session is not None and session.state is State.GREETING
        asked = Asked("hello", "", is_first_hello=is_first, resume=resume["session"] if resume else "")
        refused = self.counts["error rate_limited"]
        fields: dict[str, Any] = {"resume": resume} if resume else {}
        self.ask(device, asked, **fields)
        if is_first and self.counts["error rate_limited"] == refused:
            device.has_said_hello = True

    def wrong_position(self) -> Position:
        random = self.random
        epochs = list(self.epochs)
        epoch = random.choice(("", "bogus", *epochs[-3:]))
        return Position(epoch, random.choice((0, 1, 2, 5, 50)))

    def talk(self) -> None:
        device = self.somebody()
        if device is not None:
            self.say(device)

    def flood(self) -> None:
        device = self.somebody()
        for _ in range(self.random.choice((5, 15))):
            if device is not None and device.closing is None:
                self.say(device)

    def say(self, device: Device) -> None:
        random = self.random
        if not device.talks:
            self.do(Received(device.client, self.content(device)[1]))
            return
        if not device.has_said_hello:
            if random.random() < 0.9:
                self.hello(device)
            else:
                self.ask(device, Asked("ping", ""))
            return
        if device.awaits:
            self.ask(device, Asked("ping", ""))  # what else it said would depend on the answer
            return
        inside = [room for room in device.stays if not room.startswith("@")]
        room = random.choice(inside) if inside and random.random() < 0.93 else random.choice((*ROOMS, "a b"))
        weights = {
            "join": 3 if len(inside) > 1 else 12 if inside else 100,
            "leave": 1.2,
            "chat": 22,
            "dm": 4,
            "event": 3,
            "typing": 3,
            "presence": 1.5,
            "members": 2,
            "history": 3,
            "ping": 1,
            "mod": 1.5,
            "hello": 0.3,
            "garbage": 0.4,
        }
        kind = random.choices(list(weights), list(weights.values()))[0]
        match kind:
            case "join":
                self.join(device)
            case "chat" | "dm":
                self.write(device, kind, room)
            case "event":
                self.next_number += 1
                self.events[self.next_number] = (room, device.user)
                name = random.choice(("cursor", "wave"))
                self.ask(device, Asked(kind, room), room=room, name=name, content=f"{self.next_number}")
            case "typing":
                self.ask(device, Asked(kind, room), room=room, state=random.choice(("start", "start", "stop")))
            case "presence":
                self.ask(device, Asked(kind, room), room=room, meta={"mood": random.randrange(4)})
            case "members" | "leave":
                self.ask(device, Asked(kind, room), room=room)
            case "history":
                self.page(device, random.choice((room, room, f"@{device.user}")))
            case "ping":
                self.ask(device, Asked(kind, ""))
            case "mod":
                action, user = random.choice(("kick", "ban", "unban", "mute", "unmute")), random.choice(USERS)
                room = "" if random.random() < 0.2 else room
                if self.sanctions and random.random() < 0.5:
                    sanction, user, room = random.choice(list(self.sanctions))
                    action = f"un{sanction}"
                where: dict[str, Any] = {"room": room} if room else {}
                is_timed = random.random() < (0.8 if action in ("ban", "mute") else 0.05)
                end: dict[str, Any] = {"for_ms": random.choice((100, 2_000))} if is_timed else {}
                self.ask(device, Asked(kind, ""), action=action, user=user, **where, **end)
            case "hello":
                self.hello(device)
            case "garbage":
                self.do(Received(device.client, random.choice(GARBAGE)))

    def join(self, device: Device) -> None:
        random = self.random
        room = random.choice((*ROOMS, *ROOMS, "a b"))
        fields: dict[str, Any] = {"room": room}
        since: Position | None = None
        if room in device.positions and random.random() < 0.7:
            since = device.positions[room]
        elif random.random() < 0.3:
            since = self.wrong_position()
        if since is not None:
            fields["since"] = since._asdict()
        if random.random() < 0.3:
            fields["history"] = random.choice((0, 2, 100))
        if random.random() < 0.7:
            fields["presence"] = True
        if random.random() < 0.3:
            fields["meta"] = {"mood": random.randrange(4)}
        if self.state_of(device) is State.OPEN and room not in device.awaits:
            device.wanted.pop(room, None)
            if since is not None:
                device.wanted[room] = since
        self.ask(device, Asked("join", room), **fields)

    def write(self, device: Device, kind: str, room: str) -> None:
        random = self.random
        number, content = self.content(device)
        to = random.choice(USERS)
        where = room if kind == "chat" else f"@{to}"
        fields: dict[str, Any] = {"room": room} if kind == "chat" else {"to": to}
        key = ""
        if random.random() < 0.4:
            # Few keys: so that most of them are used again, by another device of the user's too.
            key = fields["key"] = self.keyed[number] = f"k{random.randrange(2)}"
        has_id = random.random() < 0.7
        self.ask(device, Asked(kind, where, number, key), has_id=has_id, content=content, **fields)

    def page(self, device: Device, room: str) -> None:
        random = self.random
        asked = Asked("history", room)
        limit = random.choice((None, 1, 2, 100))
        fields: dict[str, Any] = {} if limit is None else {"limit": limit}
        count = int(min(limit or math.inf, self.limits.history_page))
        log = self.log_of(room)
        kept = () if log is None else log.kept
        head = 0 if log is None else log.head
        if random.random() < 0.5:
            before = fields["before"] = random.randrange(head + 3)
            found = [offset for offset in reversed(kept) if offset < before]
        else:
            epoch = "" if log is None else log.epoch
            since = Position(epoch, random.randrange(head + 2)) if random.random() < 0.8 else self.wrong_position()
            fields["since"] = since._asdict()
            found = [offset for offset in kept if offset > since.offset]
            asked.is_unrecoverable = since.epoch != epoch and since != ("", 0)
        here = self.room_of(room)
        sizes = {record[3]: record[5] for record in here.log} if here else {}
        while count > 1 and sum(sizes[offset] for offset in found[:count]) > self.limits.chunk_bytes:
            count -= 1
        asked.page = found[:count], len(found) > count
        self.ask(device, asked, room=room, **fields)

    def content(self, device: Device | None) -> tuple[int, str]:
        self.next_number += 1
        self.authors[self.next_number] = 0 if device is None else device.client
        filler = self.random.choice(("", "", "é", "-" * 40))
        return self.next_number, f"{self.next_number}{filler}"

    def ask(self, device: Device, asked: Asked, *, has_id: bool = True, **fields: Any) -> None:
        has_id = has_id or asked.kind in ("hello", "join", "leave", "history", "members")
        session = self.hub._sessions.get(device.client)
        asked.is_in = session is not None and session.member_of(asked.room) is not None
        if has_id:
            device.number += 1
            fields["id"] = device.number
            device.pending[device.number] = asked
        self.counts[f"say {asked.kind}"] += 1
        self.do(Received(device.client, json.dumps({"type": asked.kind, **fields})))

    def hear(self) -> None:
        for device in self.live():
            if not device.is_deaf and self.random.random() < 0.8:
                self.do(Heard(device.client))

    def block(self) -> None:
        device = self.somebody()
        if device is not None:
            self.stall(device)

    def stall(self, device: Device) -> None:
        device.blocked = True
        device.named = False
        self.do(Blocked(device.client))

    def unblock(self) -> None:
        device = self.somebody()
        if device is not None:
            self.go_on(device)

    def go_on(self, device: Device) -> None:
        device.blocked = False
        self.do(Writable(device.client))

    def vanish(self) -> None:
        device = self.somebody()
        if device is not None and self.random.random() < 0.7:
            self.disconnect(device)

    def hang_up(self) -> None:
        """Whoever was told to close does, most of them after they have read what was left for them."""
        for device in [device for device in self.devices.values() if device.closing is not None]:
            if self.random.random() < 0.5:
                self.close(device)

    def close(self, device: Device) -> None:
        if self.random.random() < 0.8:
            self.pull_all(device)
            self.see_all(device)
            if device.talks:
                assert device.bye is not None, "a client that talks is said bye"
        self.disconnect(device)

    def disconnect(self, device: Device) -> None:
        if self.random.random() < 0.5:
            self.see_all(device)
        # What its transport still has never arrives.
        device.held.clear()
        device.is_dead = True
        del self.devices[device.client]
        self.do(Disconnected(device.client))
        assert self.hub.pull(device.client) == b""

    def read(self) -> None:
        device = self.somebody()
        if device is not None:
            self.see_all(device)

    # -- what the program and the runtime do ------------------------------------------------------------------------

    def publish(self) -> None:
        number, content = self.content(None)
        ref = number if self.random.random() < 0.5 else None
        self.do(Publish(self.random.choice(ROOMS), content, self.random.choice(("", "Bot", "Ann")), ref=ref))

    def enter(self) -> None:
        device = self.somebody()
        if device is not None:
            room = self.random.choice(ROOMS)
            if room not in device.awaits and self.state_of(device) is State.OPEN:
                device.wanted.pop(room, None)
            self.do(Enter(device.client, room))

    def exit(self) -> None:
        device = self.somebody()
        if device is not None:
            self.do(Exit(device.client, self.random.choice(ROOMS)))

    def kick(self) -> None:
        room = self.random.choice((None, *ROOMS, *ROOMS))
        reason = self.random.choice((errors.KICKED, errors.CLOSE_REASONS["banned"]))
        self.do(Kick(self.random.choice(USERS), room, close_reason=reason))

    def moderate(self) -> None:
        random = self.random
        user, room = random.choice(USERS), random.choice((None, *ROOMS, *ROOMS))
        kind = random.choice(("ban", "mute"))
        if random.random() < 0.3:
            self.sanctions.pop((kind, user, room or ""), None)
            self.do(Unban(user, room) if kind == "ban" else Unmute(user, room))
            return
        for_s = random.choice((0.1, 2, 2, math.inf))
        if (kind, user, room or "") not in self.in_force() and len(self.in_force()) >= self.limits.sanctions:
            return
        self.sanctions[kind, user, room or ""] = self.unix_ms() + for_s * 1000
        self.do((Ban if kind == "ban" else Mute)(user, room, for_s=for_s))

    def unix_ms(self) -> int:
        return self.hub._state.unix_ms(self.now)

    def in_force(self) -> dict[tuple[str, str, str], float]:
        now_ms = self.unix_ms()
        return {key: end for key, end in self.sanctions.items() if end > now_ms}

    def is_muted(self, user: str, room: str) -> bool:
        in_force = self.in_force()
        return ("mute", user, "") in in_force or ("mute", user, room) in in_force

    def close_room(self) -> None:
        self.do(CloseRoom(self.random.choice(ROOMS)))

    def dismiss(self) -> None:
        clients = self.random.sample(list(self.devices), min(len(self.devices), 3))
        self.do(Dismiss(clients, self.random.choice((errors.DRAINING, errors.KICKED))))

    def tick(self) -> None:
        self.advance(self.random.choice((0, 0, 1 / 64, 1 / 8, 1 / 2, 1)))

    def jump(self) -> None:
        """Over several deadlines at once, as after a machine slept."""
        self.advance(self.random.choice((2, 5, 9, 40)))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall_ms += int(seconds * 1000)
        self.ticked_at = self.now
        self.do(Ticked())
        assert self.hub.next_deadline() > self.now or seconds == 0 or self.has_zero_delays()

    def has_zero_delays(self) -> bool:
        """A delay of zero is over only at the next tick."""
        return not (self.limits.room_linger_s and self.limits.presence_interval_s and self.limits.presence_grace_s)

    def set_clock(self) -> None:
        self.wall_ms += self.random.choice((-50_000, -100, 10, 100_000))
        self.sanctions = self.in_force()  # a clock that is put back brings none of them back
        self.do(ClockSet(self.wall_ms))

    def answer(self) -> None:
        """Late, and in any order."""
        if self.announced and self.random.random() < 0.7:
            self.answer_announced(self.random.randrange(len(self.announced)))
        if self.asked and self.random.random() < 0.7:
            self.answer_asked(self.random.randrange(len(self.asked)))
        if self.moderating:
            self.answer_moderating(self.random.randrange(len(self.moderating)))

    def answer_announced(self, index: int) -> None:
        message, ref = self.announced.pop(index)
        if self.random.random() < 0.15:
            self.do(Refused(message, ref))
            return
        content = message.content + self.random.choice(("", "", "*"))
        own = Message(message.kind, message.room, message.user, message.username, content, to=message.to)
        self.do(Published(own, ref))

    def answer_moderating(self, index: int) -> None:
        order = self.moderating.pop(index)
        answer = Denied if self.random.random() < 0.3 else Authorized
        self.do(answer(order.client, order.room, order.ref))

    def answer_asked(self, index: int) -> None:
        client, room = self.asked.pop(index)
        self.do(Denied(client, room) if self.random.random() < 0.15 else Authorized(client, room))

    def share(self) -> bool:
        self.steps += 1
        share = self.hub.share(self.most_members)
        if share is None:
            return False
        assert share.chunk
        assert len(set(share.clients)) == len(share.clients) > 0
        for client in share.clients:
            device = self.devices[client]
            assert device.shares, "who pulls is handed nothing"
            assert device.closing is None
            assert not device.blocked, "a blocked client is handed nothing"
            assert not device.named, "who was told to pull is handed nothing"
            self.take(device, share.chunk)
        return True

    def ready(self) -> None:
        self.steps += 1
        names = self.hub.ready() if self.random.random() < 0.5 else self.hub.take_named()
        for client in names:
            device = self.devices[client]
            assert device.closing is None
            assert not device.blocked
            assert not device.named, "named twice before it has pulled all"
            device.named = True

    def pull(self) -> None:
        waiting = [device for device in self.devices.values() if device.named or device.closing is not None]
        device = self.random.choice(waiting) if waiting and self.random.random() < 0.9 else self.somebody()
        if device is None or device.blocked:
            return
        if self.random.random() < 0.5:
            self.pull_once(device)
        else:
            self.pull_all(device)
        if device.closing is None and self.random.random() < 0.15:
            self.stall(device)

    def pull_once(self, device: Device) -> bool:
        self.steps += 1
        chunk = self.hub.pull(device.client)
        self.take(device, chunk)
        session = self.hub._sessions[device.client]
        if not chunk:
            assert not session.has_more, "it is told that it has all"
        if not session.waiting:
            device.named = False
        return bool(chunk)

    def pull_all(self, device: Device) -> None:
        while self.pull_once(device):
            pass

    def take(self, device: Device, chunk: Chunk) -> None:
        texts = list(frames(chunk))
        if len(texts) > 1:
            assert wire_bytes(chunk) <= self.limits.chunk_bytes, "a chunk of several frames has its bound"
        device.held += texts
        if self.random.random() < 0.7:
            self.see_all(device)

    def flush(self) -> None:
        """As a runtime does at the end of a tick; then everybody who reads has all there is (G7)."""
        self.advance(0)
        while self.share():
            pass
        self.ready()
        self.hub_ready_all()
        for device in list(self.devices.values()):
            if device.named:
                self.pull_all(device)
            if not device.blocked:
                self.see_all(device)
        for device in self.live():
            if not device.blocked:
                self.check_has_all(device)

    def hub_ready_all(self) -> None:
        """``ready`` names each once, also if its dice took only who was named before."""
        self.steps += 1
        for client in self.hub.ready():
            assert not self.devices[client].named
            self.devices[client].named = True

    def check_has_all(self, device: Device) -> None:
        session = self.hub._sessions[device.client]
        assert not session.has_more, "somebody who reads has something to come"
        assert not any(device.arrivals.values()), "somebody who came in was not told"
        for member in session.members:
            room = member.room
            head = len(self.said.get((room.name, room.epoch), ()))
            if device.talks:
                stay = device.stays[room.name]
                assert (stay.epoch, stay.offset) == (room.epoch, head)
                assert not stay.wants_roster
            else:
                while self.begin_plain_stay(device, room.name):
                    pass  # nothing was said in those before
                assert device.plain_at[room.name] == (room.epoch, head)
        if device.talks:
            inside = {name for name, stay in device.stays.items() if not stay.is_left and not name.startswith("@")}
            assert inside == {member.room.name for member in session.members}
        waiting = {id_: asked for id_, asked in device.pending.items() if not self.may_wait(device, asked)}
        assert not waiting, f"no reply came: {[(id_, asked.kind) for id_, asked in waiting.items()]}"

    def may_wait(self, device: Device, asked: Asked) -> bool:
        """For the program's answer."""
        if device.awaits:
            return True  # all that it says meanwhile is held
        if asked.kind in ("chat", "dm"):
            return any(number_of(message.content) == asked.number for message, _ in self.announced)
        return False

    # -- one call of the hub ----------------------------------------------------------------------------------------

    def do(self, item: Any) -> None:
        hub = self.hub
        self.steps += 1
        client = getattr(item, "client", None)
        session = hub._sessions.get(client) if client is not None else None
        before = {} if session is None else {member.room.name: member for member in session.members}
        was_open = session is not None and session.state is State.OPEN
        was_live = isinstance(item, Received | Authorized | Enter) and session is not None and session.is_live
        names = [*hub._rooms, *(f"@{user}" for user in hub._state.mailboxes)]
        logs = {name: log for name in names if (log := self.log_of(name)) is not None}
        stays = [(other, member) for other, one in hub._sessions.items() if one.talk for member in one.members]
        owed = [(one, one.direct_bytes) for one in hub._sessions.values() if one.blocked]
        mailed = {user: (room.epoch, room.offset) for user, room in hub._state.mailboxes.items()}
        if isinstance(item, Exit) and item.room in before and type(item) is Exit:
            device = self.devices[item.client]
            arrivals = device.arrivals.get(item.room)
            if arrivals:
                arrivals[-1].is_left = True
            elif device.talks:
                device.stays[item.room].is_left = True
        if isinstance(item, Authorized) and item.client in self.devices:  # or Denied
            self.devices[item.client].awaits.discard(item.room if item.ref is None else "to moderate")
        for effect in hub.handle(item, self.now):
            self.obey(effect)
        self.look_at_mailboxes(mailed)
        self.look_for_banned()
        for other, member in stays:
            if member.gone and other in self.devices:
                end = len(self.said.get((member.room.name, member.room.epoch), ()))
                self.devices[other].ends.setdefault(member.room.name, deque()).append(end)
        if client is not None and client in self.devices:
            self.note_entries(self.devices[client], before, logs, was_open=was_open, was_live=was_live)
        for one, size in owed:
            if one.blocked and one.is_live:
                # G6: one reply over the bound, and no more.
                is_more = one.direct_bytes > size > self.limits.direct_bytes
                assert not is_more, "a blocked client's replies pile up"
        assert len(hub._state.ended) <= self.limits.sessions

    def obey(self, effect: Any) -> None:
        match effect:
            case Close():
                device = self.devices[effect.client]
                assert device.closing is None, "closed twice"
                device.closing = effect.reason
                device.named = device.blocked = False
                self.counts[f"close {effect.reason.name}"] += 1
            case Probe():
                device = self.devices[effect.client]
                assert device.closing is None
            case Authorize() if effect.action != "join":
                assert self.vouches, "nobody moderates of whom only a name is known"
                self.moderating.append(effect)
                self.devices[effect.client].awaits.add("to moderate")
            case Moderated():
                kind = "mute" if effect.action.endswith("mute") else "ban"
                assert effect.by != effect.user, "nobody moderates themselves"
                if effect.action in ("ban", "mute"):
                    self.sanctions[kind, effect.user, effect.room] = effect.until_ms or math.inf
                elif effect.action != "kick":
                    del self.sanctions[kind, effect.user, effect.room]
                self.counts[f"moderated {effect.action}"] += 1
            case Authorize():
                self.asked.append((effect.client, effect.room))
                self.devices[effect.client].awaits.add(effect.room)
            case Announce():
                self.announced.append((effect.message, effect.ref))
            case Report():
                self.note_report(effect.message)
            case Settle():
                assert effect.ref not in self.settled
                self.settled.add(effect.ref)
                if effect.position is not None:
                    assert isinstance(effect.ref, int)
                    assert self.places[effect.ref][1:] == effect.position
            case _:
                raise AssertionError(f"nobody asked for {effect!r}")

    def look_for_banned(self) -> None:
        """Who is banned is nowhere where it is."""
        for kind, user, room in self.in_force():
            if kind == "ban" and room:
                assert user not in self.hub.members(room), f"{user} is banned from {room}"
            elif kind == "ban":
                assert not any(session.is_live for session in self.hub._users.get(user, ())), f"{user} is banned"

    def note_report(self, message: Message) -> None:
        here = self.here.setdefault(message.room, set())
        if message.kind == "user_joined":
            assert message.username not in here
            here.add(message.username)
        elif message.kind == "user_left":
            here.remove(message.username)
        else:
            self.place(
                message.room, message.epoch, message.offset, message.user, message.content, message.ts_ms, message.to
            )

    def place(self, room: str, epoch: str, offset: int, user: str, content: str, ts: int, to: str) -> None:
        """A message has got its place: into the ledgers."""
        assert self.epochs.setdefault(epoch, room) == room, "an epoch is of one room"
        said = self.said.setdefault((room, epoch), [])
        assert offset == len(said) + 1, f"offset {offset} of {room} follows {len(said)}"
        assert not said or ts >= said[-1].ts, "the time of a room's messages never falls"
        number = number_of(content)
        author = self.authors[number]
        if author and not self.hub.announces:
            assert not self.is_muted(user, "" if to else room), f"{user} is muted and said {content}"
        if not to or room == f"@{to}":
            assert number not in self.places, f"{content} has two places"
            self.places[number] = (room, epoch, offset)
            key = self.keyed.get(number)
            if key is not None:
                owner = (room, user, key)
                first, end = self.keys.get(owner, (0, -math.inf))
                is_over = self.is_finishing  # the hub has ended, and nobody is told of it any more
                assert end <= self.now or is_over, f"{owner} got {offset}, though {first} is remembered"
                self.keys[owner] = offset, self.now + self.limits.key_ttl_s
        if author and not self.hub.announces:
            assert self.last_of.get((room, epoch, author), 0) < number, "a sender's messages keep their order"
            self.last_of[room, epoch, author] = number
        said.append(Said(number, user, user, content, ts, to))
        self.counts["dm placed" if to else "chat placed"] += 1

    def look_at_mailboxes(self, before: Mapping[str, tuple[str, int]]) -> None:
        """Nobody reports direct messages."""
        for user, room in self.hub._state.mailboxes.items():
            epoch, offset = before.get(user, ("", 0))
            grown = room.offset - (offset if epoch == room.epoch else 0)
            assert 0 <= grown <= 1, "one call, one direct message"
            if grown:
                author, _, content, at, ts, _, _, to = room.log[-1]
                self.place(room.name, room.epoch, at, author, content, ts, to)

    def note_entries(
        self, device: Device, before: Mapping[str, Any], logs: Mapping[str, Log], *, was_open: bool, was_live: bool
    ) -> None:
        """What the device is to be told of the rooms that it has come into in this call."""
        session = self.hub._sessions[device.client]
        if was_live and device.closing is not None:
            device.came_closing = True
        for member in session.members:
            room = member.room
            if before.get(room.name) is member:
                continue
            log = logs.get(room.name)
            if log is None or log.epoch != room.epoch:
                log = Log(room.epoch, 0, ())
            if device.talks:
                arrival = Arrival(log, device.wanted.get(room.name))
                device.arrivals.setdefault(room.name, deque()).append(arrival)
            else:
                device.plain_entries.setdefault(room.name, deque()).append((log.epoch, log.head))
        if device.talks and session.state is State.OPEN and not was_open:
            own = f"@{device.user}"
            log = logs.get(own, Log("", 0, ()))
            arrival = Arrival(log, device.wanted.get(own) if log.epoch else None)
            device.arrivals.setdefault(own, deque()).append(arrival)
            self.memories.append(device)

    def log_of(self, name: str) -> Log | None:
        room = self.room_of(name)
        return None if room is None else Log(room.epoch, room.offset, tuple(record[3] for record in room.log))

    def room_of(self, name: str) -> Room[int] | None:
        return self.hub._state.mailboxes.get(name[1:]) if name.startswith("@") else self.hub._rooms.get(name)

    def state_of(self, device: Device) -> State:
        return self.hub.state_of(device.client)

    # -- what a device sees -----------------------------------------------------------------------------------------

    def see_all(self, device: Device) -> None:
        while device.held:
            text = device.held.popleft()
            seen = json.loads(text)
            try:
                if device.talks:
                    self.see(device, seen)
                else:
                    self.see_plain(device, seen)
            except Exception as error:
                raise AssertionError(f"{device.client} ({device.user}) saw {text}: {error!r}") from error

    def see(self, device: Device, seen: dict[str, Any]) -> None:
        check_shape(seen)
        kind = seen["type"]
        assert device.bye is None, "after bye comes nothing"
        if device.came_closing and kind != "bye" and (kind in ("welcome", "ok") or device.is_unsure):
            # It came into a room and was closed in one call, so nothing is known of what it is told of that room.
            device.is_unsure = device.is_unsure or kind == "welcome" or "recovered" in seen
        if device.is_unsure and kind != "bye":
            return
        assert device.welcomed or kind in ("welcome", "error", "draining", "bye"), "welcome comes first"
        self.counts[f"see {kind}"] += 1
        match kind:
            case "welcome":
                self.see_welcome(device, seen)
            case "ok":
                self.see_ok(device, seen)
            case "error":
                self.see_error(device, seen)
            case "pong":
                if "id" in seen:
                    assert device.pending.pop(seen["id"]).kind == "ping"
            case "chat" | "dm":
                self.see_said(device, seen)
            case "gap":
                self.see_gap(device, seen)
            case "user_joined" | "user_left" | "presence":
                self.see_presence(device, seen)
            case "typing":
                assert seen["room"] in device.stays
                assert seen["user"] == seen["username"]
                assert seen["user"] in USERS
            case "event":
                assert seen["room"] in device.stays
                assert self.events[int(seen["content"])] == (seen["room"], seen["user"])
            case "kicked":
                self.end_stay(device, seen["room"])
            case "bye":
                reason = device.closing
                assert reason is not None
                assert (seen["code"], seen["name"], seen["retry"]) == (reason.code, reason.name, reason.retry)
                device.bye = seen
                if reason not in (errors.SLOW_CONSUMER, errors.NO_PONG) and not device.came_closing:
                    for name in [name for name in device.stays if not name.startswith("@")]:
                        self.end_stay(device, name)
                    assert not any(device.arrivals.values())
        device.frames += 1

    def see_welcome(self, device: Device, seen: dict[str, Any]) -> None:
        assert not device.welcomed
        device.welcomed = True
        asked = device.pending.pop(seen["id"])
        assert asked.kind == "hello"
        assert (seen["session"], seen["user"]) == (device.secret, device.user)
        if seen["resumed"]:
            old = next(old for old in self.memories if (old.secret, old.user) == (asked.resume, device.user))
            assert asked.resume not in self.used_secrets, "a secret is good once"
            self.used_secrets.add(asked.resume)
            assert old.is_dead or old.closing is not None, "who was resumed is closed"
            self.counts["resumed"] += 1
        for name, place in seen["rooms"].items():
            is_room = not name.startswith("@")
            assert set(place) == {"epoch", "offset", "recovered"} | ({"rev"} if is_room else set())
            stay = self.come_in(device, name, place)
            if is_room:
                # A roster that it might have of this rev is true still.
                stay.rev = stay.known_rev = place["rev"]
                stay.roster = self.rosters.get((name, stay.epoch, stay.rev))
        assert f"@{device.user}" in seen["rooms"]

    def come_in(self, device: Device, name: str, place: dict[str, Any]) -> Stay:
        arrival = device.arrivals[name].popleft()
        # What the program or the address wanted for it was not since anything.
        entry = arrival.log.entry(None if place.get("type") == "ok" and place.get("id") is None else arrival.since)
        told = (place["epoch"], place["offset"], place["recovered"])
        assert told == (entry.epoch, entry.offset, entry.recovered), f"{name} should be {entry}"
        old = device.stays.get(name)
        assert old is None or old.is_left, "it is in this room already"
        if old is not None:
            self.end_stay(device, name)
        stay = device.stays[name] = Stay(entry)
        device.positions[name] = Position(entry.epoch, entry.offset)
        stay.is_left = arrival.is_left
        self.counts[f"recovered {entry.recovered}"] += 1
        return stay

    def end_stay(self, device: Device, name: str) -> None:
        """It has heard all that was said until it left, or was put out."""
        stay, end = device.stays.pop(name), device.ends[name].popleft()
        assert stay.gap is None
        assert stay.offset == end, f"its stay in {name} ended at {end}, and it has seen {stay.offset}"
        self.counts["stays ended"] += 1

    def see_ok(self, device: Device, seen: dict[str, Any]) -> None:
        # One that nobody asked for is of a join that the program or the address wanted.
        asked = Asked("join", seen["room"]) if seen.get("id") is None else device.pending.pop(seen["id"])
        assert asked.is_in or asked.kind not in NEEDS_ROOM or asked.room == f"@{device.user}", "it is not in this room"
        match asked.kind:
            case "join":
                _, head, kept = device.arrivals[asked.room][0].log
                stay = self.come_in(device, seen["room"], seen)
                stay.rev = seen["rev"]
                if "users" in seen:
                    self.adopt(asked.room, stay, seen)
                if "messages" in seen:
                    offsets = [message["offset"] for message in seen["messages"]]
                    assert offsets == list(kept[-len(offsets) :] if offsets else ()), "history ends with the newest"
                    assert not offsets or offsets[-1] == head
                    self.check_messages(stay.epoch, seen["messages"])
            case "leave":
                self.end_stay(device, asked.room)
            case "chat" | "dm":
                self.see_receipt(device, asked, seen)
            case "members":
                self.adopt(asked.room, device.stays[asked.room], seen)
            case "history":
                assert not asked.is_unrecoverable, "a page of an epoch that is over"
                page = [message["offset"] for message in seen["messages"]], seen["more"]
                assert page == asked.page, f"the page should be {asked.page}"
                self.check_messages(seen["epoch"], seen["messages"])
                self.counts["pages"] += bool(page[0])
            case "hello" | "ping":
                raise AssertionError("this gets another reply")
            case _:
                assert set(seen) == {"type", "id"}

    def check_messages(self, epoch: str, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            assert message["epoch"] == epoch
            self.check_said(message)

    def see_receipt(self, device: Device, asked: Asked, seen: dict[str, Any]) -> None:
        at = (seen["room"], seen["epoch"], seen["offset"])
        assert seen["room"] == asked.room
        said = self.said[at[:2]][at[2] - 1]
        assert seen["ts"] == said.ts
        if seen.get("dup"):
            assert asked.number not in self.places, "a repeat has no place of its own"
            assert self.keyed[said.number] == asked.key, "the answer to a repeat is where the first stands"
            assert said.user == device.user
            self.counts["dup"] += 1
        else:
            assert self.places[asked.number] == at
            assert said.number == asked.number

    def see_error(self, device: Device, seen: dict[str, Any]) -> None:
        name = seen["name"]
        assert (seen["code"], seen["retry"]) == (errors.ERRORS[name].code, errors.ERRORS[name].retry)
        self.counts[f"error {name}"] += 1
        if "id" not in seen or seen["id"] not in device.pending:
            # Of garbage, of what the program wanted for it, or of what wanted no reply.
            assert seen.get("id", "garbage") == "garbage", "nobody asked this"
            return
        asked = device.pending.pop(seen["id"])
        assert not (asked.is_in and name == "unknown_room"), "it was in the room"
        assert name != "unrecoverable" or asked.is_unrecoverable
        if name == "rate_limited" and not (asked.kind == "join" and device.welcomed):
            assert math.isfinite(self.limits.message_rate_per_s), "there is no such rate"
        elif not device.welcomed:
            assert name == "bad_request"
        else:
            assert name in REFUSALS[asked.kind]
        if asked.is_first_hello:
            assert not device.welcomed
            device.has_said_hello = False

    def see_said(self, device: Device, seen: dict[str, Any]) -> None:
        """A message must be the next, and what everybody else sees there."""
        room, epoch, offset = seen["room"], seen["epoch"], seen["offset"]
        stay = device.stays[room]
        assert stay.gap is None, "first comes the gap"
        assert not stay.wants_roster, "after a skip comes the roster"
        if seen["type"] == "dm" and stay.epoch == "":
            stay.epoch = epoch  # of the mailbox that was made for the first one
        assert epoch == stay.epoch, "another epoch without a word"
        assert offset == stay.offset + 1, f"{offset} follows {stay.offset} without a gap"
        stay.offset = offset
        device.positions[room] = Position(epoch, offset)
        self.check_said(seen)
        said_ = self.said[room, epoch][offset - 1]
        is_live = offset > stay.replayed_until and not self.hub.announces and self.authors[said_.number]
        if seen["type"] == "chat" and is_live and stay.roster is not None and stay.rev == stay.known_rev:
            assert seen["user"] in stay.roster, "nobody speaks before it is said to be here"
        self.counts["replayed"] += offset <= stay.replayed_until

    def check_said(self, seen: Mapping[str, Any]) -> None:
        said = self.said[seen["room"], seen["epoch"]][seen["offset"] - 1]
        told = (seen["user"], seen["username"], seen["content"], seen["ts"], seen.get("to", ""))
        assert told == said[1:], f"others saw {said}"

    def see_gap(self, device: Device, seen: dict[str, Any]) -> None:
        room, first, last, reason = seen["room"], seen["from"], seen["to"], seen["reason"]
        stay = device.stays[room]
        assert seen["epoch"] == stay.epoch
        assert not stay.wants_roster
        self.counts[f"gap {reason}"] += 1
        if stay.gap is not None:
            assert stay.gap == (first, last, reason), f"the gap should be {stay.gap}"
            stay.gap = None
            if reason == "epoch":
                assert last == stay.offset
                return
        else:
            assert reason == "slow"
            assert self.skips or last <= stay.replayed_until, "only a replay or a skip leaves something out"
            stay.wants_roster = last > stay.replayed_until
        assert first == stay.offset + 1
        assert first <= last <= len(self.said[room, stay.epoch])
        stay.offset = last
        device.positions[room] = Position(stay.epoch, last)

    def see_presence(self, device: Device, seen: dict[str, Any]) -> None:
        room, rev = seen["room"], seen["rev"]
        stay = device.stays[room]
        if "users" in seen:
            assert self.skips
            assert stay.rev is None or rev >= stay.rev
            stay.wants_roster = False
            stay.rev = rev
            self.adopt(room, stay, seen)
            self.counts["skipped"] += 1
            return
        assert not stay.wants_roster
        assert stay.rev is None or rev == stay.rev + 1, f"rev {rev} follows {stay.rev}"
        stay.rev = rev
        if stay.roster is None or rev <= stay.known_rev:
            return  # a reply came first
        assert rev == stay.known_rev + 1
        joined, left, updated = seen.get("joined", ()), seen.get("left", ()), seen.get("updated", ())
        if seen["type"] == "user_joined":
            joined = [seen]
            assert seen["content"] == f"{seen['username']} joined the room"
        elif seen["type"] == "user_left":
            left = [seen]
            assert seen["content"] == f"{seen['username']} left the room"
            assert seen["devices"] == 0
        assert joined or left or updated
        roster = dict(stay.roster)
        for user in left:
            del roster[user["user"]]
        for user in joined:
            assert user["user"] not in roster
        for user in updated:
            assert roster[user["user"]] != item_in(user), "an update of nothing"
        roster |= {user["user"]: item_in(user) for user in (*joined, *updated)}
        stay.roster, stay.known_rev = roster, rev
        self.check_roster(room, stay)

    def adopt(self, room: str, stay: Stay, seen: dict[str, Any]) -> None:
        """A whole roster, perhaps newer than the frames seen so far."""
        assert seen["rev"] >= stay.known_rev
        roster = {user["user"]: item_in(user) for user in seen["users"]}
        assert len(roster) == len(seen["users"]), "a user on two devices is one entry"
        stay.roster, stay.known_rev = roster, seen["rev"]
        self.check_roster(room, stay)

    def check_roster(self, room: str, stay: Stay) -> None:
        assert stay.roster is not None
        roster = self.rosters.setdefault((room, stay.epoch, stay.known_rev), stay.roster)
        assert roster == stay.roster, f"rev {stay.known_rev} of {room} was {roster} to others, here {stay.roster}"
        assert all(devices >= 1 for devices, _ in roster.values())

    def see_plain(self, device: Device, seen: dict[str, Any]) -> None:
        """The same messages in the same order as the others."""
        assert list(seen) == ["type", "content", "room", "username"]
        room = seen["room"]
        self.counts[f"plain {seen['type']}"] += 1
        if seen["type"] == "online_users":
            device.plain_roster[room] = seen["content"]
        if seen["type"] != "chat":
            return
        room_, epoch, offset = self.places[number_of(seen["content"])]
        assert room_ == room
        said = self.said[room, epoch][offset - 1]
        assert (said.username, said.content) == (seen["username"], seen["content"])
        while device.plain_at.get(room) != (epoch, offset - 1):
            assert self.begin_plain_stay(device, room), f"{(epoch, offset)} follows {device.plain_at[room]}"
        device.plain_at[room] = epoch, offset

    def begin_plain_stay(self, device: Device, room: str) -> bool:
        """Go on with a plain client's next stay in a room, which its wire does not announce; False if none is left."""
        entries = device.plain_entries[room]
        while entries:
            epoch, offset = entries.popleft()
            old_epoch, old_offset = device.plain_at.get(room, ("", 0))
            if epoch != old_epoch or offset > old_offset:
                device.plain_at[room] = epoch, offset
                return True
        return False

    # -- inside -----------------------------------------------------------------------------------------------------

    def check_sanctions(self) -> None:
        told = {(each.kind, each.user, each.room) for each in self.hub.sanctions(self.now)}
        assert told == set(self.in_force())

    def check(self) -> None:
        """Look at what the hub holds."""
        self.check_sanctions()
        hub, state = self.hub, self.hub._state
        assert set(hub._sessions) == set(self.devices)
        assert sum(map(len, hub._users.values())) == len(self.devices)
        assert all(hub._users.values())
        assert hub._admission._connections == len(self.devices)
        assert set(state.grown) <= set(hub._rooms.values())
        assert set(state.passing) <= set(hub._rooms.values())
        assert set(hub._delivery.dirty) <= set(hub._rooms.values())
        assert set(hub._delivery.pressing) <= set(hub._delivery.dirty)
        assert len(hub._rooms) + len(state.mailboxes) <= self.limits.rooms
        for client, session in hub._sessions.items():
            self.check_session(self.devices[client], session)
        talking = {session for session in hub._sessions.values() if session.talk and session.state is State.OPEN}
        assert set(state.secrets.values()) == talking
        assert all(state.secrets[secret].talk.secret == secret for secret in state.secrets)  # type: ignore[union-attr]
        for key, receipt in state.keys.items():
            offset, end = self.keys[key]
            assert receipt.offset == offset
            assert end > self.ticked_at, "a key outlives its time"
        remembered = {key for key, (_, end) in self.keys.items() if end > self.now}
        assert remembered <= set(state.keys), "a key is forgotten before its time"
        for name, room in hub._rooms.items():
            assert room.name == name
            assert set(room.users) == self.here.get(name, set())
            self.check_room(room)
        for name, here in self.here.items():
            assert not here or name in hub._rooms
        for user, room in state.mailboxes.items():
            self.check_log(room)
            devices = hub._users.get(user, {})
            is_open = any(device.talk is not None and device.state is State.OPEN for device in devices)
            is_armed = state.deadlines.is_armed("linger", room)
            assert not (is_open and is_armed), "a mailbox may go though its user is here"
            assert devices or is_armed, "a mailbox of nobody stays for ever"
        self.check_deadlines()

    def check_session(self, device: Device, session: Session[int]) -> None:
        assert session.is_live is (device.closing is None)
        assert session.blocked is device.blocked
        assert session.direct != []
        sizes = (wire_bytes(one) if isinstance(one, str | bytes) else LATER_BYTES for one in session.direct or ())
        assert session.direct_bytes == sum(sizes), "what is counted is what is there"
        assert len(session.members) <= self.limits.rooms_per_client
        for member in session.members:
            assert self.hub._rooms[member.room.name] is member.room
            assert member.room.members[session.client] is member
        alone = {member.alone for member in session.members}
        session.steer()
        assert session.waiting or alone == {member.alone for member in session.members}

    def check_log(self, room: Room[int]) -> None:
        """A room's or a mailbox's; and its keys."""
        offsets = [record[3] for record in room.log]
        assert offsets == list(range(room.offset - len(offsets) + 1, room.offset + 1))
        assert len(offsets) <= self.limits.log_messages
        assert room.log_bytes == sum(record[5] for record in room.log)
        assert room.offset == len(self.said.get((room.name, room.epoch), ()))
        assert all(self.ticked_at - record[6] < self.limits.log_age_s for record in room.log)

    def check_room(self, room: Room[int]) -> None:
        self.check_log(room)
        deadlines = self.hub._deadlines
        assert 0 <= room.floor <= room.head
        assert set(room.behind) <= set(room.members.values())
        assert room.floor == room.head or room in self.hub._delivery.dirty
        for log in room.lanes.values():
            assert log.base + len(log.frames) == room.head
            assert len(log.totals) == len(log.frames) + 1
            assert log.members == sum(member.log is log for member in room.members.values()) > 0
            assert log.silent == sorted(index for index in log.silent if index >= log.base)
            if log.lane.talker is not None:
                assert set(log.passing) <= set(log.silent)
            assert all(index >= log.base for index in log.passing)
        devices = Counter(member.session.username for member in room.members.values())
        for user, count in room.users.items():
            assert count == devices[user]
            assert (count == 0) == deadlines.is_armed("grace", (room, user)), "who is away is so for a while"
        assert set(devices) <= set(room.users)
        for member in room.members.values():
            assert member.log.base <= member.cursor <= room.head
            assert member in room.behind or member.cursor >= room.floor, "the floor passed a healthy member"
            assert member in room.behind or not member.session.blocked
        if room.floor == room.head and not room.behind:
            assert not any(log.frames for log in room.lanes.values()), "frames that everybody has are kept"
        assert room.users or deadlines.is_armed("linger", room), "a room of nobody stays for ever"
        assert not (room.users and deadlines.is_armed("linger", room))
        talk = room.talk
        if talk is not None:
            assert talk.users <= set(room.users)
            assert set(talk.metas) <= set(room.users)
            assert set(talk.typing_due_s) <= set(room.users)
            if not talk.roster.changed:
                here = {user: item for user in room.users if (item := room.item_of(user)) is not None}
                assert talk.roster.told == here
            else:
                assert deadlines.is_armed("presence", room) or not room.members, "news that nobody will tell"

    def check_deadlines(self) -> None:
        """Nothing is armed for what is gone."""
        state = self.hub._state
        rooms, logs = set(state.rooms.values()), {*state.rooms.values(), *state.mailboxes.values()}
        sessions = set(state.sessions.values())
        for kind, ends in state.deadlines._ends.items():
            for key in ends:
                match kind:
                    case "ping" | "silence" | "idle" | "write" | "hello":
                        assert key in sessions
                        assert key.is_live
                    case "roster" | "presence":
                        assert key in rooms
                    case "age" | "linger":
                        assert key in logs
                    case "grace" | "typing":
                        assert key[0] in rooms
                        assert key[1] in key[0].users
                    case "session":
                        assert key in state.ended
                    case "key":
                        assert key in state.keys
        assert set(state.ended) == set(state.deadlines._ends["session"])

    # -- when it is quiet -------------------------------------------------------------------------------------------

    def be_quiet(self) -> None:
        """Everybody reads, time passes: then everybody knows who is where (G5), and nobody waits for a reply."""
        self.pass_time(QUIET_S)
        for device in self.live():
            for name, stay in list(device.stays.items()):
                if device.closing is None and stay.roster is None and not name.startswith("@") and not stay.is_left:
                    self.ask(device, Asked("members", name), room=name)
        self.flush()
        self.check()
        for device in self.live():
            session = self.hub._sessions[device.client]
            for member in session.members:
                self.check_who_is_here(device, member.room)

    def check_who_is_here(self, device: Device, room: Room[int]) -> None:
        devices = Counter(member.session.username for member in room.members.values())
        deadlines = self.hub._deadlines
        if not all(room.users.values()) or deadlines.is_armed("presence", room) or deadlines.is_armed("roster", room):
            return  # it did not get quiet here: somebody was closed
        assert set(self.hub.members(room.name)) == set(devices)
        if not device.talks:
            # In order of joining, each once; commas are shown as others.
            shown = ",".join(user.replace(",", "\uff0c") for user in self.hub.members(room.name))
            assert device.plain_roster[room.name] == shown
            return
        stay = device.stays[room.name]
        talk = room.talk
        assert talk is not None
        assert stay.rev is None or stay.rev == talk.roster.rev
        if stay.roster is not None:
            assert stay.known_rev == talk.roster.rev
            assert {user: count for user, (count, _) in stay.roster.items()} == devices
            assert {user: meta for user, (_, meta) in stay.roster.items() if meta is not None} == talk.metas
            self.counts["rosters agree"] += 1

    def pass_time(self, seconds: float) -> None:
        """Half a second at a time; whoever is told to close does, who is asked for a sign of life gives it."""
        until = self.now + seconds
        while self.now < until:
            while self.announced:
                self.answer_announced(0)
            while self.asked:
                self.answer_asked(0)
            while self.moderating:
                self.answer_moderating(0)
            for device in list(self.devices.values()):
                if device.closing is not None:
                    self.close(device)
                elif device.blocked:
                    self.go_on(device)
                if device.closing is None and not device.is_deaf:
                    self.do(Heard(device.client))
            self.flush()
            self.advance(0.5)
        for device in [device for device in self.devices.values() if device.closing is not None]:
            self.close(device)

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All leave and all deadlines pass, or the hub is drained: nothing is left."""
        self.check()
        if self.random.random() < 0.5:
            self.be_quiet()
        if self.random.random() < 0.5:
            self.drain()
        else:
            self.all_leave()
        self.check_nothing_is_left()

    def drain(self) -> None:
        if self.random.random() < 0.5:
            self.do(Drain(2.0))
            assert self.hub.refusal() is errors.DRAINING
            for _ in range(20):
                self.random.choice((self.talk, self.tick, self.flush, self.publish))()
        self.do(Drain())
        assert not self.live()
        late = self.random.random() < 0.5
        if not late:
            self.answer_all()
        while self.devices:
            self.close(self.random.choice(list(self.devices.values())))
        if late:
            self.answer_all()

    def all_leave(self) -> None:
        for device in list(self.devices.values()):
            for name in list(device.stays):
                if device.closing is None and not name.startswith("@") and self.random.random() < 0.5:
                    self.ask(device, Asked("leave", name), room=name)
        while self.devices:
            device = self.random.choice(list(self.devices.values()))
            if device.closing is not None:
                self.close(device)
            else:
                self.disconnect(device)
        self.answer_all()
        while math.isfinite(end := self.hub.next_deadline()):
            self.advance(max(0.0, end - self.now) + self.random.choice((0, 0, 5, 100)))
        self.advance(0)

    def answer_all(self) -> None:
        while self.announced:
            self.answer_announced(0)
        while self.asked:
            self.answer_asked(0)
        while self.moderating:
            self.answer_moderating(0)

    def check_nothing_is_left(self) -> None:
        hub, state = self.hub, self.hub._state
        left = {
            "clients": hub.clients(),
            "rooms": hub._rooms,
            "users": state.users,
            "mailboxes": state.mailboxes,
            "secrets": state.secrets,
            "ended": state.ended,
            "passing": state.passing,
            "grown": state.grown,
            "loading": state.loading,
            "dirty": hub._delivery.dirty,
            "pressing": hub._delivery.pressing,
            "named": hub._delivery.named,
            "addresses": hub._admission._addresses,
        }
        assert not any(left.values()), {name: value for name, value in left.items() if value}
        assert hub.next_deadline() == math.inf
        assert len(state.deadlines) == 0
        assert hub.is_settled
        assert hub.is_empty
        assert not any(self.here.values()), "every arrival has its departure"


def number_of(content: str) -> int:
    """Every message begins with a number of its own, whatever the program makes of the rest."""
    found = re.match(r"\d+", content)
    assert found is not None
    return int(found[0])


def item_in(user: Mapping[str, Any]) -> tuple[int, Any]:
    assert user["user"] == user["username"]
    return user["devices"], user.get("meta")


def run(seed: int, steps: int) -> Simulation:
    """Run one seed.

    Raises:
        Failed: a guarantee does not hold; the message says how to replay it.
    """
    simulation = Simulation(seed)
    try:
        return simulation.run(steps)
    except Exception as error:
        at = simulation.steps
        again = steps if simulation.is_finishing else at + 1
        raise Failed(
            f"seed {seed} fails at step {at}: {error!r}\n"
            f"replay: python -m tests.core.v1_simulation --seed {seed} --steps {again}"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="this one, with a traceback if it fails")
    which.add_argument("--seeds", help="from A-B, a line each")
    parser.add_argument("--steps", type=int, default=5_000)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(f"seed {arguments.seed}: {summary(run(arguments.seed, arguments.steps))}")
        return
    failures = 0
    for seed in seeds_of(arguments.seeds):
        try:
            print(f"seed {seed}: {summary(run(seed, arguments.steps))}", flush=True)
        except Failed as error:
            failures += 1
            print(error, flush=True)
    sys.exit(1 if failures else 0)


def seeds_of(text: str) -> Iterator[int]:
    first, _, last = text.partition("-")
    yield from range(int(first), int(last or first) + 1)


def summary(done: Simulation) -> str:
    counts = done.counts
    return (
        f"{done.steps} steps, {counts['chat placed']} chats, {counts['dm placed']} dms, {counts['resumed']} resumed, "
        f"{counts['gap slow'] + counts['gap expired'] + counts['gap epoch']} gaps, {counts['dup']} repeats"
    )


if __name__ == "__main__":
    main()
