"""Keys that tokens are signed and verified with: read from PEM, JWK, JWK sets or a secret's text.

A key is bound to its algorithms when it is read, by its type. So whoever writes a token chooses among keys, and never
how a key is used: a public key's text is no secret, whatever a token's header says (RFC 8725 section 2.1).
"""

import json
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key
    from joserfc.errors import InvalidKeyTypeError, JoseError
    from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
except ImportError as _missing:
    raise ImportError("roomhub.jwt needs joserfc: pip install 'roomhub[jwt]'") from _missing

__all__ = ["ALGORITHMS", "KeyEntry", "Keys", "load_key", "write_new_key"]

ALGORITHMS: Final[Mapping[str, str]] = {"HS256": "oct", "RS256": "RSA", "EdDSA": "OKP", "Ed25519": "OKP"}
"""The type of key that each algorithm takes (RFC 7518 sections 3.2 and 3.3, RFC 8037 section 3.1).

"Ed25519" is the same as "EdDSA" under the name of RFC 9864; newer issuers write it.
"""
MIN_SECRET_BYTES: Final = 32
"""A secret of HS256 is as long as its hash (RFC 7518 section 3.2)."""
MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""
MAX_KEY_FILE_BYTES: Final = 1024 * 1024
"""No key set is longer; what is, is something else."""

_KINDS: Final = {"oct": "a secret", "RSA": "an RSA key", "OKP": "an Ed25519 key"}
_PEM: Final = "-----BEGIN "
_OPENSSH: Final = ("---- BEGIN SSH2 ", "ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")
_MAKE_ONE: Final = "make one with: roomhub token --new-key FILE"
_WANTED: Final = "a PEM key (RSA or Ed25519), a JWK or JWK set, or a secret's text"


class KeyEntry(NamedTuple):
    """One key.

    Attributes:
        key: as joserfc has it.
        algorithms: what it may be used with, the one that it signs with first.
        kid: its name in a key set; None without one.
        description: what it is, for a log or an error; nothing of the key is in it.
    """

    key: Key
    algorithms: tuple[str, ...]
    kid: str | None
    description: str

    def may(self, operation: str) -> bool:
        """Whether it may "sign" or "verify"."""
        try:
            self.key.check_key_op(operation)
        except JoseError:
            return False
        return True


class Keys:
    """One key or a set of them. Neither its text nor its ``repr`` shows them.

    Args:
        entries: the keys; at least one.

    Raises:
        ValueError: there is none, or two of one type have one ``kid``.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Sequence[KeyEntry]) -> None:
        if not entries:
            raise ValueError(f"there is no key that roomhub can use: give {_WANTED}")
        names = [(entry.kid, entry.key.key_type) for entry in entries]
        for name in names:
            if name[0] is not None and names.count(name) > 1:
                raise ValueError(f"two keys have the kid {name[0]!r}: give each its own (RFC 7517 section 4.5)")
        self._entries = tuple(entries)

    @classmethod
    def parse(cls, source: str | bytes) -> "Keys":
        """Read a text as a key file has it, or take bytes as a secret.

        Args:
            source: text: PEM, a JWK or JWK set in JSON, or a secret, which is the text without the white space around
                it. Bytes: a secret, as they are.

        Raises:
            ValueError: it is none of these, or weak.
        """
        if isinstance(source, bytes):
            return cls([_secret(source)])
        text = source.strip()
        if text.startswith("{"):
            return cls(_json(text))
        if _PEM in text:  # there may be words before it
            return cls([_pem(text[text.index(_PEM) :])])
        return cls([_secret(text.encode("utf-8", "surrogatepass"))])

    @property
    def description(self) -> str:
        """What they are, such as "an RSA public key of 2048 bits"; nothing of a key is in it."""
        if len(self._entries) == 1:
            return self._entries[0].description
        return f"{len(self._entries)} keys: {', '.join(entry.description for entry in self._entries)}"

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that tokens can be verified with."""
        return tuple(name for name in ALGORITHMS if self._usable(name, "verify"))

    def find(self, algorithm: str, kid: str | None) -> KeyEntry | None:
        """The key to verify a token with, None for none.

        A set chooses by ``kid``. A token without one is verified if only one key fits its algorithm; one that has one
        is verified by a key without, if that is the only key there is (RFC 7515 section 4.1.4: it is a hint).
        """
        found = self._usable(algorithm, "verify")
        if kid is not None and not (len(self._entries) == 1 and self._entries[0].kid is None):
            found = [entry for entry in found if entry.kid == kid]
        return found[0] if len(found) == 1 else None

    def signing(self) -> KeyEntry:
        """The key to sign with: the first that may.

        Raises:
            ValueError: there are public keys only.
        """
        for entry in self._entries:
            if entry.algorithms and entry.may("sign"):
                return entry
        raise ValueError(f"{self.description} cannot sign: give the private key that belongs to it, or a secret")

    def check(self, algorithm: str) -> None:
        """Raises ValueError if no token can be verified with this algorithm, and says why."""
        if algorithm not in ALGORITHMS:
            reason = "accepts tokens that nobody signed" if algorithm.lower() == "none" else "is not known"
            raise ValueError(f"algorithms: {algorithm!r} {reason}; choose from {', '.join(ALGORITHMS)}")
        if not self._usable(algorithm, "verify"):
            raise ValueError(f"{algorithm} needs {_KINDS[ALGORITHMS[algorithm]]}, but this is {self.description}")

    def _usable(self, algorithm: str, operation: str) -> list[KeyEntry]:
        return [entry for entry in self._entries if algorithm in entry.algorithms and entry.may(operation)]

    def __repr__(self) -> str:
        return f"<Keys: {self.description}>"


def load_key(path: str | os.PathLike[str]) -> Keys:
    """Read a key file: a PEM key (RSA or Ed25519, private or public), a JWK or JWK set in JSON, or a secret's text.

    Of a set, keys of other types or for other uses are left out (RFC 7517 section 5). A secret is the file's text
    without the white space around it; base64 is not decoded.

    Returns:
        The keys; ``Keys.description`` says what was found.

    Raises:
        ValueError: the file cannot be read, or has no key that is good enough; the text names the file and the remedy.
    """
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}; give a key file that this user may read") from None
    try:
        if len(data) > MAX_KEY_FILE_BYTES:
            raise ValueError(f"this is over {MAX_KEY_FILE_BYTES} bytes and no key: give {_WANTED}")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"this is no text (DER? convert it to PEM): give {_WANTED}") from None
        return Keys.parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def write_new_key(path: str | os.PathLike[str]) -> None:
    """Make a secret for HS256, of 256 random bits in base64, in a new file that only its owner may read.

    Raises:
        ValueError: the file is there already, or cannot be made.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ValueError(f"{name} is there already, and a key is never overwritten: choose another name") from None
    except OSError as error:
        raise ValueError(f"cannot make {name}: {error.strerror}; choose another place") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(MIN_SECRET_BYTES) + "\n")


def _secret(value: bytes) -> KeyEntry:
    if _PEM.encode() in value or value.lstrip().startswith(tuple(mark.encode() for mark in _OPENSSH)):
        # The text of a public key is known to everybody (RFC 8725 section 2.1).
        raise ValueError("this looks like a public or private key and is no secret: give it as PEM text, or a JWK")
    if not value:
        raise ValueError(f"this is empty: give {_WANTED}, or {_MAKE_ONE}")
    if len(value) < MIN_SECRET_BYTES:
        raise ValueError(
            f"this secret has {len(value)} bytes and can be guessed: HS256 needs {MIN_SECRET_BYTES} or more "
            f"(RFC 7518 section 3.2); {_MAKE_ONE}"
        )
    try:
        load_der_public_key(value)
    except (ValueError, UnsupportedAlgorithm):
        return _entry(OctKey.import_key(value))
    raise ValueError("this is a public key and no secret: give it as PEM text, or a JWK")


def _pem(text: str) -> KeyEntry:
    what = text.removeprefix(_PEM).partition("-----")[0]
    if "CERTIFICATE" in what:
        raise ValueError("this is a certificate: give its key, from: openssl x509 -pubkey -noout")
    kinds: tuple[type[RSAKey | OKPKey | ECKey], ...] = (RSAKey, OKPKey, ECKey)
    for kind in kinds:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # joserfc's of short keys; they are errors below
                key = kind.import_key(text)
        except InvalidKeyTypeError:
            continue
        except TypeError:
            raise ValueError("this key is encrypted: give it without a passphrase, from: openssl pkey") from None
        except Exception:  # joserfc's, Python's, or cryptography's for algorithms that it does not know
            break
        return _entry(key)
    raise ValueError(f"this PEM holds no key that can be read: give {_WANTED}")


def _json(text: str) -> list[KeyEntry]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"this begins like JSON and is none: give {_WANTED}") from None
    if "keys" not in value:
        return [_jwk(value)]
    members = value["keys"]
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise ValueError('"keys" must be a list of JWKs (RFC 7517 section 5)')
    entries: list[KeyEntry] = []
    for number, member in enumerate(members, 1):
        try:
            entries.append(_jwk(member))
        except _Unusable:
            continue
        except ValueError as error:
            raise ValueError(f"key {number} of the set: {error}") from None
    return entries


def _jwk(value: dict[str, Any]) -> KeyEntry:
    kinds: dict[Any, type[Key]] = {"oct": OctKey, "RSA": RSAKey, "OKP": OKPKey, "EC": ECKey}
    kty = value.get("kty")
    kind = kinds.get(kty) if isinstance(kty, str) else None
    if not isinstance(kty, str):
        raise ValueError('this JSON is no JWK, for it has no "kty" (RFC 7517 section 4.1)')
    if kind is None:
        raise _Unusable('its "kty" is none of oct, RSA and OKP')
    if value.get("k") == "":
        return _secret(b"")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = kind.import_key(value)
    except Exception:  # joserfc's, Python's or cryptography's, for members that are missing, of another type or wrong
        raise ValueError(f"this JWK of type {kty} is not whole (RFC 7518 section 6, RFC 8037 section 2)") from None
    return _entry(key)


class _Unusable(ValueError):
    """A key that is fine, and for something else: in a set it is passed over."""


def _entry(key: Key) -> KeyEntry:
    """The key with what it is and may do, if it is strong enough."""
    match key:
        case OctKey():
            what = f"a secret of {len(key.raw_value)} bytes"
            if len(key.raw_value) < MIN_SECRET_BYTES:
                _secret(key.raw_value)  # says what is wrong with it
        case RSAKey():
            bits = key.raw_value.key_size
            what = f"an RSA {'private' if key.is_private else 'public'} key of {bits} bits"
            if bits < MIN_RSA_BITS:
                raise ValueError(
                    f"this is {what}: RS256 needs {MIN_RSA_BITS} or more (RFC 7518 section 3.3); "
                    f"make one with: openssl genrsa {MIN_RSA_BITS}"
                )
        case OKPKey() if key.curve_name == "Ed25519":
            what = f"an Ed25519 {'private' if key.is_private else 'public'} key"
        case _:
            curve = key.curve_name
            raise _Unusable(f"this is a key of the curve {curve}, which roomhub does not use: give {_WANTED}")
    if key.get("use") not in (None, "sig"):
        raise _Unusable(f'this is {what} that is not for signatures (its "use"): give {_WANTED}')
    algorithms = tuple(
        name for name, kind in ALGORITHMS.items() if kind == key.key_type and key.get("alg") in (None, name)
    )
    if not algorithms:
        raise _Unusable(f'this is {what} for another algorithm (its "alg"): roomhub uses {", ".join(ALGORITHMS)}')
    kid = key.get("kid")
    return KeyEntry(key, algorithms, kid if isinstance(kid, str) else None, what)
