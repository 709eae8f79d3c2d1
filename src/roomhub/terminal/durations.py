"""Times that a person types, and reads: ``90s``, ``10m``, ``2h``, ``7d``."""

import re
from typing import Final

__all__ = ["seconds_of", "spoken"]

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORM: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", re.ASCII)


def seconds_of(text: str) -> float | None:
    """How many seconds that is, more than 0; None if it is no time."""
    found = _FORM.fullmatch(text)
    return float(found[1]) * _UNITS_S[found[2]] or None if found else None


def spoken(seconds: float) -> str:
    """The time as a person would type it, rounded to what matters: ``90s``, ``10m``, ``2h``, ``7d``."""
    unit = next((unit for unit, length_s in reversed(_UNITS_S.items()) if seconds > 1.9 * length_s), "s")
    return f"{max(seconds / _UNITS_S[unit], 1):.0f}{unit}"
