"""What the hub should do, told naively: each client has a list of the frames it has yet to get.

``World`` does each thing twice, to a real ``Hub`` and to these lists, and compares all that comes out: orders, every
chunk, who is named, the next deadline. ``check`` looks inside the hub as well. The state machine
(``test_stateful.py``) and the simulation (``simulation.py``) drive it.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from roomhub.core.codec import Chunk, Lane
from roomhub.core.commands import CloseRoom, Dismiss, Drain, Enter, Exit, Kick, Publish
from roomhub.core.effects import (
    Announce,
    Authenticate,
    Authorize,
    Close,
    Effect,
    Impose,
    Lift,
    Load,
    Moderated,
    Probe,
    Report,
    Settle,
    Store,
)
from roomhub.core.errors import KICKED
from roomhub.core.events import (
    Authorized,
    Blocked,
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
from roomhub.core.message import Message
from roomhub.core.session import State
from tests.core.playbook import BYTES, TEXT, frames, netstring_lane

__all__ = ["LANES", "Peer", "World"]

V1 = netstring_lane(end=b"~", v1=True)
LANES = (TEXT, BYTES, V1)


class Entry(NamedTuple):
    """One frame as it must appear on the wire."""

    kind: str
    room: str
    name: str
    content: str
    text: str


def entry(kind: str, room: str, name: str, content: str) -> Entry:
    keys = {"type": kind, "content": content, "room": room, "username": name}
    return Entry(kind, room, name, content, json.dumps(keys, ensure_ascii=False, separators=(",", ":")))


def shown(name: str) -> str:
    return name.replace(",", "\uff0c")


class Owed(NamedTuple):
    """A frame that a peer has yet to get, and in which of its stays in the room it came up."""

    entry: Entry
    stay: int


class Fold:
    """What a peer knows of a room in one stay: its first roster with the joins and leaves since; its last roster."""

    def __init__(self) -> None:
        self.members: set[str] | None = None
        self.roster: list[str] = []

    def see(self, seen: Entry) -> None:
        if seen.kind == "online_users":
            self.roster = seen.content.split(",")
            if self.members is None:
                self.members = set(self.roster)
        elif self.members is not None:
            if seen.kind == "user_joined":
                self.members.add(shown(seen.name))
            elif seen.kind == "user_left":
                self.members.discard(shown(seen.name))


class Bucket:
    """So many tokens at once, refilled at a rate."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self.tokens = burst
        self.at = 0.0

    def take(self, now: float) -> bool:
        if math.isinf(self.rate_per_s) or math.isinf(self.burst):
            return True
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate_per_s)
        self.at = now
        if self.tokens < 0.999:
            return False
        self.tokens -= 1
        return True


class Peer:
    """A client, its transport and what it is owed."""

    def __init__(
        self, client: int, lane: Lane, user: str, address: str, shares: bool, now: float, limits: Limits
    ) -> None:
        self.client = client
        self.lane = lane
        self.user = user
        self.address = address
        self.shares = shares
        self.open = True
        self.direct: list[Owed] = []
        self.held: list[str] = []  # what it said while it waited to be let in
        self.pending: set[str] = set()  # the rooms that it was asked about
        self.queues: dict[str, list[Owed]] = {}
        self.places: dict[str, Place] = {}
        self.stays = 0
        self.folds: dict[int, Fold] = {}
        self.in_stay: dict[str, int] = {}
        self.blocked = False
        self.blocked_in_tick = -1
        self.named = False
        self.heard_at = self.quiet_from = self.probed_at = self.pinged_at = self.spoke_at = self.progress_at = now
        self.messages = Bucket(limits.message_rate_per_s, limits.message_burst)

    def size(self, owed: Iterable[Owed]) -> int:
        framed = [self.lane.frame(one.entry.text) for one in owed]
        return sum(len(frame if isinstance(frame, bytes) else frame.encode()) for frame in framed)

    @property
    def has_more(self) -> bool:
        return bool(self.direct) or any(self.queues.values())


class Place:
    """A room."""

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.members: list[Peer] = []
        self.users: list[str] = []
        self.joined: list[str] = []
        self.left: list[str] = []
        self.quiet_until: float | None = None
        self.offset = 0
        self.log: list[tuple[float, str, str]] = []
        self.look_at: float | None = None
        self.grown = False


Told = tuple[Any, ...]


def described(effect: Effect[int]) -> Told:
    match effect:
        case Close():
            return ("close", effect.client, effect.reason.name)
        case Probe():
            return ("probe", effect.client)
        case Authorize():
            return ("authorize", effect.client, effect.room, effect.username)
        case Announce():
            message = effect.message
            return ("announce", message.room, message.username, message.content, effect.ref)
        case Report():
            message = effect.message
            return ("report", message.kind, message.room, message.username, message.content, message.offset)
        case Settle():
            return ("settle", effect.ref, effect.position)
        case Store() | Load() | Authenticate() | Impose() | Lift() | Moderated():
            raise AssertionError("this hub has no store, and asks for no token")


class World:
    """A hub beside its naive model. Every method is one step; any difference is an ``AssertionError``."""

    def __init__(self, limits: Limits, *, announces: bool = False, authorizes: bool = False) -> None:
        self.limits = limits
        self.hub: Hub[int] = Hub(epoch="w", limits=limits)
        self.hub.reports = True
        self.hub.announces = announces
        self.hub.authorizes = authorizes
        self.now = 0.0
        self.tick_count = 0
        self.steps = 0
        self.incarnations = 0
        self.draining = False
        self.peers: dict[int, Peer] = {}
        self.joins: dict[tuple[str, str], Bucket] = {}
        self.places: dict[str, Place] = {}
        self.asked: list[tuple[int, str]] = []
        self.announced: list[tuple[Message, Any]] = []
        self.expected: list[Told] = []
        self.next_client = 0
        self.next_content = 0
        self.served = True

    # -- steps: connections ---------------------------------------------------------------------------------------

    def connect(self, lane: Lane, user: str, rooms: list[str], address: str, shares: bool) -> int:
        self.next_client += 1
        client = self.next_client
        peer = Peer(client, lane, user, address, shares, self.now, self.limits)
        refusal = self._refusal(address)
        if refusal is None and "," in user and not lane.v1:
            refusal = "protocol"
        self.peers[client] = peer
        if refusal is not None:
            self._close(peer, refusal)
        for room in rooms:
            if peer.open:
                self._ask_to_join(peer, room)
        self._do(Connected(client, lane, user, rooms, address=address, shares=shares))
        return client

    def _refusal(self, address: str) -> str | None:
        if self.draining:
            return "draining"
        if len(self.peers) >= self.limits.connections:
            return "over_capacity"
        here = [peer for peer in self.peers.values() if peer.address == address]
        return "over_capacity" if address and len(here) >= self.limits.connections_per_address else None

    def say(self, client: int) -> None:
        self.next_content += 1
        content = f"{self.next_content}" + "é" * (self.next_content % 3)
        peer = self.peers.get(client)
        if peer is not None and peer.open:
            peer.heard_at = peer.quiet_from = peer.spoke_at = self.now
            if not peer.messages.take(self.now):
                self._evict(peer, "rate_limited")
            elif peer.held or self._waits(peer, client):
                peer.held.append(content)
            else:
                self._say(peer, content)
        self._do(Received(client, content))

    def _waits(self, peer: Peer, client: int) -> bool:
        return not peer.places and bool(peer.pending)

    def _say(self, peer: Peer, content: str) -> None:
        if peer.places:
            place = next(iter(peer.places.values()))
            if self.hub.announces:
                self.expected.append(("announce", place.name, peer.user, content, None))
            else:
                self._chat(place, peer.user, content, None)

    def hear(self, client: int) -> None:
        peer = self.peers.get(client)
        if peer is not None and peer.open:
            peer.heard_at = peer.quiet_from = self.now
        self._do(Heard(client))

    def block(self, client: int) -> None:
        peer = self.peers.get(client)
        if peer is not None and peer.open:
            if not peer.blocked:
                peer.blocked = True
                peer.blocked_in_tick = self.tick_count
                peer.named = False
                self._judge_direct(peer)
            peer.progress_at = self.now
        self._do(Blocked(client))

    def unblock(self, client: int) -> None:
        peer = self.peers.get(client)
        if peer is not None:
            peer.blocked = False
        self._do(Writable(client))

    def disconnect(self, client: int) -> None:
        peer = self.peers.pop(client, None)
        if peer is not None and peer.open:
            peer.open = False
            for name in list(peer.places):
                self._leave(peer, name, keep=False)
        self._do(Disconnected(client))

    # -- steps: the program ---------------------------------------------------------------------------------------

    def publish(self, room: str) -> None:
        self.next_content += 1
        content, ref = f"{self.next_content}", self.next_content
        if self.hub.announces:
            self.expected.append(("announce", room, "", content, ref))
        else:
            self._take_place(room, "", content, ref)
        self._do(Publish(room, content, ref=ref))

    def answer_announce(self, index: int, yes: bool) -> None:
        message, ref = self.announced.pop(index)
        if yes:
            self._take_place(message.room, message.username, message.content, ref)
        elif ref is not None:
            self.expected.append(("settle", ref, None))
        self._do(Published(message, ref) if yes else Refused(message, ref))

    def answer_authorize(self, index: int, yes: bool) -> None:
        client, room = self.asked.pop(index)
        peer = self.peers.get(client)
        if peer is not None and room in peer.pending:
            peer.pending.discard(room)  # another answer about this room finds no question any more
            if not peer.open:
                pass
            elif yes:
                self._join(peer, room)
            else:
                self._refuse_join(peer, "forbidden")
            while peer.held and peer.open and not self._waits(peer, client):
                self._say(peer, peer.held.pop(0))
        self._do(Authorized(client, room) if yes else Denied(client, room))

    def enter(self, client: int, room: str) -> None:
        peer = self.peers[client]
        if peer.open:
            self._ask_to_join(peer, room)
        self._do(Enter(client, room))

    def exit(self, client: int, room: str) -> None:
        peer = self.peers.get(client)
        if peer is not None and peer.open and room in peer.places:
            self._leave(peer, room, keep=True)
            self._judge_direct(peer)
        self._do(Exit(client, room))

    def kick(self, user: str, room: str | None) -> None:
        for peer in list(self.peers.values()):
            if not peer.open or peer.user != user:
                continue
            if room is None or list(peer.places) == [room]:
                self._evict(peer, "kicked")
            elif room in peer.places:
                self._leave(peer, room, keep=True)
                self._judge_direct(peer)
        self._do(Kick(user, room))

    def close_room(self, room: str) -> None:
        place = self.places.pop(room, None)
        for peer in list(place.members) if place else ():
            self._leave(peer, room, keep=True, tell=False)
            if not peer.places:
                self._close(peer, "room_closed")
        self._do(CloseRoom(room))

    def dismiss(self, clients: list[int]) -> None:
        leaving = [peer for client, peer in self.peers.items() if client in clients and peer.open]
        leaving.sort(key=lambda peer: clients.index(peer.client))
        for peer in leaving:
            for queue in peer.queues.values():
                peer.direct += queue
                queue.clear()
        for peer in leaving:
            for name in list(peer.places):
                self._leave(peer, name, keep=False)
            self._close(peer, "kicked")
        self._do(Dismiss(clients, KICKED))

    def drain(self) -> None:
        self.draining = True
        self.places.clear()
        for peer in list(self.peers.values()):
            if peer.open:
                for name in list(peer.places):
                    self._leave(peer, name, keep=True, tell=False)
                self._close(peer, "draining")
        self._do(Drain())

    # -- steps: time and serving ----------------------------------------------------------------------------------

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.tick_count += 1
        self.steps += 1
        now, limits = self.now, self.limits
        actual = [described(effect) for effect in self.hub.handle(Ticked(), now)]
        order = {told[1]: place for place, told in enumerate(actual) if told[0] in ("close", "probe")}

        def in_order(peers: Iterable[Peer]) -> list[Peer]:
            # Who ends first is the hub's business; that all do is not. Whoever is missing there shows below.
            return sorted(peers, key=lambda peer: order.get(peer.client, 0))

        everybody = [peer for peer in self.peers.values() if peer.open]
        probes = {told[1]: place for place, told in enumerate(actual) if told[0] == "probe"}
        pinged = [peer for peer in everybody if peer.pinged_at + limits.ping_interval_s <= now]
        for peer in sorted(pinged, key=lambda peer: probes.get(peer.client, 0)):
            peer.pinged_at = now
            if peer.probed_at <= peer.heard_at:
                peer.probed_at = now
            self.expected.append(("probe", peer.client))
        quiet = [place for place in self.places.values() if place.quiet_until is not None and place.quiet_until <= now]
        for place in quiet:
            place.quiet_until = None
        silent: list[Peer] = []
        for peer in everybody:
            if peer.quiet_from + limits.pong_timeout_s <= now:
                asked_s = now - peer.probed_at if peer.probed_at > peer.heard_at else 0.0
                if asked_s > 0 and asked_s >= (limits.pong_timeout_s - limits.ping_interval_s) / 2:
                    silent.append(peer)
                else:
                    peer.quiet_from = now
        idle = [peer for peer in everybody if peer.spoke_at + limits.idle_timeout_s <= now]
        stuck = [peer for peer in everybody if peer.blocked and peer.progress_at + limits.write_timeout_s <= now]
        for peers, reason in ((silent, "no_pong"), (idle, "idle"), (stuck, "slow_consumer")):
            for peer in in_order(peers):
                self._evict(peer, reason)
        for place in quiet:
            if place.members and place.quiet_until is None and (place.joined or place.left):
                self._tell(place)
                place.quiet_until = now + limits.presence_interval_s * 2
        while any(place.grown for place in self.places.values()):
            grown = [place for place in self.places.values() if place.grown]
            for place in grown:
                place.grown = False
            for peer in in_order({peer for place in grown for peer in place.members if self._is_slow(peer, place)}):
                self._evict(peer, "slow_consumer")
        for place in self.places.values():
            if place.look_at is not None and place.look_at <= now:
                place.log = [said for said in place.log if said[0] >= now - limits.log_age_s * 7 / 8]
                place.look_at = now + limits.log_age_s / 8 if place.log else None
        self._compare(actual)

    def _is_slow(self, peer: Peer, place: Place) -> bool:
        queue = peer.queues[place.name]
        most = self.limits.v1_lag_messages if peer.lane.v1 else self.limits.lag_messages
        return (
            peer.blocked
            and peer.blocked_in_tick < self.tick_count
            and (len(queue) > most or peer.size(queue) > self.limits.lag_bytes)
        )

    def share(self, most_members: int) -> bool:
        """One turn; whether there was one."""
        self.steps += 1
        share = self.hub.share(most_members)
        if share is None:
            return False
        assert share.clients
        assert len(set(share.clients)) == len(share.clients)
        for client in share.clients:
            peer = self.peers[client]
            assert peer.open
            assert peer.shares, "only an open client that shares is handed a share"
            assert not peer.blocked, "a blocked client is handed nothing"
            assert not peer.named, "who was told to pull is handed nothing"
            assert not peer.direct, "its own frames come first"
            self._consume(peer, share.chunk)
        return True

    def ready(self, *, turns_too: bool = True) -> list[int]:
        self.steps += 1
        names = self.hub.ready() if turns_too else self.hub.take_named()
        assert len(set(names)) == len(names)
        for client in names:
            peer = self.peers[client]
            assert peer.open
            assert not peer.blocked
            assert not peer.named, f"{client} is named twice before it has pulled all"
            assert peer.has_more, f"{client} is named for nothing"
            peer.named = True
        return list(names)

    def pull(self, client: int) -> bool:
        """One pull; whether it gave anything."""
        self.steps += 1
        chunk = self.hub.pull(client)
        peer = self.peers.get(client)
        if peer is None:
            assert not chunk
            return False
        self._consume(peer, chunk)
        if not chunk:
            assert not peer.has_more, f"{client} is told that it has all, but is owed {peer.direct} {peer.queues}"
        if not peer.has_more:
            peer.named = False
        return bool(chunk)

    def pull_all(self, client: int) -> None:
        while self.pull(client):
            pass

    def flush(self, most_members: int = 64) -> None:
        while self.share(most_members):
            pass
        names = self.ready()
        for peer in self.peers.values():
            if peer.open and not peer.blocked and peer.has_more:
                assert peer.named, f"nobody tells {peer.client} that there is something to pull"
        for client in names:
            self.pull_all(client)

    def settle(self) -> None:
        """Everybody reads all, and all that waits for time is told."""
        for client, peer in list(self.peers.items()):
            if peer.blocked:
                self.unblock(client)
        self.flush()
        # Who was named earlier, and has not pulled yet.
        for client in list(self.peers):
            self.pull_all(client)
        assert self.hub.is_settled
        for peer in self.peers.values():
            assert not peer.has_more
            for name, place in peer.places.items():
                fold = peer.folds[peer.in_stay[name]]
                if not (place.joined or place.left):
                    here = [shown(user) for user in place.users]
                    assert fold.members == set(here), "membership is the fold of joins and leaves"
                    assert fold.roster == here, "the last roster is true"
        assert not any(room.behind for room in self.hub._rooms.values())
        self.check()

    # -- the model ------------------------------------------------------------------------------------------------

    def _do(self, item: Any) -> None:
        self.steps += 1
        self._compare([described(effect) for effect in self._keep(self.hub.handle(item, self.now))])

    def _keep(self, effects: Iterable[Effect[int]]) -> Iterable[Effect[int]]:
        for effect in effects:
            if isinstance(effect, Authorize):
                self.asked.append((effect.client, effect.room))
                if effect.client in self.peers:
                    self.peers[effect.client].pending.add(effect.room)
            elif isinstance(effect, Announce):
                self.announced.append((effect.message, effect.ref))
            yield effect

    def _compare(self, actual: list[Told]) -> None:
        expected, self.expected = self.expected, []
        assert actual == expected, f"orders {actual}\nexpected {expected}"
        assert self.hub.next_deadline() == self._next_deadline()

    def _next_deadline(self) -> float:
        limits = self.limits
        ends = [math.inf]
        for peer in self.peers.values():
            if peer.open:
                ends.append(peer.pinged_at + limits.ping_interval_s)
                ends.append(peer.quiet_from + limits.pong_timeout_s)
                ends.append(peer.spoke_at + limits.idle_timeout_s)
                if peer.blocked:
                    ends.append(peer.progress_at + limits.write_timeout_s)
        for place in self.places.values():
            ends += [end for end in (place.quiet_until, place.look_at) if end is not None]
        return min(ends)

    def _ask_to_join(self, peer: Peer, room: str) -> None:
        who = (peer.address, peer.user)
        if who not in self.joins:
            self.joins[who] = Bucket(self.limits.join_rate_per_s, self.limits.join_burst)
        if not self.joins[who].take(self.now):
            self._refuse_join(peer, "rate_limited")
        elif self.hub.authorizes:
            self.expected.append(("authorize", peer.client, room, peer.user))
        else:
            self._join(peer, room)

    def _join(self, peer: Peer, room: str) -> None:
        if room in peer.places:
            return
        if len(peer.places) >= self.limits.rooms_per_client:
            self._refuse_join(peer, "rate_limited")
            return
        if room not in self.places:
            if len(self.places) >= self.limits.rooms:
                self._refuse_join(peer, "over_capacity")
                return
            self.places[room] = self._make(room)
        place = self.places[room]
        is_further = peer.user in place.users
        place.members.append(peer)
        peer.places[room] = place
        peer.queues[room] = []
        peer.stays += 1
        peer.in_stay[room] = peer.stays
        peer.folds[peer.stays] = Fold()
        arrival = entry("user_joined", room, peer.user, f"{peer.user} joined the room")
        if is_further and peer.user in place.joined:
            return
        if is_further:
            known = [*place.left, *(user for user in place.users if user not in place.joined)]
            peer.direct += [Owed(self._roster(place, known), peer.stays), Owed(arrival, peer.stays)]
            self._judge_direct(peer)
            return
        place.users.append(peer.user)
        place.joined.append(peer.user)
        self.expected.append(("report", "user_joined", room, peer.user, arrival.content, 0))
        self._tell_in_time(place)

    def _make(self, room: str) -> Place:
        self.incarnations += 1
        return Place(room, f"w.{self.incarnations}")

    def _leave(self, peer: Peer, room: str, *, keep: bool, tell: bool = True) -> None:
        place = peer.places.pop(room)
        unread = peer.queues.pop(room)
        if keep:
            peer.direct += unread
        place.members.remove(peer)
        if not any(other.user == peer.user for other in place.members):
            place.users.remove(peer.user)
            self.expected.append(("report", "user_left", room, peer.user, f"{peer.user} left the room", 0))
            if tell and place.members:
                if peer.user in place.joined:
                    place.joined.remove(peer.user)
                else:
                    place.left.append(peer.user)
                self._tell_in_time(place)
        if not place.members and self.places.get(room) is place:
            del self.places[room]

    def _tell_in_time(self, place: Place) -> None:
        if not place.left and not place.joined:
            return
        if len(place.members) <= self.limits.presence_batch_members:
            self._tell(place)
        elif place.quiet_until is None:
            self._tell(place)
            place.quiet_until = self.now + self.limits.presence_interval_s * 2

    def _tell(self, place: Place) -> None:
        for user in place.left:
            self._append(place, entry("user_left", place.name, user, f"{user} left the room"))
        self._append(place, self._roster(place))
        for user in place.joined:
            self._append(place, entry("user_joined", place.name, user, f"{user} joined the room"))
        place.left.clear()
        place.joined.clear()

    def _roster(self, place: Place, users: list[str] | None = None) -> Entry:
        here = place.users if users is None else users
        return entry("online_users", place.name, "", ",".join(shown(user) for user in here))

    def _append(self, place: Place, what: Entry) -> None:
        place.grown = True
        for peer in place.members:
            peer.queues[place.name].append(Owed(what, peer.in_stay[place.name]))

    def _take_place(self, room: str, user: str, content: str, ref: Any) -> None:
        self._chat(self.places.get(room) or self._make(room), user, content, ref)

    def _chat(self, place: Place, user: str, content: str, ref: Any) -> None:
        if place.joined or place.left:
            self._tell(place)
        place.offset += 1
        place.log.append((self.now, user, content))
        del place.log[: -int(self.limits.log_messages)]
        if place.look_at is None and self.limits.log_age_s != math.inf:
            place.look_at = self.now + self.limits.log_age_s / 8
        self._append(place, entry("chat", place.name, user, content))
        self.expected.append(("report", "chat", place.name, user, content, place.offset))
        if ref is not None:
            self.expected.append(("settle", ref, (place.epoch, place.offset)))

    def _judge_direct(self, peer: Peer) -> None:
        if peer.blocked and peer.size(peer.direct) > self.limits.direct_bytes:
            self._evict(peer, "slow_consumer")

    def _refuse_join(self, peer: Peer, reason: str) -> None:
        if not peer.places:
            self._close(peer, reason)

    def _evict(self, peer: Peer, reason: str) -> None:
        if not peer.open:
            return
        is_slow = reason in ("slow_consumer", "no_pong")
        if is_slow:
            peer.direct.clear()
        for name in list(peer.places):
            self._leave(peer, name, keep=not is_slow)
        self._close(peer, reason)

    def _close(self, peer: Peer, reason: str) -> None:
        peer.open = peer.blocked = peer.named = False
        self.expected.append(("close", peer.client, reason))

    def _consume(self, peer: Peer, chunk: Chunk) -> None:
        if isinstance(chunk, bytes):
            assert not chunk or chunk.endswith(b"~" if peer.lane is V1 else b","), "a chunk of another lane"
        assert not chunk or isinstance(chunk, tuple) is (peer.lane is TEXT), "a chunk of another lane"
        texts = list(frames(chunk))
        for text in texts:
            queue = peer.direct or peer.queues[json.loads(text)["room"]]
            owed = queue.pop(0)
            assert text == owed.entry.text, f"{peer.client} got {text} in place of {owed.entry.text}"
            peer.folds[owed.stay].see(owed.entry)
        if len(texts) > 1:
            size = len(chunk) if isinstance(chunk, bytes) else sum(len(text.encode()) for text in texts)
            assert size <= self.limits.chunk_bytes

    # -- inside ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare what the hub holds with the model, and with what its own comments promise."""
        hub, limits = self.hub, self.limits
        assert list(hub.rooms()) == list(self.places), "a room is there as long as somebody is in it"
        for name, place in self.places.items():
            assert list(hub.members(name)) == place.users
            kept = [(message.username, message.content) for message in hub.history(name)]
            assert kept == [(user, content) for _, user, content in place.log]
            assert all(self.now - at < limits.log_age_s for at, _, _ in place.log)
        assert set(hub._sessions) == set(self.peers)
        for client, peer in self.peers.items():
            session = hub._sessions[client]
            assert (hub.state_of(client) is State.OPEN) is peer.open
            assert [member.room.name for member in session.members] == list(peer.places)
            assert session.blocked is peer.blocked
            assert bool(session.direct) == bool(peer.direct)
            assert session.direct != []
            if peer.direct:
                assert session.direct_bytes == peer.size(peer.direct)
            for member in session.members:
                assert member.room.head - member.cursor == len(peer.queues[member.room.name])
                assert member.log.lag_bytes(member.cursor) == peer.size(peer.queues[member.room.name])
            session_alone = {member.alone for member in session.members}
            session.steer()
            assert session_alone == {member.alone for member in session.members} or session.waiting
        statistics = hub.statistics()
        assert statistics.connections == len(self.peers)
        assert statistics.rooms == len(self.places)
        assert statistics.members == sum(len(place.members) for place in self.places.values())
        self._check_rooms()
        assert set(hub._state.grown) <= set(hub._rooms.values())
        assert set(hub._delivery.dirty) <= set(hub._rooms.values())
        assert set(hub._delivery.pressing) <= set(hub._delivery.dirty)
        for client in hub._delivery.named:
            assert hub._sessions[client].waiting
            assert self.peers[client].open
        assert sum(hub._admission._addresses.values()) == hub._admission._connections == len(self.peers)
        assert sum(map(len, hub._users.values())) == len(self.peers)
        assert all(hub._users.values())

    def _check_rooms(self) -> None:
        hub = self.hub
        for room in hub._rooms.values():
            assert 0 <= room.floor <= room.head
            assert set(room.behind) <= set(room.members.values())
            assert room.floor == room.head or room in hub._delivery.dirty
            assert room._walk is None or room.floor < room.head
            assert (room in hub._delivery.pressing) == (room.head - room.floor > hub.limits.lag_messages)
            for log in room.lanes.values():
                assert log.base + len(log.frames) == room.head
                assert len(log.totals) == len(log.frames) + 1
                assert log.members == sum(member.log is log for member in room.members.values()) > 0
            for member in room.members.values():
                assert member.log.base <= member.cursor <= room.head
                assert room.lanes[member.session.lane] is member.log
                assert member in room.behind or member.cursor >= room.floor, "the floor passed a healthy member"
                assert member in room.behind or not member.session.blocked
            if room.floor == room.head and not room.behind:
                assert not any(log.frames for log in room.lanes.values()), "frames that everybody has are kept"
