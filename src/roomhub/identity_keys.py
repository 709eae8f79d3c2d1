"""Which names are one user's: those that look alike.

By PRECIS (RFC 8265 section 3, RFC 8266: the Nickname profile, case mapped) where the extra ``precis`` is installed,
otherwise by NFKC and case folding, which differ from it in a few scripts' rules.
"""

from collections.abc import Callable
from functools import lru_cache
from unicodedata import normalize

__all__ = ["user_key"]


def user_key(name: str) -> str:
    """The identity key of a user's name; the name itself where PRECIS has none for it."""
    if not name or (name.isascii() and name.islower() and " " not in name):
        return name
    enforce = _nickname()
    if enforce is not None:
        try:
            return enforce(name)
        except UnicodeEncodeError:
            return name
    # Case folding can undo the normal form, and the normal form can bring back capitals.
    folded = normalize("NFKC", normalize("NFKC", name).casefold()).casefold()
    return normalize("NFC", " ".join(folded.split())) or name


@lru_cache(maxsize=1)
def _nickname() -> Callable[[str], str] | None:
    # Imported where it is needed: most names are plain, and its tables are large.
    try:
        from precis_i18n import get_profile  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    enforce: Callable[[str], str] = get_profile("NicknameCaseMapped").enforce
    return enforce
