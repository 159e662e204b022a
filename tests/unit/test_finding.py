"""How often what is watched is looked at."""

from __future__ import annotations

from durabert.client.finding import CALM_AFTER, CALM_POLL_INTERVAL, POLL_INTERVAL, Pace

SHORT, CALM = POLL_INTERVAL.total_seconds(), CALM_POLL_INTERVAL.total_seconds()
LONG = CALM_AFTER.total_seconds()


def paces(*looks: tuple[float, object]) -> list[float]:
    """The seconds to wait after each look: when it is, counted from the begin, and what is seen."""
    times = iter([0.0, *(at for at, _ in looks)])
    pace = Pace(clock=lambda: next(times))
    return [pace.seconds(seen) for _, seen in looks]


def test_what_changes_often_is_looked_at_often():
    assert paces((0, "a"), (1, "b"), (2, "c"), (3, "d")) == [SHORT] * 4


def test_what_stays_as_it_is_becomes_calm():
    assert paces((0, "a"), (LONG / 2, "a"), (LONG, "a"), (2 * LONG, "a")) == [SHORT, SHORT, CALM, CALM]


def test_a_change_after_a_long_time_is_no_reason_to_hurry_and_two_soon_after_each_other_are():
    looks = [(0, "a"), (LONG, "a"), (20, "b"), (20 + CALM, "c"), (21 + CALM, "d"), (21 + CALM + LONG, "d")]
    assert paces(*looks) == [SHORT, CALM, CALM, SHORT, SHORT, CALM]


def test_two_looks_at_the_calm_pace_are_close_enough_to_see_it_change_often_again():
    assert CALM < LONG
