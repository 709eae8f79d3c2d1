"""How often something may happen: the generic cell rate algorithm, which needs one number a subject.

That number is when the next one would be due at the steady rate. How far it lies ahead of now is what the burst allows.
"""

import math

__all__ = ["Rate"]


class Rate:
    """So many a second, and so many at once; either may be ``inf``."""

    __slots__ = ("_burst_s", "_interval_s")

    def __init__(self, per_s: float, burst: float) -> None:
        # Without a bound on the burst nothing is ever refused, so nothing is ever due later.
        self._interval_s = 0.0 if burst == math.inf else 1 / per_s
        # A hundredth of an interval more: sums of fractions must not make the last of a burst one too many.
        self._burst_s = 0.0 if self._interval_s == 0 else max(0.0, (burst - 0.99) * self._interval_s)

    def take(self, due: float, now: float) -> float | None:
        """When the next one is due if one happens now; None if it may not.

        Args:
            due: what the last ``take`` gave for the same subject, anything up to ``now`` for a new one; seconds.
        """
        if due < now:
            due = now
        return None if due - now > self._burst_s else due + self._interval_s
