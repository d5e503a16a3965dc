import pytest

from dgmvlc_cli import parallel
from dgmvlc_cli.errors import DgmvlcError


def half(n: int) -> float:
    if n < 0:
        raise DgmvlcError(f"{n} is negative", "Give a positive one.")
    return 1 / n if n == 0 else n / 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_one_item_is_its_own_and_the_others_go_on(workers):
    outcomes = {one.item: one for one in parallel.run(half, [2, -1, 4], workers)}
    assert (outcomes[2].result, outcomes[4].result) == (1.0, 2.0)
    error = outcomes[-1].error
    assert error is not None
    assert (error.message, error.hint) == ("-1 is negative", "Give a positive one.")


def test_a_bug_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        list(parallel.run(half, [0], 1))


def test_nothing_to_do_is_nothing():
    assert list(parallel.run(half, [], 2)) == []
