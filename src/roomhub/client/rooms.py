"""What the client knows of a room: how far it has heard, and who is there. Pure.

The laws are the protocol's. A position moves by room frames, gaps and the places that joins and welcomes tell, never by
an ``ok``. A roster is a fold by its ``rev``; whatever is not newer is known already.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from roomhub.client.events import Changed, Event, Joined, Left, Member, Missed, Restarted
from roomhub.core.message import Position

__all__ = ["RoomState"]


class RoomState:
    """One room of one client, over all of its connections.

    Attributes:
        name: the room's.
        position: the last place that was heard.
        is_joined: the server has us there, on this connection.
        is_listed: whether the roster is kept.
        is_stale: the roster is to be asked for again.
        members: the roster, by identity.
        rev: its revision.
        meta: what this user tells of itself there, None for nothing.
    """

    __slots__ = ("is_joined", "is_listed", "is_stale", "members", "meta", "name", "position", "rev")

    def __init__(self, name: str, *, is_listed: bool = True, meta: Mapping[str, Any] | None = None) -> None:
        self.name: str = name
        self.position: Position = Position("", 0)
        self.is_joined: bool = False
        self.is_listed: bool = is_listed
        self.is_stale: bool = is_listed
        self.members: dict[str, Member] = {}
        self.rev: int = 0
        self.meta: Mapping[str, Any] | None = meta

    # -- how far it has heard -----------------------------------------------------------------------------------------

    def entered(self, epoch: str, offset: int, recovered: str) -> list[Event]:
        """The server has us in the room, and frames go on from here."""
        self.is_joined = True
        had, self.position = self.position, Position(epoch, offset)
        if recovered != "none" or not had.epoch:
            return []
        if epoch == had.epoch and offset >= had.offset:
            # We were let in without having said where we stood.
            return [Missed(self.name, epoch, had.offset + 1, offset, "unknown")] if offset > had.offset else []
        return [Restarted(self.name, epoch)]

    def heard(self, epoch: str, offset: int) -> list[Event] | None:
        """A message came; None if it was heard before."""
        had = self.position
        if epoch == had.epoch and offset <= had.offset:
            return None
        self.position = Position(epoch, offset)
        if epoch != had.epoch:
            return [Restarted(self.name, epoch)] if had.epoch else []
        if offset > had.offset + 1:
            return [Missed(self.name, epoch, had.offset + 1, offset - 1, "unknown")]
        return []

    def skipped(self, epoch: str, first: int, last: int, reason: str) -> list[Event]:
        """The server named a gap."""
        had, self.position = self.position, Position(epoch, last)
        events: list[Event] = []
        if had.epoch not in ("", epoch):
            events.append(Restarted(self.name, epoch))
        if last >= first:
            events.append(Missed(self.name, epoch, first, last, reason))
        return events

    def resumed(self, epoch: str, offset: int, recovered: str, rev: int | None) -> list[Event]:
        """The same after a reconnect; without the ``rev`` that the roster has here it is stale."""
        if rev is None or rev != self.rev or epoch != self.position.epoch:
            self.is_stale = self.is_listed
        return self.entered(epoch, offset, recovered)

    # -- who is there -------------------------------------------------------------------------------------------------

    def listed(self, rev: int, users: Sequence[Mapping[str, Any]]) -> list[Event]:
        """The whole roster; gives what is different from the one at hand."""
        if rev < self.rev and not self.is_stale:
            return []
        before, self.members = self.members, {item["user"]: _member(item) for item in users}
        self.rev = rev
        self.is_stale = False
        gone: list[Event] = [Left(self.name, before[user]) for user in before if user not in self.members]
        return gone + [
            Joined(self.name, member) if member.user not in before else Changed(self.name, member)
            for member in self.members.values()
            if before.get(member.user) != member
        ]

    def told(self, message: Mapping[str, Any]) -> list[Event]:
        """Who came, went or changed. After a hole in the revisions the roster is stale: ask for it."""
        if "users" in message:
            return self.listed(message["rev"], message["users"])
        events = self._told(message)
        if not self.is_listed:
            return events
        rev: int = message["rev"]
        if self.is_stale or rev <= self.rev:
            return []  # it is in the roster that comes, or that is here
        if rev > self.rev + 1:
            self.is_stale = True
            return []
        self.rev = rev
        for event in events:
            if isinstance(event, Left):
                self.members.pop(event.member.user, None)
            elif isinstance(event, Joined | Changed):
                self.members[event.member.user] = event.member
        return events

    def _told(self, message: Mapping[str, Any]) -> list[Event]:
        if message["type"] == "user_joined":
            return [Joined(self.name, _member(message))]
        if message["type"] == "user_left":
            return [Left(self.name, _member(message), message.get("reason", ""))]
        left: list[Event] = [Left(self.name, _member(item)) for item in message.get("left", ())]
        joined: list[Event] = [Joined(self.name, _member(item)) for item in message.get("joined", ())]
        return left + joined + [Changed(self.name, _member(item)) for item in message.get("updated", ())]


def _member(item: Mapping[str, Any]) -> Member:
    return Member(item["user"], item["username"], item["devices"], item.get("meta", {}))
