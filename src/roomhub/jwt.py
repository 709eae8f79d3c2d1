"""JSON Web Tokens (RFC 7519) as what peers show: an ``Authenticator`` that needs no look-up, and tokens to try it with.

A token is judged in this order, and what is cheap comes first: its length; its form; the algorithm, which has to be one
that was configured; the key; the signature; and only then what it says. Its expiry is last, so a peer that hears
"token_expired" knows that another token of the same kind would do.

What is refused is told without a word of the token: the message may end up in a log.
"""

import base64
import json
import math
import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from roomhub.core.protocol import MOD_ACTIONS
from roomhub.jwt_keys import ALGORITHMS, Keys, load_key  # first: it says what to install
from roomhub.ports import ConnectionInfo, Identity, Refusal

# isort: split
from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry

__all__ = ["ALGORITHMS", "MAX_TOKEN_BYTES", "MODERATION", "JwtAuthenticator", "Keys", "load_key", "make_token"]

MAX_TOKEN_BYTES: Final = 8 * 1024
"""A longer token is refused unread. Servers and proxies bound a header, where tokens come by too, to about as much."""
MAX_DATE_S: Final = 253_402_300_799
"""The end of the year 9999 in Unix seconds. A later time is no time but a mistake, such as milliseconds."""
MODERATION: Final = frozenset(MOD_ACTIONS)
"""What the right "mod" is for."""

# RFC 7515 section 7.1. The signature is empty only where alg is "none" (RFC 7518 section 3.6), which is told apart.
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)", re.ASCII)

_Names: TypeAlias = str | Sequence[str]


class JwtAuthenticator:
    """Lets in who shows a token with a good signature; an ``Authenticator``.

    Of the claims, ``sub`` is the user, text that is not empty. ``name`` is the name that others see, in Unicode's
    normal form NFC; without it, ``sub`` is. The rights are the list ``rights``, or without it the words of ``scope``
    (RFC 8693 section 4.2). ``exp``, plus the leeway, is when another token is due. ``rooms`` is a list of the rooms
    that may be joined, such as ``["lobby", "team-*"]``: a name, or how names begin and a ``*``. It is the same as a
    right "join:lobby" for each.

    By rights, "mod" allows to kick, ban, unban, mute and unmute everywhere, "mod:lobby" in that room, ``mod:team-*`` in
    those whose names begin so. Every room may be joined, unless a right "join:…" or ``rooms`` is there: then only
    those. A subclass may override ``authorize``.

    A token takes 20 to 150 microseconds to check, in the event loop.

    Args:
        key: what ``load_key`` gave; or text as a key file has it; or a secret in bytes.
        algorithms: those that are accepted, of ``ALGORITHMS``. Each is bound to its type of key, and "none" is not
            among them.
        audience: a token must be for this one, or one of these (its ``aud``). Without it, a token that has an ``aud``
            is refused (RFC 7519 section 4.1.3).
        issuer: a token must be of this one, or one of these (its ``iss``).
        leeway_s: by how many seconds the issuer's clock may differ (RFC 7519 section 4.1.4).
        require_exp: refuse tokens that never end.
        cookie: the name of a cookie with the token, for peers that show none otherwise. A browser sends cookies for
            pages of any origin, so the transport has to check that, as roomhub's does unless it is told otherwise.
        now_ms: Unix milliseconds.

    Raises:
        ValueError: a key is weak or cannot be read; an algorithm is not known or has no key of its type; another
            argument cannot be.
    """

    def __init__(
        self,
        key: Keys | str | bytes,
        *,
        algorithms: Sequence[str],
        audience: _Names | None = None,
        issuer: _Names | None = None,
        leeway_s: float = 10,
        require_exp: bool = True,
        cookie: str | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        if isinstance(algorithms, str) or not algorithms:
            raise ValueError(f'algorithms must be a list such as ["HS256"], not {algorithms!r}')
        if not 0 <= leeway_s < math.inf:
            raise ValueError(f"leeway_s must be a number of seconds, 0 or more, not {leeway_s!r}")
        self._keys = key if isinstance(key, Keys) else Keys.parse(key)
        for algorithm in algorithms:
            self._keys.check(algorithm)
        self._algorithms = frozenset(algorithms)
        self._audience = _names("audience", audience)
        self._issuer = _names("issuer", issuer)
        self._leeway_s = leeway_s
        self._require_exp = require_exp
        self._cookie = cookie
        self._now_ms = now_ms

    async def authenticate(self, info: ConnectionInfo) -> Identity | Refusal:
        """Who the peer's token says it is. Never raises, whatever the token."""
        token = info.token
        if token is None and self._cookie is not None:
            token = info.cookies.get(self._cookie)
        return Refusal("a token is needed") if token is None else self.verify(token)

    async def authorize(self, identity: Identity, action: str, room: str) -> bool:
        """Whether the rights allow it; any action but "join" and those of ``MODERATION`` is refused."""
        if action == "join":
            rooms = [right.removeprefix("join:") for right in identity.rights if right.startswith("join:")]
            return not rooms or any(_matches(pattern, room) for pattern in rooms)
        if action not in MODERATION:
            return False
        rooms = [right.removeprefix("mod:") for right in identity.rights if right.startswith("mod:")]
        return "mod" in identity.rights or (room != "" and any(_matches(pattern, room) for pattern in rooms))

    def verify(self, token: str) -> Identity | Refusal:
        """Who a token says it is, or why it is refused. Never raises."""
        try:
            return self._identity(self._claims(token))
        except _Refused as refused:
            return refused.refusal

    def _claims(self, token: str) -> dict[str, Any]:
        """What a good signature stands for."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _Refused(f"the token is over {MAX_TOKEN_BYTES} bytes")
        parts = _FORM.fullmatch(token)
        if parts is None:
            raise _Refused("the token is no JWT: it must be three parts of base64url with dots between them")
        header = _json_object("header", _decoded(parts[1]))
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == "none":
            raise _Refused('the token is not signed: its alg is "none"')
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise _Refused("the token's algorithm (alg) is not accepted here")
        if "crit" in header:  # RFC 7515 section 4.1.11; RFC 7797 section 7 has no b64 in a JWT
            raise _Refused("the token demands an extension (crit) that is not known here")
        if not _is_login(header.get("typ", "JWT")):
            raise _Refused("the token is of another type (typ)")
        if kid is not None and not isinstance(kid, str):
            raise _Refused("the token's key (kid) must be text")
        entry = self._keys.find(algorithm, kid)
        if entry is None:
            missing = "does not say which key it is signed with" if kid is None else "is signed with an unknown key"
            raise _Refused(f"the token {missing} (kid)")
        try:
            payload = jws.deserialize_compact(token, entry.key, registry=_REGISTRY).payload
        except BadSignatureError:
            raise _Refused("the token's signature is wrong") from None
        except (JoseError, ValueError):
            raise _Refused("the token is not well-formed") from None
        return _json_object("claims", payload)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        now_s = self._now_ms() / 1000
        expires = _date(claims, "exp")
        if expires is None and self._require_exp:
            raise _Refused("the token never ends: it needs an exp")
        if (_date(claims, "nbf") or 0) > now_s + self._leeway_s:
            raise _Refused("the token is not valid yet (nbf)")
        if (_date(claims, "iat") or 0) > now_s + self._leeway_s:
            raise _Refused("the token is issued in the future (iat)")
        self._check_audience(claims.get("aud"))
        if self._issuer is not None and _text(claims.get("iss")) not in self._issuer:
            raise _Refused("the token is of another issuer (iss)")
        user = _text(claims.get("sub"))
        if user is None:
            raise _Refused("the token must say whose it is (sub), in text")
        username = user if "name" not in claims else _text(claims["name"])
        if username is None:
            raise _Refused("the token's name must be text that is not empty")
        identity = Identity(
            user=user,
            username=unicodedata.normalize("NFC", username),
            # With the leeway, or what is let in by it would be put out at once.
            expires_ms=None if expires is None else int((expires + self._leeway_s) * 1000),
            rights=_rights(claims),
        )
        if expires is not None and now_s >= expires + self._leeway_s:
            raise _Refused("the token has expired", "token_expired")
        return identity

    def _check_audience(self, audience: object) -> None:
        if audience is None and self._audience is None:
            return
        named = audience if isinstance(audience, list) else [audience]
        if self._audience is None or not any(isinstance(name, str) and name in self._audience for name in named):
            raise _Refused("the token is for another audience (aud)")


def make_token(
    key: Keys | str | bytes,
    user: str,
    *,
    name: str | None = None,
    rights: Sequence[str] = (),
    ttl_s: float = 3600,
    audience: str | None = None,
    issuer: str | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> str:
    """Sign a token, for tests, for development, and for programs of your own that connect.

    Args:
        key: a secret or private key, as for ``JwtAuthenticator``. Of a set, the first one that can sign.
        user: ``sub``.
        name: the name that others see; ``user`` if not given.
        rights: such as ``mod``, ``mod:lobby``, ``join:team-*``.
        ttl_s: how many seconds from now it expires, in whole ones.
        audience: ``aud``.
        issuer: ``iss``.
        now_ms: Unix milliseconds.

    Raises:
        ValueError: the key cannot sign, is weak or cannot be read; ``user`` or ``name`` is empty; ``ttl_s`` is not more
            than 0; or the token would be longer than ``MAX_TOKEN_BYTES``.
    """
    if not user or name == "":
        raise ValueError("user and name must not be empty")
    entry = (key if isinstance(key, Keys) else Keys.parse(key)).signing()
    now_s = now_ms() // 1000
    if not 0 < ttl_s <= MAX_DATE_S - now_s:
        raise ValueError(f"ttl_s must be a number of seconds, more than 0, not {ttl_s!r}")
    claims = {
        "sub": user,
        "name": name,
        "rights": list(rights) or None,
        "iat": now_s,
        "exp": now_s + math.ceil(ttl_s),
        "aud": audience,
        "iss": issuer,
    }
    header = {"alg": entry.algorithms[0], "typ": "JWT"}
    if entry.kid is not None:
        header["kid"] = entry.kid
    claims = {claim: value for claim, value in claims.items() if value is not None}
    payload = json.dumps(claims, separators=(",", ":")).encode()
    token = jws.serialize_compact(header, payload, entry.key, registry=_REGISTRY)
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token would be over {MAX_TOKEN_BYTES} bytes: give it fewer rights, or shorter names")
    return token


class _Refused(Exception):
    def __init__(self, message: str, name: Literal["unauthorized", "token_expired"] = "unauthorized") -> None:
        self.refusal: Refusal = Refusal(message, name)


class _Registry(JWSRegistry):
    """joserfc's rules for headers and signatures, for our algorithms alone. Only the token as a whole is bounded.

    Header parameters that are not known are ignored, as RFC 7515 section 4 wants it.
    """

    max_header_length = max_payload_length = max_signature_length = MAX_TOKEN_BYTES

    def get_alg(self, name: str) -> Any:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]  # joserfc's own warns of the name "EdDSA"


_REGISTRY: Final = _Registry(strict_check_header=False)


def _names(what: str, names: _Names | None) -> frozenset[str] | None:
    if names is None:
        return None
    found = frozenset([names] if isinstance(names, str) else names)
    if not found or "" in found:
        raise ValueError(f"{what} must be a name or a list of names, none of them empty, not {names!r}")
    return found


def _is_login(typ: object) -> bool:
    """Whether a token's type may say who somebody is. One for a logout, say, has a type of its own.

    RFC 8725 section 3.11; RFC 7515 section 4.1.9 for how a type may be written; RFC 9068 section 2.1 for "at+jwt".
    """
    return isinstance(typ, str) and typ.lower().removeprefix("application/") in ("jwt", "at+jwt")


def _decoded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise _Refused("the token's header is not in base64url") from None


def _json_object(what: str, data: bytes) -> dict[str, Any]:
    """RFC 7515 section 4 and RFC 7519 section 4: no member comes twice, so no two readers can read two things."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except _Twice:
        raise _Refused(f"the token's {what}: a member comes twice") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _Refused(f"the token's {what}: this is no JSON object")
    return value


class _Twice(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2): Unix seconds, not necessarily whole."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DATE_S:
        raise _Refused(f"the token's {name} must be a time in Unix seconds")
    return value


def _text(value: object) -> str | None:
    """Text that is not empty and has a form in UTF-8; otherwise None. JSON can escape half of a surrogate pair."""
    if not isinstance(value, str) or not value or any("\ud800" <= character <= "\udfff" for character in value):
        return None
    return value


def _rights(claims: Mapping[str, Any]) -> frozenset[str]:
    rights: list[str]
    if "rights" in claims:
        rights = _texts(claims, "rights")
    elif isinstance(scope := claims.get("scope", ""), str):
        rights = scope.split(" ")
    else:
        raise _Refused("the token's scope must be text, with spaces between the rights")
    found = {right for right in rights if right}
    if "rooms" in claims:
        # "join:" matches no room, so an empty list allows none.
        found |= {"join:", *(f"join:{room}" for room in _texts(claims, "rooms"))}
    return frozenset(found)


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims[name]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Refused(f"the token's {name} must be a list of text")
    return value


def _matches(pattern: str, room: str) -> bool:
    """No room's name has a ``*`` in it, so one that is not at the end matches nothing."""
    return room.startswith(pattern[:-1]) if pattern.endswith("*") else room == pattern
