"""Who is here, in the plain dialect: the seed's frames, conflated by time in large rooms."""

from itertools import pairwise

from roomhub.core.commands import CloseRoom, Enter, Exit, Kick, Publish
from roomhub.core.effects import Close
from roomhub.core.errors import KICKED
from roomhub.core.events import Connected, Disconnected, Received
from tests.core.playbook import BYTES, TEXT, After, Nothing, Playbook, Sees, netstring_lane

WIDE_COMMA = "\uff0c"


def join(client: str, user: str) -> Connected[str]:
    return Connected(client, TEXT, user, ["r"], shares=True)


def large_room(members: int = 4, **limits: float) -> Playbook:
    """A room above ``presence_batch_members``, whose last roster went out a while ago."""
    play = Playbook(**{"presence_batch_members": 3, "presence_interval_s": 0.5, **limits})
    for number in range(members):
        play >> join(f"m{number}", f"M{number}")
    return (play >> After(1.0)).forget()


def test_a_newcomer_and_the_others_see_the_roster_then_the_join() -> None:
    (
        Playbook()
        >> join("ann", "Ann")
        << Sees("ann", "online Ann", "+Ann")
        >> join("ben", "Ben")
        << Sees("ann", "online Ann,Ben", "+Ben")
        << Sees("ben", "online Ann,Ben", "+Ben")
    )


def test_the_others_see_the_leave_then_the_roster() -> None:
    (
        (Playbook() >> join("ann", "Ann") >> join("ben", "Ben")).forget()
        >> Disconnected("ann")
        << Sees("ben", "-Ann", "online Ben")
        << Nothing()
    )


def test_in_a_small_room_each_join_is_told_at_once() -> None:
    (
        Playbook(presence_batch_members=3)
        >> join("ann", "Ann")
        >> join("ben", "Ben")
        >> join("cy", "Cy")
        << Sees("ann", "online Ann", "+Ann", "online Ann,Ben", "+Ben", "online Ann,Ben,Cy", "+Cy")
        << Sees("cy", "online Ann,Ben,Cy", "+Cy")
    )


def test_in_a_large_room_the_first_join_is_told_at_once_and_more_wait_their_time() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        << Sees("ann", "online M0,M1,M2,M3,Ann", "+Ann")
        >> join("ben", "Ben")
        >> Disconnected("m1")
        >> join("cy", "Cy")
        << Sees("m0")
        << Sees("ben")
        >> After(0.999)
        << Sees("m0")
        >> After(0.001)
        << Sees("m0", "-M1", "online M0,M2,M3,Ann,Ben,Cy", "+Ben", "+Cy")
        << Sees("ben", "-M1", "online M0,M2,M3,Ann,Ben,Cy", "+Ben", "+Cy")
    )


def test_in_a_large_room_rosters_come_at_most_once_in_two_intervals() -> None:
    play = large_room()
    told_at: list[float] = []
    for step in range(80):
        for item in (join(f"c{step}", f"C{step}"), After(0.0625)):
            play >> item
            play.serve()
            rosters = [frame for frame in play.raw["m0"] if '"online_users"' in frame]
            told_at += [play.now] * (len(rosters) - len(told_at))
    waits = [later - sooner for sooner, later in pairwise(told_at)][-5:]
    assert waits == [1.0, 1.0, 1.0, 1.0, 1.0]
    assert len(play.hub.members("r")) == 84


def test_the_hub_asks_to_be_called_when_a_roster_is_due() -> None:
    play = large_room(ping_interval_s=1e6, pong_timeout_s=1e7)
    play >> join("ann", "Ann") >> join("ben", "Ben")
    assert play.hub.next_deadline() == play.now + 1.0
    play >> After(1.0) >> After(1.0)
    assert play.hub.next_deadline() > play.now + 100, "a quiet room costs no ticks"


def test_once_quiet_a_large_room_tells_at_once_again() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        >> After(1.0)
        >> Disconnected("ann")
        << Sees("m0", "-Ann", "online M0,M1,M2,M3")
    )


def test_the_next_chat_brings_the_roster_with_it() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        >> join("ben", "Ben")
        >> Received("ben", "hi")
        << Sees("m0", "online M0,M1,M2,M3,Ann,Ben", "+Ben", "Ben: hi")
        << Sees("ben", "online M0,M1,M2,M3,Ann,Ben", "+Ben", "Ben: hi")
        >> After(1.0)
        << Sees("m0")
    )
    play = large_room() >> join("ann", "Ann") >> join("ben", "Ben") >> Publish("r", "news")
    (
        play
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann", "online M0,M1,M2,M3,Ann,Ben", "+Ben", ": news")
        >> After(1.0)
        << Sees("m0")
    )


def test_whoever_comes_and_goes_unheard_was_never_there() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        >> join("ben", "Ben")
        >> Disconnected("ben")
        >> After(1.0)
        << Sees("m0")
    )


def test_whoever_goes_and_comes_back_unheard_is_told_of_as_both() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        >> Disconnected("m2")
        >> join("again", "M2")
        >> After(1.0)
        << Sees("m0", "-M2", "online M0,M1,M3,Ann,M2", "+M2")
    )


def test_a_room_that_shrinks_tells_what_was_waiting() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        >> join("ben", "Ben")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        >> Disconnected("m1")
        >> Disconnected("m2")
        << Sees("m0")
        >> Disconnected("m3")
        << Sees("m0", "-M1", "-M2", "-M3", "online M0,Ann,Ben", "+Ben")
    )


def test_a_further_session_is_told_alone() -> None:
    (
        (Playbook() >> join("ann", "Ann") >> join("ben", "Ben")).forget()
        >> join("phone", "Ann")
        << Sees("phone", "online Ann,Ben", "+Ann")
        << Sees("ann")
        << Sees("ben")
        >> Disconnected("ann")
        << Nothing()
        >> Disconnected("phone")
        << Sees("ben", "-Ann", "online Ben")
    )


def test_a_further_session_does_not_hurry_what_waits_to_be_told() -> None:
    (
        large_room()
        >> join("ann", "Ann")
        << Sees("m0", "online M0,M1,M2,M3,Ann", "+Ann")
        >> join("ben", "Ben")
        >> Disconnected("m3")
        >> join("ben2", "Ben")
        << Sees("ben2")
        >> join("ann2", "Ann")
        << Sees("ann2", "online M3,M0,M1,M2,Ann", "+Ann")
        << Sees("m0")
        >> After(1.0)
        << Sees("m0", "-M3", "online M0,M1,M2,Ann,Ben", "+Ben")
        << Sees("ann2", "-M3", "online M0,M1,M2,Ann,Ben", "+Ben")
        << Sees("ben2", "-M3", "online M0,M1,M2,Ann,Ben", "+Ben")
    )


def test_each_room_has_its_own_roster() -> None:
    (
        (Playbook() >> join("ann", "Ann") >> join("ben", "Ben")).forget()
        >> Enter("ann", "s")
        << Sees("ann", "s| online Ann", "s| +Ann")
        << Sees("ben")
        >> Exit("ann", "r")
        << Sees("ben", "-Ann", "online Ben")
        << Sees("ann")
    )


def test_a_kick_and_a_closed_room_show_as_they_should() -> None:
    (
        (Playbook() >> join("ann", "Ann") >> join("ben", "Ben")).forget()
        >> Kick("Ann")
        << Close("ann", KICKED)
        << Sees("ben", "-Ann", "online Ben")
        >> CloseRoom("r")
        << Close
        << Sees("ben")
    )


def test_a_comma_of_another_dialect_does_not_split_a_name() -> None:
    v1 = netstring_lane(v1=True)
    (
        Playbook()
        >> Connected("ann", v1, "Ann, PhD", ["r"])
        >> Connected("ben", BYTES, "Ben", ["r"])
        << Sees("ben", f"online Ann{WIDE_COMMA} PhD,Ben", "+Ben")
        >> Disconnected("ann")
        << Sees("ben", "-Ann, PhD", "online Ben")
    )


def test_a_roster_is_due_and_everybody_is_put_out_in_the_same_tick() -> None:
    play = Playbook(presence_batch_members=1, idle_timeout_s=1)
    for number, user in enumerate(("Ann", "Ben", "Cy", "Cy")):
        play >> join(f"m{number}", user)
    play.forget()
    play >> After(1.0)
    assert play.tell() == [f"close m{number} idle" for number in range(4)]
    assert play.hub.rooms() == ()
    assert play.hub.is_settled
    assert play.hub.next_deadline() == float("inf")


def test_a_roster_is_due_and_members_are_put_out_in_the_same_tick() -> None:
    play = large_room(6, idle_timeout_s=2.25)
    play >> After(0.5)
    for client in ("m0", "m3", "m4", "m5"):
        play >> Received(client, "here")
    play >> After(0.0)
    play.forget()
    play >> join("ann", "Ann") >> join("ben", "Ben")
    play.forget()
    # m1 and m2 end in the tick in which Ann's and Ben's arrivals are due: one roster then, and one more in its time.
    play >> After(0.75)
    assert play.tell() == ["close m1 idle", "close m2 idle"]
    (
        play
        << Sees("m0", "-M1", "online M0,M2,M3,M4,M5,Ann,Ben", "+Ann", "+Ben")
        >> Received("m0", "still here")
        << Sees("m0", "-M2", "online M0,M3,M4,M5,Ann,Ben", "M0: still here")
    )
