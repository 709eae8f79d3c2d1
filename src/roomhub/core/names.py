"""What a room and a user may be called.

Pure: a name goes in, a message for whoever chose it comes out, or None where the name is fine. A
message never repeats the name: it may be sent back to a client or go into a log as it is.
"""

import re
from unicodedata import category, is_normalized

__all__ = ["room_fault", "username_fault"]

_ROOM = re.compile(r"[A-Za-z0-9._~-]+")

# Shown as nothing, yet not of category Cf: the rest of Unicode's Default_Ignorable_Code_Point
# (DerivedCoreProperties.txt), so fillers, variation selectors, the grapheme joiner. With one of
# them a second "kevin" looks exactly like the first.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)

# Control, format (bidi controls, zero-width joiners), lone surrogate, line and paragraph separator.
_REFUSED_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))

_BRAILLE_BLANK = "\u2800"  # not whitespace to Unicode, but empty to the eye


def room_fault(room: str, *, max_bytes: float = 64) -> str | None:
    """Say what is wrong with a room's name, or None.

    A room is `[A-Za-z0-9._~-]`, 1 to `max_bytes` bytes: what a URL path carries unescaped
    (RFC 3986 section 2.3), so that a name looks the same wherever it is written. `.` and `..` would
    be taken away by whoever normalizes the path (section 5.2.4).
    """
    if not room:
        return "room is empty"
    if len(room) > max_bytes:
        return f"room is over {max_bytes:.0f} bytes: choose a shorter name"
    if not _ROOM.fullmatch(room):
        return "room may only contain letters A-Z a-z, digits and . _ ~ -"
    if room in (".", ".."):
        return "room may not be . or .."
    return None


def username_fault(username: str, *, max_bytes: float = 64, plain: bool) -> str | None:
    """Say what is wrong with a user's name, or None.

    A name is 1 to `max_bytes` bytes of UTF-8 in NFC, with something to see in it and nothing in it
    that hides, reorders or breaks text. `plain`: it goes into the plain dialect's roster, which
    joins names with commas, so it may not contain one.
    """
    if not username:
        return "username is empty"
    too_long = f"username is over {max_bytes:.0f} bytes of UTF-8: choose a shorter one"
    if len(username) > max_bytes:  # before any work: a character is at least a byte
        return too_long
    for character in username:
        if category(character) in _REFUSED_CATEGORIES or _IGNORABLE.match(character):
            return (
                f"username contains U+{ord(character):04X}: control, direction, zero-width "
                "and line break characters are not allowed"
            )
    # Only here: a lone surrogate, refused above, has no UTF-8.
    if len(username.encode()) > max_bytes:
        return too_long
    if not is_normalized("NFC", username):
        return "username is not in Unicode normal form NFC: normalize it"
    if all(character.isspace() or character == _BRAILLE_BLANK for character in username):
        return "username is blank: use at least one visible character"
    if plain and "," in username:
        return "username contains a comma, which separates the names in a roster: leave it out"
    return None
