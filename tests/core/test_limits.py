"""The table of limits against limits.md, and what it refuses."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from roomhub.core.limits import Limits

# limits.md
DEFAULTS = {
    "message_bytes": 512,
    "v1_message_bytes": 65_536,
    "lag_messages": 256,
    "v1_lag_messages": 1_024,
    "lag_bytes": 1_048_576,
    "chunk_bytes": 65_536,
    "direct_bytes": 262_144,
    "log_messages": 1_024,
    "log_bytes": 1_048_576,
    "log_age_s": math.inf,
    "write_timeout_s": 10,
    "ping_interval_s": 54,
    "pong_timeout_s": 60,
    "hello_timeout_s": 10,
    "idle_timeout_s": math.inf,
    "handshake_timeout_s": 10,
    "message_timeout_s": 30,
    "fragments": 64,
    "close_timeout_s": 5,
    "drain_timeout_s": 5,
    "drain_notice_s": 0,
    "send_buffer_bytes": 65_536,
    "name_bytes": 64,
    "room_bytes": 64,
    "meta_bytes": 2_048,
    "label_bytes": 128,
    "message_rate_per_s": 50,
    "message_burst": 250,
    "join_rate_per_s": 10,
    "join_burst": 50,
    "error_burst": 20,
    "rooms_per_client": 128,
    "rooms": 100_000,
    "room_linger_s": 300,
    "connections_per_address": 256,
    "connections": math.inf,
    "header_bytes": 16_384,
    "headers": 100,
    "target_bytes": 8_192,
    "presence_batch_members": 100,
    "presence_grace_s": 10,
    "typing_interval_s": 3,
    "typing_timeout_s": 6,
    "history_page": 100,
    "auth_timeout_s": 5,
    "history_timeout_s": 5,
    "stored_rooms": 1_000_000,
    "keys": 100_000,
    "sanctions": 100_000,
    "session_ttl_s": 300,
    "sessions": 100_000,
    "key_ttl_s": 300,
    "presence_interval_s": 0.5,
}
MAY_BE_ZERO = {"presence_interval_s", "presence_grace_s", "room_linger_s", "drain_notice_s"}


def test_the_defaults_are_those_of_limits_md() -> None:
    assert dataclasses.asdict(Limits()) == DEFAULTS


def test_the_page_of_limits_has_every_field_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([0-9.,]+|inf) \|", page, re.MULTILINE)
    assert {name: float(value.replace(",", "")) for name, value in rows} == dataclasses.asdict(Limits())


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_limit_is_a_positive_number(name: str) -> None:
    for value in (-1, math.nan, -math.inf):
        with pytest.raises(ValueError, match=f"^{name} must be more than 0"):
            Limits(**{name: value})
    wrong: Any
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be a number"):
            Limits(**{name: wrong})


@pytest.mark.parametrize("name", DEFAULTS)
def test_zero_only_where_it_does_not_stop_everything(name: str) -> None:
    if name in MAY_BE_ZERO:
        assert getattr(Limits(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=f"^{name} must be more than 0"):
            Limits(**{name: 0})


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - {"send_buffer_bytes", "ping_interval_s"}))
def test_inf_means_no_bound(name: str) -> None:
    assert getattr(Limits(**{name: math.inf}), name) == math.inf


def test_the_kernel_s_buffer_must_be_finite() -> None:
    with pytest.raises(ValueError, match="send_buffer_bytes must be finite"):
        Limits(send_buffer_bytes=math.inf)


def test_a_ping_goes_out_before_silence_is_death() -> None:
    for ping in (60, 61, math.inf):
        with pytest.raises(ValueError, match=r"ping_interval_s .* must be less than pong_timeout_s"):
            Limits(ping_interval_s=ping)
    assert Limits(ping_interval_s=math.inf, pong_timeout_s=math.inf)


def test_a_bool_is_no_number() -> None:
    with pytest.raises(TypeError):
        Limits(rooms=True)


def test_limits_cannot_be_changed_later() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().rooms = 5  # type: ignore[misc]


def test_override_takes_numbers_as_text() -> None:
    limits = Limits().override({"rooms": "7", "write_timeout_s": "2.5", "connections": "inf"})
    assert (limits.rooms, limits.write_timeout_s, limits.connections) == (7, 2.5, math.inf)
    assert isinstance(limits.rooms, int)
    assert limits.lag_messages == 256


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rooms", "many", "rooms must be a number or inf, not 'many'"),
        ("rooms", "", "rooms must be a number or inf, not ''"),
        ("rooms", "-1", "rooms must be more than 0"),
        ("rooms", "nan", "rooms must be more than 0"),
        ("lag_mesages", "1", "no limit is called 'lag_mesages'; did you mean "),
        ("zzz", "1", "no limit is called 'zzz'$"),
    ],
)
def test_override_says_what_is_wrong(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits().override({name: text})
