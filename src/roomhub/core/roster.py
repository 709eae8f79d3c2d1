"""Who is in a room, as v1 clients are told it: a roster that changes only by what is told, a new ``rev`` each time.

So equal ``rev`` means equal rosters, whoever joined when: what somebody who joins is given is the roster as of the last
telling, and what has not been told yet, its own arrival too, follows for everybody. What is told is the difference
between the roster and the room: who came and went unheard is not mentioned, nor is a second device that came for the
first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from roomhub.core.codec import TalkingCodec
from roomhub.core.message import Notice

__all__ = ["Item", "Roster"]

Item: TypeAlias = Mapping[str, Any]
"""{user, username, devices, meta?}, as on the wire. Replaced as a whole, never changed."""


class Roster:
    """One room's.

    Args:
        items: who is here.
        rev: to begin with.

    Attributes:
        rev: rises by one with each telling.
        told: who is here, as of ``rev``.
        changed: of whom there may be something to tell, and why they left, if that is to be told.
    """

    __slots__ = ("_rendered", "changed", "rev", "told")

    def __init__(self, items: Sequence[Item], rev: int = 1) -> None:
        self.rev: int = rev
        self.told: dict[str, Item] = {item["user"]: item for item in items}
        self.changed: dict[str, str] = {}
        self._rendered: dict[TalkingCodec, tuple[int, str]] = {}

    def note(self, user: str, reason: str = "") -> None:
        """The user came, went, or is here in another way."""
        self.changed[user] = reason

    def news(self, room: str, item_of: Callable[[str], Item | None]) -> Notice | None:
        """What is to be told, which then is told; None if nothing is.

        Args:
            room: the room's name.
            item_of: how a user is here now, None for not at all.
        """
        joined: list[Item] = []
        left: list[tuple[Item, str]] = []
        updated: list[Item] = []
        for user, reason in self.changed.items():
            before, now = self.told.get(user), item_of(user)
            if now is None:
                if before is not None:
                    left.append((before, reason))
                    del self.told[user]
            elif now != before:
                (updated if before is not None else joined).append(now)
                self.told[user] = now
        self.changed.clear()
        if not joined and not left and not updated:
            return None
        self.rev += 1
        if len(joined) == 1 and not left and not updated:
            return "user_joined", _one(room, joined[0], self.rev, "joined")
        if len(left) == 1 and not joined and not updated:
            [(item, reason)] = left
            fields = _one(room, {**item, "devices": 0}, self.rev, "left")
            return "user_left", {**fields, "reason": reason} if reason else fields
        batch = {"joined": joined, "left": [item for item, _ in left], "updated": updated}
        return "presence", {"room": room, "rev": self.rev, **{name: items for name, items in batch.items() if items}}

    def rendered(self, codec: TalkingCodec) -> str:
        """The roster as the last telling left it, as a field's value."""
        found = self._rendered.get(codec)
        if found is None or found[0] != self.rev:
            # Once a telling, not once a reply: two thousand joins of a second would render two thousand names each.
            found = self._rendered[codec] = (self.rev, codec.items(list(self.told.values())))
        return found[1]


def _one(room: str, item: Item, rev: int, did: str) -> Mapping[str, Any]:
    username = item["username"]
    fields = {
        "room": room,
        "username": username,
        "content": f"{username} {did} the room",
        "user": item["user"],
        "rev": rev,
        "devices": item["devices"],
    }
    if did == "joined" and "meta" in item:
        fields["meta"] = item["meta"]
    return fields
