import os
import signal
import sys
import time

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


def too_much_at_three(n: int) -> int:
    if n == 3:
        raise MemoryError("Unable to allocate 30.0 GiB")
    return n


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_needs_more_memory_than_there_is_fails_alone(workers):
    outcomes = {one.item: one for one in parallel.run(too_much_at_three, [2, 3, 4], workers)}
    assert (outcomes[2].result, outcomes[4].result) == (2, 4)
    assert outcomes[3].error.message == "out of memory (Unable to allocate 30.0 GiB)"
    assert "fewer --workers" in outcomes[3].error.hint


def test_a_bug_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        list(parallel.run(half, [0], 1))


def die_at_three(n: int) -> int:
    if n == 3:
        os._exit(1)  # as the kernel does for want of memory
    return n


def test_an_item_that_takes_its_process_down_fails_alone():
    outcomes = {one.item: one for one in parallel.run(die_at_three, range(12), 2)}
    assert len(outcomes) == 12
    assert [n for n, one in outcomes.items() if one.error] == [3]
    assert "process ended early" in outcomes[3].error.message
    assert all(one.result == n for n, one in outcomes.items() if n != 3)


def test_a_cluster_that_does_not_answer_is_named():
    pytest.importorskip("distributed")
    with pytest.raises(DgmvlcError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(parallel.run(half, [1, 2], cluster="tcp://127.0.0.1:9"))


def test_dask_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DgmvlcError, match="Dask is not installed") as caught:
        list(parallel.run(half, [1, 2], cluster="tcp://127.0.0.1:9"))
    assert "dgmvlc[cluster]" in caught.value.hint


def test_a_cluster_gives_the_same_outcomes():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as one:
        found = parallel.run(half, [2, -1, 4], cluster=one.scheduler_address)
        outcomes = {outcome.item: outcome for outcome in found}
    assert (outcomes[2].result, outcomes[4].result) == (1.0, 2.0)
    assert outcomes[-1].error.message == "-1 is negative"


def test_nothing_to_do_is_nothing():
    assert list(parallel.run(half, [], 2)) == []


def slow(n: int) -> int:
    time.sleep(0.2)
    return n


def test_what_a_lost_worker_of_a_cluster_held_is_done_by_another():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as one:
        found = parallel.run(slow, range(20), cluster=one.scheduler_address)
        done = [next(found)]
        os.kill(one.workers[0].pid, signal.SIGKILL)
        done += found
    assert sorted(outcome.result for outcome in done) == list(range(20))
