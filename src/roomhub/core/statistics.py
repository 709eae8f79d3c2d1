"""The hub's numbers."""

from dataclasses import dataclass

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """The hub's numbers at one moment; counts run from its beginning.

    Attributes:
        connections, rooms, members: how many there are now; a connection is a member of each of its rooms.
        messages_in: text messages received from clients.
        messages_published: chat messages that took a place in a room.
        messages_dropped: received and given no place: refused, or said by a client that is in no room.
        store_failures: times that the history store did not take or keep messages.
        deliveries: frames handed out, one a message and recipient.
        bytes_in, bytes_out: text received and frames handed out, in bytes (of UTF-8, where they are text).
        lag_messages: how far the slowest client is behind its room.
        evictions: connections the hub closed, by the reason's name.
        refusals: connections and joins it did not let in, by the reason's name.
        store_queued: messages that the history store has taken and not yet stored.
        store_is_healthy: False from a failure of the store until it has stored something.
    """

    connections: int
    rooms: int
    members: int
    messages_in: int
    messages_published: int
    messages_dropped: int
    store_failures: int
    deliveries: int
    bytes_in: int
    bytes_out: int
    lag_messages: int
    evictions: dict[str, int]
    refusals: dict[str, int]
    store_queued: int = 0
    store_is_healthy: bool = True
