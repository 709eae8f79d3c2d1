"""What others wrote, made fit for a terminal. Peers are hostile: an escape sequence of theirs must stay text."""

import time
import zlib
from typing import Final
from unicodedata import category, east_asian_width

__all__ = ["clean", "clock_of", "colour_of", "date_of", "width_of"]

_JOINER: Final = "\u200d"  # holds emoji together; the rest of Cf hides or reorders text
_PALETTE: Final = (31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96)


def clean(text: str) -> str:
    """The text on one line, without anything that a terminal would obey or that turns it around.

    Line breaks are shown as ``↵``, other control characters as ``\\ufffd``, and what nobody sees is left out.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text.replace("\r\n", "\n"))


def _shown(character: str) -> str:
    if character == "\n":
        return " ↵ "
    if character == "\t":
        return " "
    match category(character):
        case "Cc" | "Cs" | "Zl" | "Zp" | "Co" | "Cn":
            return "\ufffd"
        case "Cf" if character != _JOINER:
            return ""
    return character


def width_of(character: str) -> int:
    """How many columns a character takes."""
    if category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(character) in ("W", "F") else 1


def clock_of(when_s: float) -> str:
    """The local time of day of a Unix time, which a server may have made up."""
    try:
        return time.strftime("%H:%M", time.localtime(when_s))
    except (ValueError, OverflowError, OSError):
        return "--:--"


def date_of(when_s: float) -> str:
    """The local date and time of day of a Unix time, which a server may have made up."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(when_s))
    except (ValueError, OverflowError, OSError):
        return "the end of time"


def colour_of(user: str) -> int:
    """A colour of a user's own, the same on every screen."""
    return _PALETTE[zlib.crc32(user.encode(errors="replace")) % len(_PALETTE)]
