"""Which processes belong to a session, decided from a table of parents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shim.process import find_victims

ME = 1
# A session is 10 to 12, another one 20 and 21; 30 is an orphan with a child; 99 came from outside.
TABLE = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20, 30: 1, 31: 30, 99: 0}


def test_orphans_die_and_what_descends_from_a_spared_process_lives() -> None:
    assert sorted(find_victims(TABLE, ME, spared={20})) == [10, 11, 12, 30, 31]


def test_without_anyone_spared_all_but_the_shim_and_what_is_not_its_own_die() -> None:
    assert sorted(find_victims(TABLE, ME, spared=())) == [10, 11, 12, 20, 21, 30, 31]


def test_a_table_read_while_it_changed_does_no_harm() -> None:
    circle = {5: 6, 6: 5, 7: 404, 8: ME}
    assert find_victims(circle, ME, spared=()) == [8]


@given(st.dictionaries(st.integers(1, 12), st.integers(0, 12)), st.sets(st.integers(2, 12)))
def test_the_shim_and_the_spared_never_die(parents: dict[int, int], spared: set[int]) -> None:
    victims = set(find_victims(parents, ME, spared))
    assert ME not in victims
    assert not victims & spared
    assert not {pid for pid in victims if parents.get(pid) in spared}
