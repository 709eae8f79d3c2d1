"""JSON Web Tokens: who is let in and who is not, keys of each kind, and ``roomhub token``."""

import base64
import hashlib
import hmac
import json
import os
import re
import stat
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc.errors import UnsupportedAlgorithmError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from roomhub.cli import _authenticator, _parser, main
from roomhub.jwt import _REGISTRY, MAX_TOKEN_BYTES, MODERATION, JwtAuthenticator, Keys, load_key, make_token
from roomhub.jwt_keys import write_new_key
from roomhub.ports import Authenticator, ConnectionInfo, Identity, Refusal
from tests.test_cli import Serving
from tests.test_cli import refusal as refusal_of

NOW_S: Final = 1_800_000_000
SECRET: Final = "a secret of thirty-two bytes: ok"
RSA: Final = rsa.generate_private_key(65537, 2048)
ED: Final = ed25519.Ed25519PrivateKey.generate()
CLAIMS: Final[Mapping[str, Any]] = {"sub": "u1", "exp": NOW_S + 60}


class ManualTime:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now_s: float = NOW_S

    def __call__(self) -> int:
        return int(self.now_s * 1000)


def private_pem(key: Any, password: bytes | None = None) -> str:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return pem.decode()


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()


def jwk(key: Key, *, private: bool = False, **members: str | list[str]) -> dict[str, Any]:
    return {**key.as_dict(private=private), **members}


def jwk_of(source: Any, *, private: bool = False, **members: str | list[str]) -> dict[str, Any]:
    kind = RSAKey if isinstance(source, rsa.RSAPrivateKey) else OKPKey
    return jwk(kind.import_key(private_pem(source)), private=private, **members)


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(
    claims: object = CLAIMS, header: object = None, sign: Callable[[bytes], bytes] | None = None, secret: str = SECRET
) -> str:
    """A token made by hand, HS256 if nothing else is said, so that it can be wrong in every way."""
    text = f"{part(header or {'alg': 'HS256'})}.{part(claims)}"
    mac = sign or (lambda data: hmac.new(secret.encode(), data, hashlib.sha256).digest())
    return f"{text}.{part(mac(text.encode()))}"


def authenticator(key: Keys | str | bytes = SECRET, *algorithms: str, **options: Any) -> JwtAuthenticator:
    return JwtAuthenticator(key, algorithms=algorithms or ["HS256"], **{"now_ms": ManualTime(), **options})


def refusal(token: str, **options: Any) -> str:
    answer = authenticator(**options).verify(token)
    assert isinstance(answer, Refusal), answer
    assert answer.name == "unauthorized"
    return answer.message


def identity(claims: Mapping[str, Any], **options: Any) -> Identity:
    answer = authenticator(**options).verify(signed(claims))
    assert isinstance(answer, Identity), answer
    return answer


def show(token: str | None = None, **fields: Any) -> ConnectionInfo:
    return ConnectionInfo(token=token, **fields)


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signer", "verifier", "algorithm"),
    [
        (SECRET, SECRET, "HS256"),
        (SECRET.encode(), SECRET.encode(), "HS256"),
        (private_pem(RSA), public_pem(RSA), "RS256"),
        (private_pem(RSA), private_pem(RSA), "RS256"),
        (private_pem(ED), public_pem(ED), "EdDSA"),
        (private_pem(ED), private_pem(ED), "EdDSA"),
    ],
)
@pytest.mark.anyio
async def test_a_token_of_each_algorithm_lets_its_user_in(
    signer: str | bytes, verifier: str | bytes, algorithm: str
) -> None:
    token = make_token(signer, "u1", name="Ann", rights=["mod:lobby"], ttl_s=60, now_ms=ManualTime())
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "===")) == {"alg": algorithm, "typ": "JWT"}
    port: Authenticator = authenticator(verifier, algorithm)
    assert await port.authenticate(show(token)) == Identity(
        user="u1", username="Ann", expires_ms=(NOW_S + 70) * 1000, rights=frozenset({"mod:lobby"})
    )


def test_tokens_that_others_made_are_understood() -> None:
    """RFC 8037 appendix A.4, but for the claims; RFC 9864's name; header parameters that nobody here knows."""
    assert authenticator().verify(signed(header={"alg": "HS256", "typ": "at+jwt", "x": [1], "kid": "k"})) == identity(
        CLAIMS
    )
    for algorithm in ("EdDSA", "Ed25519"):
        token = signed(header={"alg": algorithm}, sign=ED.sign)
        assert authenticator(public_pem(ED), algorithm).verify(token) == identity(CLAIMS)
    long_header = {"alg": "HS256", "x5c": ["A" * 2000]}
    assert authenticator().verify(signed(header=long_header)) == identity(CLAIMS)


def test_a_large_rsa_key_has_a_long_signature() -> None:
    key = rsa.generate_private_key(65537, 4096)
    assert isinstance(
        authenticator(public_pem(key), "RS256").verify(make_token(private_pem(key), "u1", now_ms=ManualTime())),
        Identity,
    )


@pytest.mark.parametrize(
    ("claims", "username", "rights"),
    [
        ({}, "u1", set()),
        ({"name": "Ann"}, "Ann", set()),
        ({"name": "Søren 🦊"}, "Søren 🦊", set()),
        ({"name": unicodedata.normalize("NFD", "Zoë")}, "Zoë", set()),
        ({"rights": ["mod", "a b", "mod"]}, "u1", {"mod", "a b"}),
        ({"scope": "openid mod:lobby  x"}, "u1", {"openid", "mod:lobby", "x"}),
        ({"scope": ""}, "u1", set()),
        ({"rights": [], "scope": "mod"}, "u1", set()),
        ({"rooms": ["lobby", "team-*"]}, "u1", {"join:", "join:lobby", "join:team-*"}),
        ({"rooms": []}, "u1", {"join:"}),
    ],
)
def test_claims_become_an_identity(claims: Mapping[str, Any], username: str, rights: set[str]) -> None:
    found = identity({**CLAIMS, **claims})
    assert (found.user, found.username, set(found.rights)) == ("u1", username, rights)


def test_a_user_is_named_as_the_issuer_wrote_it() -> None:
    """RFC 7519 section 2: a StringOrURI is compared without any canonicalization."""
    decomposed = unicodedata.normalize("NFD", "Zoë")
    found = identity({**CLAIMS, "sub": decomposed})
    assert (found.user, found.username) == (decomposed, "Zoë")


@pytest.mark.anyio
async def test_a_cookie_is_taken_where_there_is_no_other_token() -> None:
    ann, ben = (make_token(SECRET, user, now_ms=ManualTime()) for user in ("ann", "ben"))
    port = authenticator(cookie="session")
    for info, user in (
        (show(cookies={"session": ann}), "ann"),
        (show(ben, cookies={"session": ann}), "ben"),
    ):
        answer = await port.authenticate(info)
        assert isinstance(answer, Identity)
        assert answer.user == user
    needed = Refusal("a token is needed")
    assert await port.authenticate(show(cookies={"other": ann})) == needed
    assert await authenticator().authenticate(show(cookies={"session": ann})) == needed
    assert isinstance(await port.authenticate(show("", cookies={"session": ann})), Refusal)


# -- who is not --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_without_a_token_nobody_comes_in() -> None:
    assert await authenticator().authenticate(show()) == Refusal("a token is needed", "unauthorized")


def test_time_runs_from_nbf_to_exp_with_the_leeway_at_both_ends() -> None:
    now = ManualTime()
    port = authenticator(leeway_s=5, now_ms=now)
    token = signed({"sub": "u1", "nbf": NOW_S + 10, "exp": NOW_S + 20.5})
    for offset_s, expected in (
        (4.9, Refusal("the token is not valid yet (nbf)")),
        (5, Identity),
        (25.4, Identity),
        (25.5, Refusal("the token has expired", "token_expired")),
        (1e9, Refusal("the token has expired", "token_expired")),
    ):
        now.now_s = NOW_S + offset_s
        answer = port.verify(token)
        assert answer == expected or type(answer) is expected, offset_s
        if isinstance(answer, Identity):
            assert answer.expires_ms == (NOW_S + 25.5) * 1000 > now()


def test_what_is_expired_and_wrong_is_wrong() -> None:
    """Another token of that kind would not help."""
    old = {"sub": "u1", "exp": NOW_S - 60}
    assert "signature" in refusal(signed(old, secret="x" * 32))
    assert "aud" in refusal(signed({**old, "aud": "a"}))
    assert "sub" in refusal(signed({**old, "sub": ""}))


def test_a_token_that_never_ends_is_refused_unless_that_is_wanted() -> None:
    assert "exp" in refusal(signed({"sub": "u1"}))
    assert identity({"sub": "u1"}, require_exp=False).expires_ms is None
    answer = authenticator(require_exp=False).verify(signed({"sub": "u1", "exp": NOW_S - 60}))
    assert isinstance(answer, Refusal)
    assert answer.name == "token_expired"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", ["1", None, True, [], -1, 1e300, 10**400, NOW_S * 1000], ids=lambda value: str(value)[:20]
)
def test_a_time_must_be_one(name: str, value: object) -> None:
    token = signed({**CLAIMS, name: value})
    assert refusal(token) == f"the token's {name} must be a time in Unix seconds"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1" * 5000], ids=lambda number: number[:9])
def test_what_is_no_number_of_json_is_refused(number: bytes) -> None:
    assert refusal(signed(b'{"sub":"u1","exp":' + number + b"}")) == "the token's claims: this is no JSON object"


def test_a_number_beyond_all_is_no_time() -> None:
    assert refusal(signed(b'{"sub":"u1","exp":1e999}')) == "the token's exp must be a time in Unix seconds"


@pytest.mark.parametrize(
    ("options", "audience"),
    [
        ({"audience": "chat"}, None),
        ({"audience": "chat"}, "shop"),
        ({"audience": "chat"}, "Chat"),
        ({"audience": "chat"}, ["shop", 1, None]),
        ({"audience": "chat"}, []),
        ({"audience": "chat"}, {"chat": 1}),
        ({"audience": ["chat", "talk"]}, "shop"),
        ({}, "shop"),
        ({}, ["shop"]),
    ],
)
def test_a_token_for_others_is_refused(options: dict[str, Any], audience: object) -> None:
    claims = CLAIMS if audience is None else {**CLAIMS, "aud": audience}
    assert refusal(signed(claims), **options) == "the token is for another audience (aud)"


@pytest.mark.parametrize(
    ("audience", "claim"), [("chat", "chat"), ("chat", ["shop", "chat"]), (["chat", "talk"], "talk"), (None, None)]
)
def test_a_token_for_us_is_taken(audience: Any, claim: object) -> None:
    assert identity({**CLAIMS, "aud": claim}, audience=audience).user == "u1"


def test_a_token_of_another_issuer_is_refused() -> None:
    for claims in ({}, {"iss": "evil"}, {"iss": ["login"]}, {"iss": None}, {"iss": "login "}):
        assert "iss" in refusal(signed({**CLAIMS, **claims}), issuer=["login", "sso"])
    assert identity({**CLAIMS, "iss": "sso"}, issuer=["login", "sso"]).user == "u1"
    assert identity({**CLAIMS, "iss": "anybody"}).user == "u1"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
def test_what_nobody_signed_is_refused(algorithm: str) -> None:
    """RFC 8725 section 3.2."""
    for signature in ("", part(b"x" * 32)):
        for options in ({}, {"key": public_pem(RSA)}):
            port = authenticator(*options.values(), *(["RS256"] if options else []))
            answer = port.verify(f"{part({'alg': algorithm})}.{part(CLAIMS)}.{signature}")
            assert isinstance(answer, Refusal)
            assert "alg" in answer.message


def test_joserfc_is_never_asked_for_another_algorithm() -> None:
    """Beside the check before it."""
    for algorithm in ("none", "HS512", "ES256"):
        with pytest.raises(UnsupportedAlgorithmError):
            _REGISTRY.get_alg(algorithm)


@pytest.mark.parametrize("key", [RSA, ED], ids=["RSA", "Ed25519"])
def test_a_public_key_is_no_secret(key: Any) -> None:
    """RFC 8725 section 2.1: HS256 with the text of a public key, which everybody has."""
    algorithm = "RS256" if key is RSA else "EdDSA"
    for text in (public_pem(key), public_pem(key).strip(), public_pem(key) + "\n"):
        token = signed(secret=text)
        assert "alg" in _message(authenticator(public_pem(key), algorithm).verify(token))
        both = Keys.parse(json.dumps({"keys": [jwk_of(key, kid="a"), _secret_jwk(kid="b")]}))
        assert "signature" in _message(authenticator(both, algorithm, "HS256").verify(token))
        assert "signature" in _message(authenticator(both, algorithm, "HS256").verify(signed(secret="y" * 32)))
        with pytest.raises(ValueError, match="no secret"):
            authenticator(text.encode())
        with pytest.raises(ValueError, match="needs a secret, but this is an"):
            authenticator(text)


def _message(answer: Identity | Refusal) -> str:
    assert isinstance(answer, Refusal)
    return answer.message


def _secret_jwk(secret: str = SECRET, **members: str | list[str]) -> dict[str, Any]:
    return {"kty": "oct", "k": part(secret.encode()), **members}


@pytest.mark.parametrize("header", [{"alg": "HS384"}, {"alg": "RS256"}, {"alg": 1}, {"alg": ["HS256"]}, {"x": 1}])
def test_another_algorithm_is_refused(header: object) -> None:
    assert refusal(signed(header=header)) == "the token's algorithm (alg) is not accepted here"


def test_an_algorithm_that_is_not_configured_is_refused_although_the_key_fits() -> None:
    both = Keys.parse(json.dumps({"keys": [_secret_jwk(), jwk_of(RSA)]}))
    assert both.algorithms == ("HS256", "RS256")
    assert isinstance(authenticator(both, "HS256").verify(signed()), Identity)
    assert "alg" in _message(authenticator(both, "RS256").verify(signed()))


@pytest.mark.parametrize("extension", [{"crit": ["b64"], "b64": False}, {"crit": ["exp"], "exp": 1}, {"crit": []}])
def test_an_extension_is_refused(extension: dict[str, Any]) -> None:
    assert "crit" in refusal(signed(header={"alg": "HS256", **extension}))


def test_a_wrong_signature_is_refused() -> None:
    head, claims, signature = signed().split(".")
    other = part({**CLAIMS, "sub": "admin"})
    for token in (
        signed(secret="x" * 32),
        f"{head}.{other}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.{signature[:-4]}",
        f"{head}.{claims}.{signature}AAAA",
        f"{part({'alg': 'HS256', 'x': 1})}.{claims}.{signature}",
    ):
        assert refusal(token) == "the token's signature is wrong"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/JWT", "at+jwt", "application/AT+JWT"])
def test_a_token_of_a_type_that_says_who_somebody_is(typ: str) -> None:
    assert isinstance(authenticator().verify(signed(header={"alg": "HS256", "typ": typ})), Identity)


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "", None, 7, ["JWT"]])
def test_a_token_of_another_type_is_refused(typ: object) -> None:
    """What the same key has signed for another purpose is no login."""
    assert "(typ)" in _message(authenticator().verify(signed(header={"alg": "HS256", "typ": typ})))


def test_a_truncated_token_is_refused_wherever_it_is_cut() -> None:
    token = signed()
    for end in range(len(token)):
        assert isinstance(authenticator().verify(token[:end]), Refusal)


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b"1", b'["alg"]', b'{"alg":"HS256","alg":"none"}', b"\xff", b'\xef\xbb\xbf{"alg":"HS256"}'],
)
def test_a_header_must_be_an_object_of_json(header: bytes) -> None:
    token = f"{part(header)}.{part(CLAIMS)}.{part(b'x' * 32)}"
    assert "header" in refusal(token)


@pytest.mark.parametrize(
    "claims",
    [b"[]", b"1", b"null", b"\xff", b'"sub"', b"[" * 5000, b'{"a":' * 1000, json.dumps(CLAIMS).encode("utf-16")],
)
def test_claims_must_be_an_object_of_json(claims: bytes) -> None:
    assert refusal(signed(claims)) == "the token's claims: this is no JSON object"


@pytest.mark.parametrize(
    "claims",
    [b'{"sub":"u1","exp":1800000060,"sub":"u2"}', b'{"sub":"u1","exp":1800000060,"x":{"a":1,"a":1}}'],
)
def test_duplicate_claims_are_refused(claims: bytes) -> None:
    """RFC 7519 section 4."""
    assert refusal(signed(claims)) == "the token's claims: a member comes twice"


@pytest.mark.parametrize("value", ["", None, 1, ["u1"], {"u1": 1}, True, "a\ud800"], ids=ascii)
@pytest.mark.parametrize("name", ["sub", "name"])
def test_who_it_is_must_be_text(name: str, value: object) -> None:
    assert name in refusal(signed({**CLAIMS, name: value}))


def test_a_token_must_say_whose_it_is() -> None:
    assert refusal(signed({"exp": NOW_S + 60})) == "the token must say whose it is (sub), in text"


@pytest.mark.parametrize(
    "claims",
    [{"rights": "mod"}, {"rights": [1]}, {"rights": None}, {"scope": ["mod"]}, {"scope": None}, {"rooms": "a"}],
)
def test_rights_must_be_in_order(claims: dict[str, Any]) -> None:
    assert next(iter(claims)) in refusal(signed({**CLAIMS, **claims}))


def test_iat_may_not_lie_in_the_future() -> None:
    assert identity({**CLAIMS, "iat": NOW_S + 10}).user == "u1"
    assert refusal(signed({**CLAIMS, "iat": NOW_S + 11})) == "the token is issued in the future (iat)"


def test_a_long_token_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def pad(size: int) -> str:
        bare = len(signed({**CLAIMS, "pad": ""}))
        return signed({**CLAIMS, "pad": "x" * ((size - bare) * 3 // 4)})

    fits = pad(MAX_TOKEN_BYTES)
    assert MAX_TOKEN_BYTES - 4 < len(fits) <= MAX_TOKEN_BYTES
    assert isinstance(authenticator().verify(fits), Identity)
    port = authenticator()
    monkeypatch.setattr("roomhub.jwt._FORM", None)
    monkeypatch.setattr("roomhub.jwt.jws", None)
    for token in (pad(MAX_TOKEN_BYTES + 10), pad(100 * 1024), "x" * 100 * 1024, "🦊" * 100 * 1024):
        assert _message(port.verify(token)) == "the token is over 8192 bytes"


def test_no_refusal_has_a_word_of_the_token_or_the_key() -> None:
    marked = "sesame"
    for claims in (
        {"sub": [marked], "exp": NOW_S + 60},
        {**CLAIMS, "exp": marked},
        {**CLAIMS, "aud": marked},
        {**CLAIMS, "rights": marked},
        {**CLAIMS, "name": {marked: marked}},
        {marked: marked},
    ):
        assert marked not in refusal(signed(claims))
    for header in ({"alg": marked}, {"alg": "HS256", "crit": [marked]}, {"alg": "HS256", "kid": {marked: 1}}):
        assert marked not in refusal(signed(header=header))
    assert marked not in refusal(marked * 5)
    assert marked not in repr(authenticator(marked * 6)._keys)
    with pytest.raises(ValueError, match="can be guessed") as caught:
        authenticator(marked)
    assert marked not in str(caught.value)


BASE64URL: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
claim_names = st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "name", "rights", "scope", "rooms"])
header_names = st.sampled_from(
    ["alg", "kid", "crit", "b64", "typ", "cty", "jwk", "jku", "x5c", "x5u", "x5t", "x5t#S256", "url", "nonce"]
)
shared_keys = Keys.parse(json.dumps({"keys": [_secret_jwk(kid="a"), jwk_of(RSA), jwk_of(ED, kid="a")]}))
every_algorithm = authenticator(shared_keys, "HS256", "RS256", "EdDSA", "Ed25519", audience="a", issuer="b")


def answers(token: str) -> None:
    for port in (every_algorithm, authenticator()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer = port.verify(token)
        assert isinstance(answer, Identity | Refusal)


@given(st.text() | st.text(BASE64URL + ".") | st.text(BASE64URL, min_size=1).map(lambda text: f"{text}.{text}.{text}"))
@example("\ud800.a.a")
@example("a.b.c\n")
@example(f"{part({'alg': 'HS256'})}.{part(CLAIMS)}.A")
@example(f"{part({'alg': 'HS256'})}.A.{part(b'')}")
def test_no_text_whatever_makes_it_raise(token: str) -> None:
    answers(token)


@given(st.dictionaries(header_names, json_values), st.sampled_from(["HS256", "RS256", "EdDSA", "Ed25519", "HS512"]))
def test_no_header_makes_it_raise(header: dict[str, Any], algorithm: str) -> None:
    answers(signed(header={"alg": algorithm, **header}))
    answers(signed(header={**header, "alg": algorithm}))
    answers(signed(header={**header, "alg": algorithm, "kid": "a"}))


@given(json_values | st.dictionaries(claim_names, json_values))
def test_no_claims_make_it_raise(claims: Any) -> None:
    answers(signed(claims))
    if isinstance(claims, dict):
        answers(signed({**claims, **CLAIMS}))
        answers(signed({**CLAIMS, **claims}))


# -- what they may -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rights", "moderated"),
    [
        ((), ""),
        (("mod",), "lobby den"),
        (("mod:lobby",), "lobby"),
        (("mod:den", "mod:lobby"), "lobby den"),
        (("mod:",), ""),
        (("mod:*",), "lobby den"),
        (("mod:lob*",), "lobby"),
    ],
)
@pytest.mark.anyio
async def test_moderation_needs_its_right(rights: tuple[str, ...], moderated: str) -> None:
    """And everywhere ("") that of everywhere."""
    who, port = Identity(user="u1", rights=frozenset(rights)), authenticator()
    assert await port.authorize(who, "ban", "") is ("mod" in rights)
    for room in ("lobby", "den"):
        for action in MODERATION:
            assert await port.authorize(who, action, room) is (room in moderated.split())
        assert await port.authorize(who, "join", room)
        assert not await port.authorize(who, "frobnicate", room)
        assert not await port.authorize(who, "", room)


@pytest.mark.parametrize(
    ("claims", "joined"),
    [
        ({}, "lobby team-a team- teams"),
        ({"rooms": []}, ""),
        ({"rooms": [""]}, ""),
        ({"rooms": ["lobby"]}, "lobby"),
        ({"rooms": ["team-*"]}, "team-a team-"),
        ({"rooms": ["lobby", "teams*"]}, "lobby teams"),
        ({"rooms": ["*"]}, "lobby team-a team- teams"),
        ({"rooms": ["*-a", "t*s"]}, ""),
        ({"rights": ["join:lobby", "mod"]}, "lobby"),
        ({"scope": "openid join:team-*"}, "team-a team-"),
    ],
)
@pytest.mark.anyio
async def test_rooms_can_be_limited(claims: dict[str, Any], joined: str) -> None:
    who = identity({**CLAIMS, **claims})
    rooms = ("lobby", "team-a", "team-", "teams")
    assert [room for room in rooms if await authenticator().authorize(who, "join", room)] == joined.split()


# -- keys --------------------------------------------------------------------------------------------------------------


def openssh(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return text.decode()


def pkcs1(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return text.decode()


def ssh_public(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return text.decode()


GOOD_FILES: dict[str, tuple[str, str, str, bool]] = {
    "secret": (f"{SECRET}\n", "a secret of 32 bytes", "HS256", True),
    "secret with a mark": (f"\ufeff {SECRET}\r\n", "a secret of 32 bytes", "HS256", True),
    "secret in Unicode": ("ü" * 16, "a secret of 32 bytes", "HS256", True),
    "RSA private": (private_pem(RSA), "an RSA private key of 2048 bits", "RS256", True),
    "RSA private, PKCS #1": (pkcs1(RSA), "an RSA private key of 2048 bits", "RS256", True),
    "RSA public": (public_pem(RSA), "an RSA public key of 2048 bits", "RS256", False),
    "RSA public, commented": (f"the key:\n{public_pem(RSA)}", "an RSA public key of 2048 bits", "RS256", False),
    "Ed25519 private": (private_pem(ED), "an Ed25519 private key", "EdDSA Ed25519", True),
    "Ed25519 private, OpenSSH": (openssh(ED), "an Ed25519 private key", "EdDSA Ed25519", True),
    "Ed25519 public": (public_pem(ED), "an Ed25519 public key", "EdDSA Ed25519", False),
    "JWK secret": (json.dumps(_secret_jwk()), "a secret of 32 bytes", "HS256", True),
    "JWK RSA public": (json.dumps(jwk_of(RSA)), "an RSA public key of 2048 bits", "RS256", False),
    "JWK RSA private": (json.dumps(jwk_of(RSA, private=True)), "an RSA private key of 2048 bits", "RS256", True),
    "JWK Ed25519 public": (json.dumps(jwk_of(ED, use="sig")), "an Ed25519 public key", "EdDSA Ed25519", False),
    "JWK Ed25519 private": (json.dumps(jwk_of(ED, private=True)), "an Ed25519 private key", "EdDSA Ed25519", True),
    "JWK with alg": (json.dumps(jwk_of(ED, alg="EdDSA")), "an Ed25519 public key", "EdDSA", False),
    "JWK for signing": (json.dumps(_secret_jwk(key_ops=["sign"])), "a secret of 32 bytes", "", True),
    "set": (
        json.dumps({"keys": [jwk_of(RSA, kid="1"), jwk_of(ED, kid="2", private=True)]}),
        "2 keys: an RSA public key of 2048 bits, an Ed25519 private key",
        "RS256 EdDSA Ed25519",
        True,
    ),
}


@pytest.mark.parametrize(("text", "description", "algorithms", "signs"), GOOD_FILES.values(), ids=GOOD_FILES.keys())
def test_a_key_file_says_what_it_is(tmp_path: Path, text: str, description: str, algorithms: str, signs: bool) -> None:
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    keys = load_key(path)
    assert (keys.description, " ".join(keys.algorithms)) == (description, algorithms)
    assert repr(keys) == f"<Keys: {description}>"
    if not signs:
        with pytest.raises(ValueError, match="cannot sign: give the private key"):
            make_token(keys, "u1")
        return
    token = make_token(keys, "u1", now_ms=ManualTime())
    if algorithms:
        assert isinstance(authenticator(keys, *keys.algorithms).verify(token), Identity)


WEAK_RSA: Final = rsa.generate_private_key(65537, 1024)
WEAK_MODULUS: Final = WEAK_RSA.public_key().public_numbers().n.to_bytes(128, "big")
EC: Final = ec.generate_private_key(ec.SECP256R1())
ED448: Final = ed448.Ed448PrivateKey.generate()
EC_JWK: Final = jwk(ECKey.import_key(private_pem(EC)))
BAD_FILES: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "is empty", "roomhub token --new-key FILE"),
    "blank": (" \n", "is empty", "roomhub token --new-key FILE"),
    "short": ("x" * 31, "has 31 bytes and can be guessed: HS256 needs 32 or more", "roomhub token --new-key FILE"),
    "binary": (b"\xff" * 32, "no text", "PEM"),
    "large": ("x" * 1024 * 1025, "over 1048576 bytes", "give a PEM key"),
    "weak RSA": (private_pem(WEAK_RSA), "an RSA private key of 1024 bits: RS256 needs 2048", "openssl genrsa 2048"),
    "weak JWK RSA": (
        json.dumps({"kty": "RSA", "n": part(WEAK_MODULUS), "e": "AQAB"}),
        "an RSA public key of 1024 bits",
        "openssl genrsa 2048",
    ),
    "weak JWK secret": (json.dumps(_secret_jwk("short")), "has 5 bytes", "roomhub token --new-key FILE"),
    "empty JWK secret": (json.dumps(_secret_jwk("")), "is empty", "roomhub token --new-key FILE"),
    "EC": (private_pem(EC), "curve P-256", "RSA or Ed25519"),
    "EC public": (public_pem(EC), "curve P-256", "RSA or Ed25519"),
    "EC JWK": (json.dumps(EC_JWK), "curve P-256", "RSA or Ed25519"),
    "Ed448": (private_pem(ED448), "curve Ed448", "RSA or Ed25519"),
    "DSA": (private_pem(dsa.generate_private_key(2048)), "no key that can be read", "RSA or Ed25519"),
    "encrypted": (private_pem(RSA, b"open"), "is encrypted", "openssl pkey"),
    "certificate": ("-----BEGIN CERTIFICATE-----\nAAAA\n", "is a certificate", "openssl x509 -pubkey"),
    "torn PEM": (private_pem(RSA)[:400], "no key that can be read", "RSA or Ed25519"),
    "garbled PEM": (public_pem(RSA).replace("M", "N"), "no key that can be read", "RSA or Ed25519"),
    "ssh-rsa": (ssh_public(RSA), "no secret", "PEM"),
    "ssh-ed25519": (ssh_public(ED), "no secret", "PEM"),
    "torn JSON": ('{"kty":', "begins like JSON and is none", "JWK"),
    "deep JSON": ('{"a":' * 100_000, "begins like JSON and is none", "JWK"),
    "no JWK": ('{"a": 1}', 'no "kty"', "RFC 7517"),
    "kty of a list": ('{"kty": ["RSA"]}', 'no "kty"', "RFC 7517"),
    "unknown kty": ('{"kty": "AKP"}', "none of oct, RSA and OKP", "kty"),
    "JWK without n": (json.dumps({**jwk_of(RSA), "n": None}), "RSA is not whole", "RFC 7518 section 6"),
    "JWK of another curve": ('{"kty":"OKP","crv":"Ed9","x":"AA"}', "OKP is not whole", "RFC 8037"),
    "JWK for encryption": (json.dumps(jwk_of(RSA, use="enc")), "not for signatures", "use"),
    "JWK for another algorithm": (json.dumps(jwk_of(RSA, alg="RS512")), "another algorithm", "HS256, RS256"),
    "empty set": ('{"keys": []}', "no key that roomhub can use", "JWK"),
    "set of strangers": (json.dumps({"keys": [EC_JWK, {"kty": "AKP"}]}), "no key that roomhub can use", "JWK"),
    "set of no list": ('{"keys": {}}', "must be a list", "RFC 7517"),
    "set of no JWKs": ('{"keys": [1]}', "must be a list", "RFC 7517"),
    "set with a weak key": (json.dumps({"keys": [jwk_of(RSA), _secret_jwk("x")]}), "key 2 of the set", "--new-key"),
    "set with a kid twice": (
        json.dumps({"keys": [jwk_of(ED, kid="a"), jwk_of(ed25519.Ed25519PrivateKey.generate(), kid="a")]}),
        "two keys have the kid 'a'",
        "give each its own",
    ),
}


@pytest.mark.parametrize(("content", "fault", "fix"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_key_file_is_named_with_its_remedy(tmp_path: Path, content: str | bytes, fault: str, fix: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=re.escape(fault)) as caught:
        load_key(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert fix in text
    assert "\n" not in text


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*/none: No such file or directory; give a key file"):
        load_key(tmp_path / "none")
    with pytest.raises(ValueError, match=r"cannot read .*: Is a directory; give a key file"):
        load_key(str(tmp_path))


def test_a_set_chooses_by_kid() -> None:
    other = "another secret, of 32 bytes too!"
    members = [_secret_jwk(kid="1"), _secret_jwk(other, kid="2"), jwk_of(RSA, kid="1"), EC_JWK, jwk_of(ED)]
    port = authenticator(Keys.parse(json.dumps({"keys": members})), "HS256", "RS256", "EdDSA")

    def answer(secret: str, **header: Any) -> str:
        found = port.verify(signed(header={"alg": "HS256", **header}, secret=secret))
        return found.user if isinstance(found, Identity) else found.message

    assert answer(SECRET, kid="1") == answer(other, kid="2") == "u1"
    assert answer(SECRET, kid="2") == answer(other, kid="1") == "the token's signature is wrong"
    for kid in ("3", "", "kid"):
        assert answer(SECRET, kid=kid) == "the token is signed with an unknown key (kid)"
    assert answer(SECRET) == answer(SECRET, kid=None) == "the token does not say which key it is signed with (kid)"
    assert answer(SECRET, kid=1) == "the token's key (kid) must be text"
    # Only one fits, so nothing has to be said; but what is said has to be so.
    assert isinstance(port.verify(signed(header={"alg": "EdDSA"}, sign=ED.sign)), Identity)
    assert "kid" in _message(port.verify(signed(header={"alg": "EdDSA", "kid": "1"}, sign=ED.sign)))


def test_a_key_alone_is_asked_for_its_kid_only_if_it_has_one() -> None:
    token = signed(header={"alg": "HS256", "kid": "1"})
    assert isinstance(authenticator().verify(token), Identity)
    for kid, expected in (("1", Identity), ("2", Refusal)):
        assert isinstance(authenticator(json.dumps(_secret_jwk(kid=kid))).verify(token), expected)


def test_a_token_names_the_key_that_signed_it() -> None:
    members = [jwk_of(RSA, kid="old"), jwk_of(ED, kid="new", private=True), _secret_jwk(kid="third")]
    keys = Keys.parse(json.dumps({"keys": members}))
    token = make_token(keys, "u1", now_ms=ManualTime())
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "==="))
    assert (header["alg"], header["kid"]) == ("EdDSA", "new")
    assert isinstance(authenticator(keys, *keys.algorithms).verify(token), Identity)


# -- what cannot be, at construction -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "options", "fault"),
    [
        (
            "short",
            {},
            r"has 5 bytes and can be guessed: HS256 needs 32 or more \(RFC 7518 section 3.2\); make one with",
        ),
        (b"", {}, "is empty"),
        (b"x" * 31, {}, "has 31 bytes"),
        (SECRET, {"algorithms": ["none"]}, "'none' accepts tokens that nobody signed; choose from HS256, RS256"),
        (SECRET, {"algorithms": ["HS512"]}, "'HS512' is not known; choose from HS256"),
        (SECRET, {"algorithms": []}, 'must be a list such as \\["HS256"\\]'),
        (SECRET, {"algorithms": "HS256"}, 'must be a list such as \\["HS256"\\]'),
        (SECRET, {"algorithms": ["HS256", "RS256"]}, "RS256 needs an RSA key, but this is a secret of 32 bytes"),
        (SECRET, {"algorithms": ["EdDSA"]}, "EdDSA needs an Ed25519 key, but this is a secret of 32 bytes"),
        (public_pem(RSA), {}, "HS256 needs a secret, but this is an RSA public key of 2048 bits"),
        (json.dumps(_secret_jwk(key_ops=["sign"])), {}, "HS256 needs a secret"),
        (SECRET, {"leeway_s": -1}, "leeway_s"),
        (SECRET, {"leeway_s": float("nan")}, "leeway_s"),
        (SECRET, {"leeway_s": float("inf")}, "leeway_s"),
        (SECRET, {"audience": ""}, "audience"),
        (SECRET, {"audience": []}, "audience"),
        (SECRET, {"issuer": ["a", ""]}, "issuer"),
    ],
)
def test_what_cannot_be_is_said_at_once(key: str | bytes, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        JwtAuthenticator(key, **{"algorithms": ["HS256"], **options})


def test_keys_must_be_some() -> None:
    with pytest.raises(ValueError, match="no key that roomhub can use"):
        Keys([])


def test_the_der_of_a_public_key_is_no_secret() -> None:
    der = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="no secret"):
        authenticator(der)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"user": ""}, "must not be empty"),
        ({"name": ""}, "must not be empty"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"ttl_s": float("nan")}, "ttl_s"),
        ({"ttl_s": float("inf")}, "ttl_s"),
        ({"rights": ["x" * 8192]}, "over 8192 bytes"),
    ],
)
def test_a_token_that_nobody_would_take_is_not_made(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        make_token(SECRET, **{"user": "u1", **options})


# -- the command line --------------------------------------------------------------------------------------------------


def roomhub(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "roomhub", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_a_key_and_a_token_from_the_command_line(tmp_path: Path) -> None:
    key = tmp_path / "key.txt"
    made = roomhub("token", "--new-key", key)
    assert (made.returncode, made.stderr) == (0, "")
    assert "HS256" in made.stdout
    secret = key.read_text()
    assert secret.strip() not in made.stdout
    if os.name == "posix":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_key(key).description == "a secret of 43 bytes"

    again = roomhub("token", "--new-key", key)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == (
        f"roomhub token: --new-key: {key} is there already, and a key is never overwritten: choose another name\n"
    )
    assert key.read_text() == secret

    flags = ("--name", "Ann", "--right", "mod", "--right", "join:team-*", "--ttl-s", "60")
    done = roomhub("token", "--key", key, "--user", "u1", *flags, "--audience", "chat", "--issuer", "dev")
    assert (done.returncode, done.stderr) == (0, "")
    port = JwtAuthenticator(load_key(key), algorithms=["HS256"], audience="chat", issuer="dev")
    answer = port.verify(done.stdout.removesuffix("\n"))
    assert isinstance(answer, Identity)
    assert (answer.user, answer.username, set(answer.rights)) == ("u1", "Ann", {"mod", "join:team-*"})


def test_two_new_keys_differ(tmp_path: Path) -> None:
    for name in "ab":
        write_new_key(tmp_path / name)
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Key files in the working directory."""
    for name, text in (("secret", SECRET), ("rsa", private_pem(RSA)), ("ed.pub", public_pem(ED)), ("weak", "weak")):
        (tmp_path / name).write_text(text)
    (tmp_path / "sign").write_text(json.dumps(_secret_jwk(key_ops=["sign"])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("arguments", "fault", "fix"),
    [
        ("token", "needs --key FILE", "--new-key FILE"),
        ("token --key secret", "needs --user NAME", ""),
        ("token --user u1", "needs --key FILE", "--new-key FILE"),
        ("token --key none --user u1", "--key: cannot read none", "give a key file"),
        ("token --key weak --user u1", "--key: weak: this secret has 4 bytes", "roomhub token --new-key FILE"),
        ("token --key ed.pub --user u1", "--key: an Ed25519 public key cannot sign", "private key"),
        ("token --key secret --user u1 --ttl-s 0", "--ttl-s", "more than 0"),
        ("token --key secret --user u1 --ttl-s inf", "--ttl-s", "more than 0"),
        ("token --new-key a --user u1", "--new-key excludes", "first"),
        ("token --new-key nowhere/a", "--new-key: cannot make nowhere/a", "choose another place"),
        ("token --new-key secret", "secret is there already", "choose another name"),
        ("serve --jwt-key none", "--jwt-key: cannot read none", "give a key file"),
        ("serve --jwt-key weak", "--jwt-key: weak: this secret has 4 bytes", "roomhub token --new-key FILE"),
        ("serve --jwt-key sign", "--jwt-key: sign: a secret of 32 bytes", "key_ops"),
        ("serve --jwt-key secret --jwt-algorithm RS256", "--jwt-algorithm: RS256 needs an RSA key", "a secret"),
        ("serve --jwt-key secret --jwt-algorithm none", "--jwt-algorithm", "HS256"),
        ("serve --jwt-algorithm RS256", "--jwt-algorithm needs --jwt-key", "file"),
        ("serve --jwt-audience a", "--jwt-audience needs --jwt-key", "file"),
        ("serve --jwt-issuer a", "--jwt-issuer needs --jwt-key", "file"),
        ("serve --jwt-key secret --jwt-audience=", "--jwt-audience: audience must be a name", ""),
        ("serve --jwt-key secret --jwt-issuer=", "--jwt-issuer: issuer must be a name", ""),
    ],
)
def test_a_bad_flag_is_named_with_its_remedy(
    arguments: str, fault: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments.split())
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert fault in err
    assert fix in err


@pytest.mark.usefixtures("keys")
def test_a_server_takes_its_keys_from_flags() -> None:
    def port(*flags: str) -> JwtAuthenticator | None:
        found = _authenticator(_parser().parse_args(["serve", *flags]))
        assert found is None or isinstance(found, JwtAuthenticator)
        return found

    assert port() is None
    token = make_token(SECRET, "u1", audience="chat", issuer="dev")
    flags = ("--jwt-key", "secret", "--jwt-audience", "chat", "--jwt-issuer", "dev")
    for algorithm in ((), ("--jwt-algorithm", "HS256")):
        found = port(*flags, *algorithm)
        assert found is not None
        assert isinstance(found.verify(token), Identity)
    strict = port("--jwt-key", "ed.pub", "--jwt-algorithm", "Ed25519")
    assert strict is not None
    assert "alg" in _message(strict.verify(signed(header={"alg": "EdDSA"}, sign=ED.sign)))


def test_a_server_with_a_key_lets_in_who_shows_a_token(keys: Path) -> None:
    flags = ("--port", "0", "--jwt-key", str(keys / "secret"), "--jwt-audience", "chat", "--log-level", "error")
    with Serving(*flags) as serving:
        good = make_token(SECRET, "u1", name="Ann", audience="chat")
        for token in (None, "x", make_token(SECRET, "u1"), make_token("x" * 32, "u1", audience="chat")):
            shown = {} if token is None else {"Authorization": f"Bearer {token}"}
            assert refusal_of(serving, additional_headers=shown) == 401
        with serving.connect("/ws/lobby", additional_headers={"Authorization": f"Bearer {good}"}) as ann:
            assert '"Ann"' in str(ann.recv(10)) + str(ann.recv(10))
        assert serving.end() == ""


@pytest.mark.parametrize("arguments", [("token", "--key", "k", "--user", "u"), ("serve", "--jwt-key", "k")])
def test_without_the_extra_the_flags_say_what_to_install(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("roomhub.jwt", "roomhub.jwt_keys"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "joserfc.errors", None)  # None: it is not there
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith("roomhub.jwt needs joserfc: pip install 'roomhub[jwt]'\n")
