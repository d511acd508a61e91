"""How many retries there are: a share of the requests, and a few a second."""

from __future__ import annotations

import pytest

from proxy.pool.budget import RetryBudget


def spend_all(budget: RetryBudget) -> int:
    spent = 0
    while budget.spend():
        spent += 1
    return spent


def test_it_begins_with_ten_seconds_worth() -> None:
    budget = RetryBudget()
    assert not budget.spend()
    budget.earn(1000.0, 0.0, 3.0)

    assert spend_all(budget) == 30


@pytest.mark.parametrize(("requests", "retries"), [(4, 0), (5, 1), (50, 10), (100_000, 200)])
def test_a_share_of_the_requests_is_earned(requests: int, retries: int) -> None:
    budget = RetryBudget()
    for _ in range(requests):
        budget.earn(0.0, 0.2, 0.0)

    assert spend_all(budget) == pytest.approx(retries, abs=1)


def test_time_earns_too_up_to_a_bound() -> None:
    budget = RetryBudget()
    budget.earn(0.0, 0.0, 10.0)
    spend_all(budget)
    budget.earn(0.5, 0.0, 10.0)
    assert spend_all(budget) == 5
    budget.earn(1e6, 0.0, 10.0)

    assert spend_all(budget) == 100
    # A clock does not go back; if it did, nothing would be taken away.
    budget.earn(0.0, 0.0, 10.0)
    assert spend_all(budget) == 0
