"""Who a peer is, or is not."""

from dataclasses import dataclass
from typing import Literal

from roomhub.core.names import username_fault

__all__ = ["Identity", "Refusal", "identity_fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a peer is.

    Attributes:
        user: the identity key: the same for all connections of one user, and for nobody else.
        username: the name that others see; ``user`` if not given.
        expires_ms: Unix milliseconds after which it has to be shown anew; None for never.
        rights: whatever ``Authenticator.authorize`` decides by.
    """

    user: str
    username: str = ""
    expires_ms: int | None = None
    rights: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who a peer is not.

    Attributes:
        message: why, for the peer to read.
        name: "unauthorized" (401 at the handshake: nothing good was shown), "forbidden" (403: known, and not let in) or
            "token_expired" (it has to get a new one).
    """

    message: str
    name: Literal["unauthorized", "forbidden", "token_expired"] = "unauthorized"


def identity_fault(identity: Identity, *, max_bytes: float, plain: bool) -> str | None:
    """What is wrong with its names, or None: both go to others, so ``username_fault`` has its say on both.

    ``plain``: the user name goes into the plain dialect's roster.
    """
    fault = username_fault(identity.username or identity.user, max_bytes=max_bytes, plain=plain)
    return username_fault(identity.user, max_bytes=max_bytes, plain=False) if fault is None else fault
