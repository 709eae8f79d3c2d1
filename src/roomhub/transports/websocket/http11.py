"""HTTP/1.1 around the opening handshake: one request head in, one plain response out (RFC 9112).

The head is measured here before h11 sees it: h11 bounds what is incomplete only, so a head of any
size passes it when it comes in one read. Nothing that the peer sent is repeated in a response.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

import h11

# The longest method in IANA's registry has 17 bytes (UPDATEREDIRECTREF); another protocol may send
# no space for long.
_METHOD_BYTES = 32
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2

_TARGET_END = re.compile(rb"[ \n]")
_BLANK_LINE = re.compile(rb"\n\r?\n")  # a lone LF ends a line too: RFC 9112 section 2.2, as in h11
_REQUEST_LINE = re.compile(rb"[^ ]+ [\x21-\x7e]+ HTTP/1\.[01]\r?\n")
_FOLDED_LINE = re.compile(rb"\n[ \t]")

_ABSOLUTE_FORM = re.compile(r"(?:https?|wss?)://([^/]*)(.*)", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

# A name or an IPv4 address, or an IPv6 address in brackets; then maybe a port. Narrower than
# RFC 3986 section 3.2.2: no escapes, no sub-delims, which no client sends and IDNA would choke on.
HOST_AND_PORT = r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{0,5}))?"
_HOST = re.compile(HOST_AND_PORT)

JSON = "application/json; charset=utf-8"

HeaderPairs = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Request:
    """A request head whose syntax is sound.

    `path` is decoded, `segments` are its parts, decoded one by one: an escaped slash (`%2F`) splits
    nothing. `query` holds the decoded pairs in order. Header names are in lower case, values are
    Latin-1. `host` is the Host header, or the target's authority where that has one ("" for
    HTTP/1.0 without either).

    The representation shows none of the parts in which a client may have put a secret.
    """

    method: str
    http_version: str
    host: str
    path: str
    segments: tuple[str, ...] = field(repr=False)
    target: str = field(repr=False)
    query: HeaderPairs = field(repr=False)
    headers: HeaderPairs = field(repr=False)

    def values(self, name: str) -> list[str]:
        """All values of the header `name` (in lower case), in order, [] for none."""
        return [value for header, value in self.headers if header == name]

    def elements(self, name: str) -> list[str]:
        """The header `name` as a comma-separated list over all its lines (RFC 9110 section 5.6.1).

        Empty elements are left out. Not for values that may be quoted.
        """
        stripped = (element.strip(" \t") for element in ",".join(self.values(name)).split(","))
        return [element for element in stripped if element]


@dataclass(slots=True)
class Page:
    """An answer to GET or HEAD beside the WebSockets: status, content type, body."""

    status: int
    content_type: str
    body: bytes


@dataclass(slots=True)
class Refusal:
    """Why a request is not served: a status, and in our words what the client can do about it."""

    status: int
    error: str
    headers: HeaderPairs = ()


@dataclass(slots=True)
class Reply:
    """A complete response. Send `data`, then close. `data` is empty where nobody asked anything.

    `error` is the text of the refusal, for logs and counters, "" for a page.
    """

    status: int
    data: bytes
    error: str = ""


class HeadReader:
    """Collects one request head, within bounds, however it is cut.

    Each check is made at the byte that decides it, and in the order of those bytes. So the answer
    is the same for one read and for a thousand, and each byte is looked at a few times at most.
    """

    __slots__ = (
        "_buffer",
        "_header_bytes",
        "_searched",
        "_target_at",
        "_target_bytes",
        "_target_ended",
    )

    def __init__(self, *, header_bytes: float, target_bytes: float) -> None:
        self._header_bytes = header_bytes
        self._target_bytes = target_bytes
        self._buffer = bytearray()
        self._target_at = 0  # where the target begins; 0 until the method has ended
        self._target_ended = False
        self._searched = 0  # what is being looked for does not begin before this

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come yet."""
        return not self._buffer

    @property
    def is_head(self) -> bool:
        """Whether the method is HEAD, to which no response has a body (RFC 9110 section 9.3.2)."""
        return self._buffer.startswith(b"HEAD ")

    def feed(self, data: bytes) -> tuple[bytes, bytes] | Refusal | None:
        """Take bytes. Returns the head and what came behind it, a refusal, or None for "go on"."""
        self._buffer += data
        if not self._target_at and (refusal := self._find_target()):
            return refusal
        if not self._target_at:
            return None
        if not self._target_ended and (refusal := self._find_target_end()):
            return refusal
        if not self._target_ended:
            return None
        return self._find_end()

    def _find_target(self) -> Refusal | None:
        """A TLS ClientHello, another protocol, noise: refused at the first byte that shows it."""
        start = bytes(self._buffer[: _METHOD_BYTES + 1])
        method, space, _ = start.partition(b" ")
        too_long = len(method) > _METHOD_BYTES
        if start and (too_long or not _METHOD.fullmatch(method)):
            return Refusal(400, "this is not HTTP/1.1: was TLS or another protocol spoken here?")
        if space:
            self._target_at = self._searched = len(method) + 1
        return None

    def _find_target_end(self) -> Refusal | None:
        found = _TARGET_END.search(self._buffer, self._searched)
        self._searched = found.start() if found else len(self._buffer)
        self._target_ended = found is not None
        if self._searched - self._target_at > self._target_bytes:
            return Refusal(414, f"the request target is over {self._target_bytes:.0f} bytes: shorten the URL")
        return None

    def _find_end(self) -> tuple[bytes, bytes] | Refusal | None:
        buffer = self._buffer
        found = _BLANK_LINE.search(buffer, self._searched)
        end = found.end() if found else len(buffer)
        if end > self._header_bytes:
            return Refusal(
                431,
                f"the request head is over {self._header_bytes:.0f} bytes: send fewer or shorter headers",
            )
        if found:
            return bytes(buffer[:end]), bytes(buffer[end:])
        # A blank line of up to three bytes may have begun, but not before the target's end.
        self._searched = max(self._searched, end - 2)
        return None


def parse_request(head: bytes, *, max_headers: float) -> Request | Refusal:
    """Read a head that `HeadReader` found complete: 431 for too many headers, 400 for syntax."""
    if head.count(b"\n") - 2 > max_headers:  # all lines but the first and the blank one
        return Refusal(431, f"there are over {max_headers:.0f} headers: send fewer")
    if not _REQUEST_LINE.match(head):
        return Refusal(400, "the request line is malformed: METHOD SP /path SP HTTP/1.1 is expected")
    if _FOLDED_LINE.search(head):  # RFC 9112 section 5.2 lets a server refuse it
        return Refusal(400, "a header is folded over several lines: write it on one")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as exception:
        return Refusal(400, _syntax_fault(str(exception)))
    assert isinstance(event, h11.Request)  # the head is complete, so h11 wants nothing more
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    return _request(
        event.method.decode("ascii"),
        event.target.decode("ascii"),
        event.http_version.decode("ascii"),
        headers,
    )


def _syntax_fault(reason: str) -> str:
    """Our words for what h11 found; its own quote the peer's bytes."""
    if "Host" in reason:
        return "Host is malformed, missing or doubled: send it once"
    for name in ("Content-Length", "Transfer-Encoding"):
        if name in reason:
            return f"{name} is malformed, doubled or of an unknown kind: leave it out"
    return "a header line is malformed: Name: value is expected"


def _request(method: str, target: str, http_version: str, headers: HeaderPairs) -> Request | Refusal:
    """Take the target apart (RFC 9112 section 3.2) and check the host that it is meant for."""
    hosts = [value for name, value in headers if name == "host"]  # h11 lets at most one through
    path, _, query_text = target.partition("?")
    if absolute := _ABSOLUTE_FORM.fullmatch(path):
        # A target's own authority counts instead of Host, which must be sound all the same
        # (RFC 9112 section 3.2.2).
        hosts.insert(0, absolute[1])
        path = absolute[2] or "/"
    if not all(_is_host(host) for host in hosts):
        return Refusal(400, "Host is malformed: an ASCII name or address is needed, maybe :port")
    if not path.startswith("/") or "#" in target:
        return Refusal(400, "the request target must be a path that starts with / and has no #")
    segments = _decoded(path[1:].split("/"))
    if segments is None:
        return Refusal(400, "the path is not percent-encoded UTF-8")
    query = _query(query_text)
    if query is None:
        return Refusal(400, "the query is not percent-encoded UTF-8")
    return Request(
        method=method,
        http_version=http_version,
        host=hosts[0] if hosts else "",
        path="/" + "/".join(segments),
        segments=tuple(segments),
        target=target,
        query=query,
        headers=headers,
    )


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and int(match[2] or 0) < 65536


def _query(text: str) -> HeaderPairs | None:
    """The pairs of a form-encoded query, in order; + is a space. None: it cannot be decoded."""
    pieces = [piece.partition("=") for piece in text.replace("+", " ").split("&") if piece]
    names = _decoded([name for name, _, _ in pieces])
    values = _decoded([value for _, _, value in pieces])
    if names is None or values is None:
        return None
    return tuple(zip(names, values, strict=True))


def _decoded(parts: list[str]) -> list[str] | None:
    """Undo percent-encoding of UTF-8, strictly. urllib lets a broken escape through as it is."""
    if any(_BAD_ESCAPE.search(part) for part in parts):
        return None
    try:
        return [unquote_to_bytes(part).decode() if "%" in part else part for part in parts]
    except UnicodeDecodeError:
        return None


def response(
    status: int,
    content_type: str,
    body: bytes,
    headers: Iterable[tuple[str, str]] = (),
    *,
    head: bool = False,
) -> bytes:
    """The bytes of a response after which the connection closes; without its body where `head`.

    Raises h11.LocalProtocolError if `status` or `headers` are not fit for HTTP: the caller's fault.
    """
    extra = list(headers)
    # A sender of Upgrade must name it in Connection, also in a 426 (RFC 9110 section 7.8).
    upgrade = any(name.lower() == "upgrade" for name, _ in extra)
    fields = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Connection", "close, upgrade" if upgrade else "close"),
        *extra,
    ]
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    connection = h11.Connection(h11.SERVER)
    data = connection.send(h11.Response(status_code=status, reason=reason, headers=fields))
    assert data is not None  # only ConnectionClosed has no bytes
    return data if head else data + body


def refusal_reply(refusal: Refusal, *, head: bool = False) -> Reply:
    """The response for a refusal: `{"error":"..."}`, without spaces as the seed writes it."""
    body = json.dumps({"error": refusal.error}, separators=(",", ":")).encode()
    data = response(refusal.status, JSON, body, refusal.headers, head=head)
    return Reply(refusal.status, data, refusal.error)
