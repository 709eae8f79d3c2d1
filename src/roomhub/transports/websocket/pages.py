"""The HTTP pages beside the chat: health for load balancers, metrics in Prometheus' text format (0.0.4)."""

from collections import Counter
from collections.abc import Iterable, Mapping

from roomhub.core.statistics import Statistics
from roomhub.transports.websocket.handshake import Page

__all__ = ["health_page", "metrics_page"]


def health_page(*, draining: bool) -> Page:
    """200 while clients are welcome, 503 once the hub drains."""
    if draining:
        return Page(503, "application/json", b'{"status":"draining"}')
    return Page(200, "application/json", b'{"status":"ok"}')


def metrics_page(statistics: Statistics, refused: Mapping[str, int], failures: Mapping[str, int]) -> Page:
    """The hub's numbers, with the connections refused before it and those closed for what they sent, by reason."""
    counts_by_reason = Counter(statistics.refusals) + Counter(refused)
    refusals = {("reason", reason): count for reason, count in counts_by_reason.items()}
    lines: list[str] = []
    is_healthy = int(statistics.store_is_healthy)
    for name, kind, help_text, value in (
        ("connections", "gauge", "Connections open now.", statistics.connections),
        ("rooms", "gauge", "Rooms there are now.", statistics.rooms),
        ("members", "gauge", "Memberships now: a connection counts once in each of its rooms.", statistics.members),
        ("lag_messages", "gauge", "Messages the slowest client is behind its room.", statistics.lag_messages),
        ("messages_in_total", "counter", "Messages received from clients.", statistics.messages_in),
        ("messages_published_total", "counter", "Chat messages that took a place.", statistics.messages_published),
        ("messages_dropped_total", "counter", "Messages received and refused.", statistics.messages_dropped),
        ("store_failures_total", "counter", "Times that messages could not be stored.", statistics.store_failures),
        ("store_queued", "gauge", "Messages that wait to be stored.", statistics.store_queued),
        (
            "store_healthy",
            "gauge",
            "0 from a failure of the store until it stores again.",
            is_healthy,
        ),
        ("deliveries_total", "counter", "Frames handed out, one a message and recipient.", statistics.deliveries),
        ("received_bytes_total", "counter", "Text received from clients.", statistics.bytes_in),
        ("sent_bytes_total", "counter", "Frames handed out to clients.", statistics.bytes_out),
    ):
        lines += _family(name, kind, help_text, [("", value)])
    evictions_by_reason = Counter(statistics.evictions) + Counter(failures)
    evictions = {("reason", reason): count for reason, count in evictions_by_reason.items()}
    for name, help_text, counts in (
        ("evictions_total", "Connections closed by this side, by reason.", evictions),
        ("refusals_total", "Connections and joins not let in, by reason.", refusals),
    ):
        samples = [(f'{{{label}="{_escaped(value)}"}}', count) for (label, value), count in sorted(counts.items())]
        lines += _family(name, "counter", help_text, samples)
    return Page(200, "text/plain; version=0.0.4; charset=utf-8", "\n".join([*lines, ""]).encode())


def _family(name: str, kind: str, help_text: str, samples: Iterable[tuple[str, int]]) -> list[str]:
    full = f"roomhub_{name}"
    return [
        f"# HELP {full} {help_text}",
        f"# TYPE {full} {kind}",
        *(f"{full}{labels} {value}" for labels, value in samples),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
