"""The server's side of opening one connection: bytes in, an upgrade to accept or a reply out.

No I/O, no clock. A driver feeds `Handshake.receive` what it reads until it answers:

- `Upgrade`: sound, and allowed as far as the request alone tells. The driver looks at what only the
  server knows (credentials, bans, capacity), sends `accept()` and goes on with `rest`, or sends
  `refuse(...)` and closes.
- `Reply`: send its bytes, close.

Faults are looked for in this order, which is the protocol's: syntax and sizes (400, 414, 431), path
(404), method (405), room or username (400), upgrade and version (426, 400), Origin (403). Drop the
handshake once it has answered: nothing of it is needed any more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from roomhub.core.json_codec import JsonCodec
from roomhub.core.names import room_fault, username_fault

from .http11 import (
    HeadReader,
    Page,
    Refusal,
    Reply,
    Request,
    parse_request,
    refusal_reply,
    response,
)
from .negotiate import (
    WINDOW_BITS,
    Deflate,
    Network,
    accept_token,
    client_of,
    origin_refusal,
    select_deflate,
    select_subprotocol,
    upgrade_refusal,
)

__all__ = [
    "Deflate",
    "Handshake",
    "Network",
    "Page",
    "Policy",
    "Refusal",
    "Reply",
    "Request",
    "Route",
    "Router",
    "Upgrade",
    "chat_route",
    "error_reply",
    "timeout_reply",
    "unavailable_reply",
]


@dataclass(slots=True)
class Route:
    """Where a request leads: the room and the user it names, "" where it names none."""

    room: str = ""
    username: str = ""


Router = Callable[[Request], Route | Refusal]
"""Tells which path is what. A 404 goes out at once, other refusals once the method is checked."""


@dataclass(slots=True, kw_only=True)
class Policy:
    """What a server allows; one for all its connections. Sizes are bytes, `inf` is allowed.

    allow_origins: exact origins that are allowed beside the host's own; `*` allows all, `null` too.
    require_origin: refuse who sends no Origin, so all but browsers.
    trusted_proxies: whose Forwarded and X-Forwarded-* are believed.
    subprotocols: those spoken here.
    compression: whether permessage-deflate may be agreed on.
    least_window_bits: 9 to 12, the smallest window of ours that a client may ask for with it. Lanes need 12.
    pages: what GET and HEAD answer, by path; called once a request. They come before the route.
    """

    route: Router
    header_bytes: float = 16 * 1024
    max_headers: float = 100
    target_bytes: float = 8 * 1024
    allow_origins: frozenset[str] = frozenset()
    require_origin: bool = False
    trusted_proxies: Sequence[Network] = ()
    compression: bool = False
    least_window_bits: int = WINDOW_BITS
    subprotocols: Sequence[str] = ()
    pages: Mapping[str, Callable[[], Page]] = field(default_factory=dict)


@dataclass(slots=True)
class Upgrade:
    """A sound request for a WebSocket; nothing has been answered yet.

    address: the client's, after proxies; secure: whether it came over TLS.
    rest: the bytes behind the request, the first frames; they must not be lost.
    """

    request: Request
    route: Route
    subprotocol: str | None
    deflate: Deflate | None
    address: str
    secure: bool
    rest: bytes = field(repr=False)

    def accept(self) -> bytes:
        """The 101 response (RFC 6455 section 4.2.2). Frames follow it."""
        [key] = self.request.values("sec-websocket-key")
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_token(key)}",
        ]
        if self.subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {self.subprotocol}")
        if self.deflate is not None:
            lines.append(f"Sec-WebSocket-Extensions: {self.deflate.answer}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def refuse(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """The response to send, before closing, where the server will not have this client.

        Raises h11.LocalProtocolError if status or headers are not fit for HTTP: the caller's fault.
        """
        return refusal_reply(Refusal(status, message, tuple(headers))).data


class Handshake:
    """One connection from its first byte to its upgrade or its end.

    `peer` is the address of the socket as text, without port; `secure`: there is TLS on it.
    """

    __slots__ = ("_peer", "_policy", "_reader", "_secure")

    def __init__(self, policy: Policy, peer: str, *, secure: bool) -> None:
        self._policy = policy
        self._peer = peer
        self._secure = secure
        self._reader: HeadReader | None = HeadReader(header_bytes=policy.header_bytes, target_bytes=policy.target_bytes)

    def receive(self, data: bytes) -> Upgrade | Reply | None:
        """Take what was read; `b""` is the end of the stream. None: more is needed.

        Nothing a peer sends makes it raise. Raises RuntimeError if it has answered before.
        """
        reader = self._reader
        if reader is None:
            raise RuntimeError("this handshake has answered already")
        if data:
            found = reader.feed(data)
        elif reader.is_empty:  # came and went: a port scan, a load balancer's probe
            found = Refusal(400, "the connection ended before a request")
        else:
            found = Refusal(400, "the connection ended within the request head")
        if found is None:
            return None
        self._reader = None
        answer = found if isinstance(found, Refusal) else self._answer(*found)
        if not isinstance(answer, Refusal):
            return answer
        if reader.is_empty:
            return Reply(answer.status, b"", answer.error)
        return refusal_reply(answer, head=reader.is_head)

    def _answer(self, head: bytes, rest: bytes) -> Upgrade | Reply | Refusal:
        request = parse_request(head, max_headers=self._policy.max_headers)
        if isinstance(request, Refusal):
            return request
        page = self._policy.pages.get(request.path)
        return self._upgrade(request, rest) if page is None else _page(request, page)

    def _upgrade(self, request: Request, rest: bytes) -> Upgrade | Refusal:
        policy = self._policy
        route = policy.route(request)
        if not isinstance(route, Route | Refusal):
            raise TypeError(f"route must return a Route or a Refusal, not {route!r}")
        if isinstance(route, Refusal) and route.status == 404:
            return route
        if request.method != "GET":
            return Refusal(405, "only GET is answered here", (("Allow", "GET"),))
        if isinstance(route, Refusal):
            return route
        if refusal := upgrade_refusal(request):
            return refusal
        subprotocol = select_subprotocol(request, policy.subprotocols)
        if isinstance(subprotocol, Refusal):
            return subprotocol
        address, secure = client_of(request, self._peer, secure=self._secure, trusted=policy.trusted_proxies)
        if refusal := origin_refusal(
            request, allowed=policy.allow_origins, required=policy.require_origin, secure=secure
        ):
            return refusal
        return Upgrade(
            request=request,
            route=route,
            subprotocol=subprotocol,
            deflate=select_deflate(request, policy.least_window_bits) if policy.compression else None,
            address=address,
            secure=secure,
            rest=rest,
        )


def _page(request: Request, page: Callable[[], Page]) -> Reply | Refusal:
    if request.method not in ("GET", "HEAD"):
        return Refusal(405, "only GET and HEAD are answered here", (("Allow", "GET, HEAD"),))
    # A length of 0 is no body, and some clients send it with every request.
    lengths = request.values("content-length")
    if any(length.strip("0") for length in lengths) or request.values("transfer-encoding"):
        return Refusal(400, "a request body has no place here: leave it out")
    made = page()
    is_head = request.method == "HEAD"
    return Reply(made.status, response(made.status, made.content_type, made.body, head=is_head))


def chat_route(
    *,
    name_bytes: float = 64,
    room_rule: Callable[[str], str | None] = room_fault,
    needs_username: bool = True,
) -> Router:
    """The route of the chat: `/ws/{room}?username={name}`, as the seed has it; for v1 clients `/ws` as well.

    Room or username missing or empty is 400 with the seed's own words, a doubled or invalid one 400
    with what is wrong with it, any other path 404. User names are bounded in bytes of UTF-8;
    `room_rule` gives None for a good room name, else what is wrong with it. Without `needs_username` a name may be
    missing: an authenticator says who it is.
    """

    def route(request: Request) -> Route | Refusal:
        match request.segments:
            case ("ws",) | ("ws", ""):
                room = ""
            case ("ws", room):
                pass
            case _:
                return Refusal(404, "no such path: the chat is at /ws/{room}?username={name}")
        is_v1 = select_subprotocol(request, (JsonCodec.name,)) == JsonCodec.name
        usernames = [value for name, value in request.query if name == "username"]
        if (needs_username and not any(usernames)) or not (room or is_v1):
            return Refusal(400, "username is required" if is_v1 else "room and username are required")
        if len(usernames) > 1:
            return Refusal(400, "username is given more than once: send it once")
        username = usernames[0] if usernames else ""
        fault = room_rule(room) if room else None
        if fault is None and username:
            fault = username_fault(username, max_bytes=name_bytes, plain=not is_v1)
        return Route(room, username) if fault is None else Refusal(400, fault)

    return route


def timeout_reply() -> Reply:
    """408, for a peer that was silent or slow until the handshake's time was up."""
    return refusal_reply(Refusal(408, "the request did not arrive in time"))


def error_reply() -> Reply:
    """500, where what should have answered failed."""
    return refusal_reply(Refusal(500, "the server failed to answer this request"))


def unavailable_reply(message: str, *, retry_after_s: int) -> Reply:
    """503 with Retry-After in whole seconds, for a connection whose request is not even read."""
    return refusal_reply(Refusal(503, message, (("Retry-After", str(retry_after_s)),)))
