"""Which names are one user: with PRECIS where it is installed, and without."""

from unicodedata import is_normalized

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomhub import identity_keys
from roomhub.core.names import username_fault
from roomhub.identity_keys import user_key


@pytest.fixture(params=["as installed", "without PRECIS"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without PRECIS":
        monkeypatch.setattr(identity_keys, "_nickname", lambda: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("ann", "Ann", "ANN", "\uff21nn", "\uff41nn"), "ann"),
        (("\u00c7elik", "\u00e7elik"), "\u00e7elik"),
        (("\ufb01nn", "Finn"), "finn"),
        (("\u2163", "IV"), "iv"),
        (("a  b", "A b"), "a b"),
        (("Ann2", "ann2"), "ann2"),
    ],
)
def test_names_that_look_alike_have_one_key(names: tuple[str, ...], key: str) -> None:
    assert {user_key(name) for name in names} == {key}


def test_other_names_have_other_keys() -> None:
    assert len({user_key(name) for name in ("ann", "anne", "\u00e4nn", "e,ve", "\u2615", "x-1")}) == 6


@pytest.mark.usefixtures("way")
def test_a_name_without_a_key_is_its_own() -> None:
    assert user_key("\u2615") == "\u2615"


@given(st.text(min_size=1, max_size=20))
def test_a_key_is_its_own_key(name: str) -> None:
    """Without PRECIS; and it is never empty, nor raises."""
    if username_fault(name, plain=False) is not None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity_keys, "_nickname", lambda: None)
        key = user_key(name)
        assert key
        assert user_key(key) == key
        assert is_normalized("NFC", key)


def test_nobody_has_no_key_and_nothing_is_looked_up_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_keys, "_nickname", pytest.fail)
    assert user_key("") == ""


def test_a_name_that_precis_refuses_is_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise UnicodeEncodeError("NicknameCaseMapped", name, 0, 1, "DISALLOWED")

    monkeypatch.setattr(identity_keys, "_nickname", lambda: refuse)
    assert user_key("Ann") == "Ann"
