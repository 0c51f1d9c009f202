from __future__ import annotations

import itertools

import pytest

from promptreel.fetching.shares import Shares


def take_all(shares: Shares, holder: object) -> int:
    return sum(1 for _ in itertools.takewhile(bool, (shares.take(holder) for _ in range(1000))))


@pytest.mark.parametrize(("holders", "each"), [(1, 32), (2, 21), (3, 16), (7, 8)])
def test_holders_get_equal_shares_and_one_share_stays_free(holders: int, each: int) -> None:
    shares = Shares(64)
    held = dict.fromkeys(range(holders), 0)
    for _ in range(64):
        for holder in held:
            held[holder] += shares.take(holder)

    assert all(abs(count - each) <= 1 for count in held.values())
    assert take_all(shares, "newcomer") >= each // 2


def test_greedy_holders_leave_something_to_each_newcomer() -> None:
    shares = Shares(64)

    assert [take_all(shares, holder) for holder in range(6)] == [32, 16, 8, 4, 2, 1]


def test_what_is_given_back_can_be_taken_again() -> None:
    shares = Shares(4)
    assert take_all(shares, "a") == 2
    shares.give_back("a")
    shares.give_back("a")

    assert take_all(shares, "a") == 2
    assert take_all(shares, "b") == 1


def test_amounts_count_and_the_total_is_a_limit() -> None:
    shares = Shares(100)

    assert not shares.take("a", 101)
    assert shares.take("a", 60)
    assert not shares.take("a", 1)  # it holds more than is free
    assert not shares.take("b", 41)
    assert shares.take("b", 40)
    shares.give_back("a", 60)
    assert shares.take("c", 60)


def test_limit_per_holder_applies_too() -> None:
    shares = Shares(64, at_most=3)

    assert [take_all(shares, "a"), take_all(shares, "b")] == [3, 3]
