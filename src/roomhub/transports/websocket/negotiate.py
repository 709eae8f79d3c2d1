"""What the headers of an opening handshake ask for, and what they get: pure functions of a request.

The upgrade itself and the subprotocol (RFC 6455 section 4.2), the browser's origin,
permessage-deflate (RFC 7692), and who is behind a proxy (RFC 7239). wsproto's own reading takes
doubled keys and origins and raises for malformed parameters, so none of it is used.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha1
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from .http11 import HOST_AND_PORT, Refusal, Request

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# One `name`, `name=token` or `name="quoted"` and what separates it from the next. The token is
# wider than RFC 9110 has it, as proxies write `for=[::1]:80` unquoted; who needs it narrow checks.
_PARAMETER = re.compile(
    r"[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r'(?:[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s",;=]+)))?'
    r"[ \t]*(?P<end>[,;]|$)"
)

Parameters = list[tuple[str, str | None]]


# The upgrade, RFC 6455 section 4.2


def upgrade_refusal(request: Request) -> Refusal | None:
    """Say why this GET cannot become a WebSocket: 426 for upgrade and version, 400 for the rest."""
    for name in ("Content-Length", "Transfer-Encoding"):
        # h11 would read a body where frames are, and a proxy might: request smuggling.
        if request.values(name.lower()):
            return Refusal(400, f"{name} has no place in a WebSocket upgrade: leave it out")
    if request.http_version == "1.0":
        return _upgrade_required("a WebSocket upgrade needs HTTP/1.1")
    if "websocket" not in map(str.lower, request.elements("upgrade")):
        return _upgrade_required("this is a WebSocket address: send Upgrade: websocket")
    if "upgrade" not in map(str.lower, request.elements("connection")):
        return _upgrade_required("Connection must contain Upgrade: does a proxy take it away?")
    if request.values("sec-websocket-version") != ["13"]:
        return _upgrade_required("Sec-WebSocket-Version must be 13")
    keys = request.values("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal(400, "Sec-WebSocket-Key must be given once, as base64 of 16 bytes")
    return None


def _upgrade_required(error: str) -> Refusal:
    headers = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
    return Refusal(426, error, headers)


def _is_key(text: str) -> bool:
    try:
        return len(b64decode(text, validate=True)) == 16
    except ValueError:  # not base64, or not ASCII
        return False


def accept_token(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2, item 5.4)."""
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return b64encode(sha1(key.encode() + guid, usedforsecurity=False).digest()).decode()


def select_subprotocol(request: Request, spoken: Collection[str]) -> str | Refusal | None:
    """The first that the client offers and we speak, None where there is none, 400 for bad syntax.

    `roomhub.bearer.…` carries a secret and is never selected, so never echoed.
    """
    offers = request.elements("sec-websocket-protocol")
    if not all(_TOKEN.fullmatch(offer) for offer in offers):
        return Refusal(400, "Sec-WebSocket-Protocol must be a list of tokens")
    for offer in offers:
        if offer in spoken and not offer.startswith("roomhub.bearer."):
            return offer
    return None


# The origin: a browser sends it, and cannot be made to lie about it (RFC 6455 section 10.2)

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_HOST = re.compile(HOST_AND_PORT)
_ORIGIN = re.compile(f"(https?|wss?)://{HOST_AND_PORT}", re.IGNORECASE)


def origin_refusal(request: Request, *, allowed: Collection[str], required: bool, secure: bool) -> Refusal | None:
    """Hold the request's Origin against its Host and `allowed` (exact strings; `*` for all).

    None is fine, as only browsers send one, unless it is `required`. Two are 400, a foreign one or
    `null` (which anybody's sandboxed frame has) is 403.
    """
    origins = request.values("origin")
    if not origins:
        return Refusal(403, "Origin is required here") if required else None
    if len(origins) > 1:
        return Refusal(400, "Origin must be given once")
    origin = origins[0]
    if "*" in allowed or origin in allowed or _is_same_host(origin, request.host, secure=secure):
        return None
    return Refusal(403, "Origin is not allowed: use a page of this host, or allow it (allow_origins, --allow-origin)")


def _is_same_host(origin: str, host: str, *, secure: bool) -> bool:
    """Whether host and port of both are equal.

    A Host without port means 443 where the connection is `secure`. Where it is not, TLS may have
    ended at a proxy unknown to us, so it means the default port of the origin's scheme.
    """
    theirs, ours = _ORIGIN.fullmatch(origin), _HOST.fullmatch(host)
    if not theirs or not ours:
        return False
    default_port = _DEFAULT_PORTS[theirs[1].lower()]
    their_port = int(theirs[3] or default_port)
    our_port = int(ours[2] or (443 if secure else default_port))
    return theirs[2].lower() == ours[1].lower() and their_port == our_port


# permessage-deflate, RFC 7692 section 7

WINDOW_BITS = 12  # small, so that one compressor a lane and one inflater a connection cost little
_BITS = re.compile(r"[89]|1[0-5]")  # section 7.1.2: 8 to 15, no leading zeros


@dataclass(slots=True)
class Deflate:
    """permessage-deflate as it was agreed, without context takeover in either direction.

    The server compresses with a window of 2**`server_max_window_bits` bytes, the client within
    2**`client_max_window_bits`, which is 15 where the client did not let us choose.
    """

    server_max_window_bits: int
    client_max_window_bits: int

    @property
    def answer(self) -> str:
        """What Sec-WebSocket-Extensions says in the response."""
        answer = (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            f"server_max_window_bits={self.server_max_window_bits}"
        )
        if self.client_max_window_bits < 15:
            answer += f"; client_max_window_bits={self.client_max_window_bits}"
        return answer


def select_deflate(request: Request, least_window_bits: int = WINDOW_BITS) -> Deflate | None:
    """The first acceptable offer of permessage-deflate, None where there is none.

    An offer is passed over if a parameter is unknown, doubled or malformed, or if it wants the
    server's window smaller than `least_window_bits`, at most 12. Where all connections share what
    one compressor made they cannot have smaller ones; zlib can do 9 and more.
    """
    for offer in _parameter_lists(request.values("sec-websocket-extensions")):
        if offer and offer[0] == ("permessage-deflate", None):
            selected = _deflate(offer[1:], least_window_bits)
            if selected is not None:
                return selected
    return None


def _deflate(offer: Parameters, least_window_bits: int) -> Deflate | None:
    parameters = dict(offer)
    if len(parameters) != len(offer):
        return None
    for name, value in offer:
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover":
                valid = value is None
            case "server_max_window_bits":
                valid = _is_bits(value) and int(value or 0) >= least_window_bits
            case "client_max_window_bits":
                valid = value is None or _is_bits(value)
            case _:
                valid = False
        if not valid:
            return None
    server_bits = min(int(parameters.get("server_max_window_bits") or WINDOW_BITS), WINDOW_BITS)
    client_bits = 15
    if "client_max_window_bits" in parameters:  # else it may not be in the answer (section 7.1.2.2)
        client_bits = min(int(parameters["client_max_window_bits"] or 15), WINDOW_BITS)
    return Deflate(server_bits, client_bits)


def _is_bits(value: str | None) -> bool:
    return value is not None and _BITS.fullmatch(value) is not None


# Behind proxies, RFC 7239 and the older X-Forwarded-*

_MAX_HOPS = 16  # proxies in a row that are believed; more is a forged list of trusted addresses
_SECURE = {"https": True, "wss": True, "http": False, "ws": False}


def client_of(request: Request, peer: str, *, secure: bool, trusted: Sequence[Network]) -> tuple[str, bool]:
    """The client's address and whether it came over TLS, as far as trusted proxies vouch for it.

    `peer` is the address of the socket, `secure` whether there is TLS on it. What each proxy
    appended is read from right to left while the one that appended it is trusted. An IPv4 address
    mapped into IPv6 counts as IPv4. A proxy hands on what it does not write itself, so where
    `Forwarded` and `X-Forwarded-*` contradict each other the client made one of them up, and
    neither is believed.
    """
    nearest = _address(peer)
    if nearest is None:  # a Unix socket has none
        return peer, secure
    if not _is_in(nearest, trusted):
        return str(nearest), secure
    accounts = {_walk(hops, nearest, secure, trusted) for hops in (_forwarded(request), _x_forwarded(request)) if hops}
    return accounts.pop() if len(accounts) == 1 else (str(nearest), secure)


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether `peer`, the address of a socket, is a trusted proxy's."""
    address = _address(peer)
    return address is not None and _is_in(address, trusted)


def _walk(
    hops: Sequence[tuple[str, str]], nearest: Address, secure: bool, trusted: Sequence[Network]
) -> tuple[str, bool]:
    address = nearest
    for client, scheme in reversed(hops[-_MAX_HOPS:]):
        secure = _SECURE.get(scheme.lower(), secure)
        found = _address(client)
        if found is None:  # `unknown`, `_hidden` (RFC 7239 section 6): the proxy is all we know
            break
        address = found
        if not _is_in(address, trusted):
            break
    return str(address), secure


def _forwarded(request: Request) -> list[tuple[str, str]]:
    """(for, proto) of each element of Forwarded, "" where it says nothing or cannot be read."""
    hops = []
    for element in _parameter_lists(request.values("forwarded")):
        values = {name.lower(): value or "" for name, value in element or ()}
        hops.append((values.get("for", ""), values.get("proto", "")))
    return hops


def _x_forwarded(request: Request) -> list[tuple[str, str]]:
    """The same from X-Forwarded-For and -Proto. A single scheme, the usual, is that of all."""
    clients = request.elements("x-forwarded-for")
    schemes = request.elements("x-forwarded-proto")
    if len(schemes) != len(clients):
        clients = clients or [""]
        schemes = (schemes or [""])[-1:] * len(clients)
    return list(zip(clients, schemes, strict=True))


def _address(text: str) -> Address | None:
    """An IP address written bare, with a port, in brackets, or with a zone (which is left out)."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _parameter_lists(values: Iterable[str]) -> Iterator[Parameters | None]:
    """The elements of `a; b=c, d` (RFC 6455 section 9.1, RFC 7239 section 4), as their parameters.

    None stands for an element that is malformed, which ends at the next comma. Each header line is
    read for itself: a quote that a client left open swallows nothing of a line that a proxy added.
    """
    for text in values:
        at = 0
        element: Parameters = []
        while at < len(text):
            match = _PARAMETER.match(text, at)
            if match is None:
                comma = text.find(",", at)
                end = comma if comma >= 0 else len(text)
                if element or text[at:end].strip(" \t"):  # an empty element is allowed, and nothing
                    yield None
                element, at = [], end + 1
                continue
            quoted = match["quoted"]
            value = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            element.append((match["name"], value))
            at = match.end()
            if match["end"] == ";":
                continue
            yield element
            element = []
        if element:  # it ended in a semicolon
            yield None
