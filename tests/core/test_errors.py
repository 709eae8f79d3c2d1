"""The registry of close reasons against protocol.md's table."""

import pytest

from roomhub.core import errors
from roomhub.core.errors import CLOSE_REASONS, CloseReason, application_close_reason

# protocol.md, "Close codes"; idle, room_closed and forbidden are roomhub's own, in the range "stays away".
CODES = {
    "protocol": 4000,
    "unauthorized": 4001,
    "banned": 4002,
    "version": 4003,
    "kicked": 4004,
    "replaced": 4005,
    "name_taken": 4006,
    "connection_limit": 4007,
    "idle": 4008,
    "room_closed": 4009,
    "forbidden": 4010,
    "draining": 4100,
    "slow_consumer": 4101,
    "internal": 4102,
    "rate_limited": 4103,
    "over_capacity": 4104,
    "no_pong": 4201,
    "token_expired": 4202,
    "hello_timeout": 4204,
}
PLAIN_CODES = {"draining": 1012, "internal": 1011, "over_capacity": 1013}


def test_every_reason_has_the_code_of_the_protocol() -> None:
    assert {name: reason.code for name, reason in CLOSE_REASONS.items()} == CODES


def test_every_reason_has_its_plain_code() -> None:
    for name, reason in CLOSE_REASONS.items():
        assert reason.plain_code == PLAIN_CODES.get(name, 1008)


def test_a_reason_is_found_by_its_name_and_fits_a_close_frame() -> None:
    for name, reason in CLOSE_REASONS.items():
        assert reason.name == name
        assert len(name) <= 123


def test_codes_are_unique() -> None:
    assert len({reason.code for reason in CLOSE_REASONS.values()}) == len(CLOSE_REASONS)


def test_the_constants_are_the_registry() -> None:
    constants = [value for value in vars(errors).values() if isinstance(value, CloseReason)]
    assert len(constants) == 16
    assert all(CLOSE_REASONS[constant.name] is constant for constant in constants)


@pytest.mark.parametrize("code", [4500, 4699, 4700, 4899])
def test_a_program_has_reasons_of_its_own(code: int) -> None:
    assert application_close_reason("maintenance", code) == ("maintenance", code, 1008)


@pytest.mark.parametrize("code", [1000, 4000, 4204, 4499, 4900])
def test_a_program_may_not_take_another_range(code: int) -> None:
    with pytest.raises(ValueError, match="4500-4699"):
        application_close_reason("mine", code)


@pytest.mark.parametrize("name", ["", "x" * 124, "é" * 62])
def test_a_reason_must_fit_a_close_frame(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 123 UTF-8 bytes"):
        application_close_reason(name, 4500)
