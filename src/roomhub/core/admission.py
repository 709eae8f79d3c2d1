"""Who may come in: caps, rates and names. It answers and counts; what follows from a refusal is the hub's."""

from collections import Counter, OrderedDict
from collections.abc import Callable

from roomhub.core import errors
from roomhub.core.errors import CloseReason
from roomhub.core.limits import Limits
from roomhub.core.names import room_fault
from roomhub.core.rates import Rate

__all__ = ["Admission"]


class Admission:
    """The caps on connections, the rate of joins, and the rule for rooms' names.

    Args:
        limits: every bound.
        room_rule: the program's own rule, as ``Hub`` takes it.

    Attributes:
        draining: nobody is let in any more.
    """

    __slots__ = ("_addresses", "_connections", "_join_rate", "_joins_due", "_limits", "_room_rule", "draining")

    def __init__(self, limits: Limits, room_rule: Callable[[str], str | None] | None = None) -> None:
        self.draining: bool = False
        self._limits = limits
        self._room_rule = room_rule
        self._connections = 0
        self._addresses: Counter[str] = Counter()
        self._join_rate = Rate(limits.join_rate_per_s, limits.join_burst)
        # By address and user, not by connection: a plain client joins by connecting, and could do so without end.
        self._joins_due: OrderedDict[tuple[str, str], float] = OrderedDict()

    def refusal(self, address: str) -> CloseReason | None:
        """Why a connection from ``address`` would not be taken now; None if it would."""
        if self.draining:
            return errors.DRAINING
        if self._connections >= self._limits.connections:
            return errors.OVER_CAPACITY
        if address and self._addresses[address] >= self._limits.connections_per_address:
            return errors.OVER_CAPACITY
        return None

    def enter(self, address: str) -> None:
        """A connection is there, also one that is only there to be refused."""
        self._connections += 1
        self._addresses[address] += 1

    def exit(self, address: str) -> None:
        """It is gone."""
        self._connections -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def takes_join(self, address: str, user: str, now: float) -> bool:
        """Whether the user at that address may join one more room at the allowed rate; counted if so."""
        dues = self._joins_due
        while dues and next(iter(dues.values())) <= now:
            dues.popitem(last=False)  # as if it had never joined
        who = (address, user)
        due = self._join_rate.take(dues.get(who, now), now)
        if due is None:
            return False
        dues[who] = due
        dues.move_to_end(who)
        return True

    def room_fault(self, room: str) -> str | None:
        """What is wrong with a room's name, None if nothing is. Raises what a rule of the program's own raises."""
        if not isinstance(room, str):
            raise TypeError(f"room must be text, not {room!r}")
        if room.startswith("@"):
            return "room must not begin with @: those are the mailboxes of direct messages"
        if self._room_rule is None:
            return room_fault(room, max_bytes=self._limits.room_bytes)
        try:
            room.encode()
        except UnicodeEncodeError:
            # A program's rule may let anything through, but this would fail at the framing, for every member.
            return "room has no UTF-8: it contains a lone surrogate"
        return self._room_rule(room)
