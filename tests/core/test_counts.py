"""Performance held by counts: the work of a message does not grow with the members of its room."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from roomhub.core.codec import Chunk, Frame, Lane, PlainCodec
from roomhub.core.commands import Kick, Publish
from roomhub.core.events import Connected, Received, Ticked
from roomhub.core.hub import Hub
from roomhub.core.json_codec import JsonCodec, Raw
from roomhub.core.limits import Limits
from roomhub.core.message import Message
from roomhub.core.requests import Chat, Request
from roomhub.core.room import Room
from tests.core.playbook import After, Playbook, netstring_lane, says


class CountingCodec:
    name = "counting"

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.decoded = 0

    def decode(self, text: str) -> Request:
        self.decoded += 1
        return Chat(None, text)

    def encode(self, message: Message) -> str:
        self.encoded.append(message.content)
        return PlainCodec().encode(message)


class Counts:
    """A lane that counts what is asked of it, and a room full of its members."""

    def __init__(self, members: int, monkeypatch: pytest.MonkeyPatch, *, shares: bool) -> None:
        self.codec = CountingCodec()
        self.framed = 0
        self.joined: list[int] = []
        self.appended = 0
        self.lane = Lane(self.codec, self.frame, self.join)
        limits = Limits(presence_batch_members=1, presence_interval_s=100, connections_per_address=10_000)
        self.hub: Hub[int] = Hub(epoch="e", limits=limits)
        self.hub.reports = True
        append = Room.append

        def counted(room: Room[int], message: Message) -> None:
            self.appended += 1
            append(room, message)

        monkeypatch.setattr(Room, "append", counted)
        for client in range(members):
            self.hub.handle(Connected(client, self.lane, f"U{client}", ["r"], shares=shares), 0.0)
        self.hub.handle(Publish("r", "all that is known by now"), 0.0)
        self.chunks: dict[int, list[Chunk]] = {}
        self.serve()
        self.forget()

    def forget(self) -> None:
        self.codec.encoded.clear()
        self.joined.clear()
        self.framed = self.codec.decoded = self.appended = 0
        self.chunks = {}

    def frame(self, text: str) -> Frame:
        self.framed += 1
        return text.encode()

    def join(self, frames: Sequence[Frame]) -> Chunk:
        if frames:
            self.joined.append(len(frames))
        return b"".join(frame for frame in frames if isinstance(frame, bytes))

    def serve(self) -> None:
        self.hub.handle(Ticked(), 0.0)
        while share := self.hub.share(256):
            for client in share.clients:
                self.chunks.setdefault(client, []).append(share.chunk)
        for client in self.hub.ready():
            while chunk := self.hub.pull(client):
                self.chunks.setdefault(client, []).append(chunk)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("members", [10, 1_000])
def test_one_message_is_encoded_framed_and_appended_once(
    members: int, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(members, monkeypatch, shares=shares)
    effects = counts.hub.handle(Received(3, "hi"), 0.0)
    assert len(effects) == 1, "the report, and nothing a member"
    counts.serve()
    assert counts.codec.encoded == ["hi"]
    assert (counts.codec.decoded, counts.framed, counts.appended) == (1, 1, 1)
    assert len(counts.chunks) == members


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("members", [10, 1_000])
def test_many_messages_of_a_tick_are_joined_once_into_one_chunk(
    members: int, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts(members, monkeypatch, shares=shares)
    for number in range(16):
        counts.hub.handle(Received(number % 10, f"{number}"), 0.0)
    assert counts.codec.encoded == [str(number) for number in range(16)]
    assert (counts.framed, counts.appended, counts.joined) == (16, 16, [])
    counts.serve()
    assert (counts.framed, counts.joined) == (16, [16])
    chunks = [chunk for chunks in counts.chunks.values() for chunk in chunks]
    assert len(chunks) == members, "one write a member and tick"
    assert len({id(chunk) for chunk in chunks}) == 1, "the same object for all"


def test_two_lanes_encode_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(100, monkeypatch, shares=True)
    other = CountingCodec()
    second = Lane(other, counts.frame, counts.join)
    for client in range(1_000, 1_100):
        counts.hub.handle(Connected(client, second, f"U{client}", ["r"], shares=True), 0.0)
    counts.serve()
    counts.forget()
    other.encoded.clear()
    counts.hub.handle(Publish("r", "hi"), 0.0)
    counts.serve()
    assert "hi" in counts.codec.encoded
    assert counts.codec.encoded.count("hi") == other.encoded.count("hi") == 1


def test_a_slow_pass_in_turns_encodes_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(300, monkeypatch, shares=True)
    counts.hub.handle(Publish("r", "one"), 0.0)
    counts.hub.handle(Publish("r", "two"), 0.0)
    turns = 0
    while counts.hub.share(10):
        turns += 1
    assert turns == 30
    assert counts.codec.encoded == ["one", "two"]
    assert counts.joined == [2]


def test_a_join_storm_in_a_large_room_is_not_a_roster_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(10, monkeypatch, shares=True)
    for client in range(5_000, 6_000):
        counts.hub.handle(Connected(client, counts.lane, f"U{client}", ["r"], shares=True), 0.0)
    counts.serve()
    assert counts.codec.encoded == []


def test_leaving_frames_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(10, monkeypatch, shares=True)
    counts.hub.handle(Publish("r", "hi"), 0.0)
    counts.hub.handle(Kick("U5"), 0.0)
    assert counts.hub.pull(5)
    assert counts.codec.encoded.count("hi") == 1


class CountingJson(JsonCodec):
    """Counts how often it renders something."""

    __slots__ = ("rendered",)

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.rendered = 0

    def encode(self, message: Message) -> str:
        self.rendered += 1
        return super().encode(message)

    def items(self, items: Sequence[Mapping[str, Any]]) -> Raw:
        self.rendered += 1
        return super().items(items)


@pytest.mark.parametrize("members", [2, 200])
def test_v1_renders_a_message_once_and_a_roster_once_a_telling(members: int) -> None:
    codec = CountingJson(Limits())
    lane = netstring_lane(codec, v1=True)
    play = Playbook()
    for number in range(members):
        client = f"c{number}"
        play >> Connected(client, lane, client, secret=client, shares=True) >> says(client, "hello", id=1)
        play >> says(client, "join", id=2, room="r")
    play.forget() >> After(1)
    play.forget()
    codec.rendered = 0
    play >> says("c0", "chat", room="r", content="hi")
    play.serve()
    assert codec.rendered == 1
    assert len({id(play.chunks[f"c{number}"][-1]) for number in range(members)}) == 1, "one chunk for all"
    for number in range(members):
        play >> says(f"c{number}", "members", id=3, room="r")
    assert codec.rendered == 2
