"""Bans and mutes: who may not come in, or may not speak, everywhere or in one room, and until when."""

from collections.abc import Sequence
from math import ceil, inf
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["EVERYWHERE", "Sanction", "SanctionKind", "Sanctions", "milliseconds"]

SanctionKind: TypeAlias = Literal["ban", "mute"]

EVERYWHERE: Final = ""
"""The room of a sanction that holds in every room."""


def milliseconds(for_s: float) -> int | None:
    """So many seconds in whole milliseconds, at least one; None for ``inf``, which has no end.

    Raises:
        ValueError: no seconds, or not more than 0.
    """
    if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not for_s > 0:
        raise ValueError(f"for_s must be seconds, more than 0 (inf for no end), not {for_s!r}")
    ms = for_s * 1000
    # 2.007 s are 2007.0000000000002 ms, and meant are 2007.
    return None if ms == inf else max(ceil(round(ms, 6)), 1)


class Sanction(NamedTuple):
    """What one user may not do.

    Attributes:
        kind: "ban", it may not come in; "mute", it may be there and not speak.
        user: the identity key.
        room: where; ``""`` for everywhere.
        until_ms: Unix milliseconds at which it ends; None for never.
        reason: a word about it to the user, ``""`` for none.
        by: the identity key of who wanted it, ``""`` for the program.
        ts_ms: Unix milliseconds at which it was imposed.
    """

    kind: SanctionKind
    user: str
    room: str = EVERYWHERE
    until_ms: int | None = None
    reason: str = ""
    by: str = ""
    ts_ms: int = 0

    def is_over(self, unix_ms: float) -> bool:
        """Whether it holds no more at this time."""
        return self.until_ms is not None and self.until_ms <= unix_ms

    def told(self) -> str:
        """What its user is told."""
        what = "banned" if self.kind == "ban" else "muted"
        where = f"you are {what} from this room" if self.kind == "ban" and self.room else f"you are {what}"
        return f"{where}: {self.reason}" if self.reason else where


class Sanctions:
    """Those in force, at most one of a kind for a user in a room.

    An end needs no deadline: whoever asks gives the time. What is over stays until it is asked for, or until there is
    no place for another.

    Args:
        most: how many there may be.
    """

    __slots__ = ("_first_end_ms", "_most", "bans", "mutes")

    def __init__(self, most: float) -> None:
        self._most = most
        self._first_end_ms: float = inf  # none of them ends before that
        self.bans: dict[tuple[str, str], Sanction] = {}
        self.mutes: dict[tuple[str, str], Sanction] = {}

    def of_kind(self, kind: SanctionKind) -> dict[tuple[str, str], Sanction]:
        """By user and room."""
        return self.bans if kind == "ban" else self.mutes

    def find(self, kind: SanctionKind, user: str, room: str, unix_ms: float) -> Sanction | None:
        """What holds for the user in this room, there alone or everywhere; None if nothing does."""
        found = self.exactly(kind, user, EVERYWHERE, unix_ms)
        return found if found is not None or room == EVERYWHERE else self.exactly(kind, user, room, unix_ms)

    def exactly(self, kind: SanctionKind, user: str, room: str, unix_ms: float) -> Sanction | None:
        """That for this room, and not one for everywhere; None if there is none."""
        sanctions = self.of_kind(kind)
        found = sanctions.get((user, room))
        if found is not None and found.is_over(unix_ms):
            del sanctions[user, room]
            return None
        return found

    def has_place(self, sanction: Sanction, unix_ms: float) -> bool:
        """Whether it may be added: in place of one before, or because there are not too many."""
        if (sanction.user, sanction.room) in self.of_kind(sanction.kind) or len(self) < self._most:
            return True
        if self._first_end_ms <= unix_ms:
            self.forget(unix_ms)
        return len(self) < self._most

    def forget(self, unix_ms: float) -> None:
        """Forget all that are over. O(all)."""
        for sanctions in (self.bans, self.mutes):
            for key in [key for key, each in sanctions.items() if each.is_over(unix_ms)]:
                del sanctions[key]
        ends = [each.until_ms for each in (*self.bans.values(), *self.mutes.values()) if each.until_ms is not None]
        self._first_end_ms = min(ends, default=inf)

    def add(self, sanction: Sanction) -> None:
        """It holds from now on, in place of one before."""
        self.of_kind(sanction.kind)[sanction.user, sanction.room] = sanction
        if sanction.until_ms is not None:
            self._first_end_ms = min(self._first_end_ms, sanction.until_ms)

    def remove(self, sanction: Sanction) -> None:
        """It holds no more."""
        del self.of_kind(sanction.kind)[sanction.user, sanction.room]

    def all(self, unix_ms: float) -> Sequence[Sanction]:
        """All that hold at this time."""
        both = (*self.bans.values(), *self.mutes.values())
        return [sanction for sanction in both if not sanction.is_over(unix_ms)]

    def __len__(self) -> int:
        return len(self.bans) + len(self.mutes)
