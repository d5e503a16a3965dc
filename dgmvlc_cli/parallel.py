"""One executor for work that splits by subject or by fold: local processes, or a Dask cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Generic, TypeVar

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.workspace import write_error

CONNECT_SECONDS = 10
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the error that the user can act on."""

    item: Item
    result: Result | None = None
    error: DgmvlcError | None = None


def available_cores() -> int:
    """Cores this process may use, which containers and schedulers make fewer than the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def run(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = 1,
    cluster: str | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """function(item) for every item, as each is done.

    A DgmvlcError, MemoryError or OSError of one item becomes its Outcome and the others go on, also
    where an item takes its process down; any other exception is a bug and is raised.  function and
    items must be picklable when workers > 1.  cluster: address of a Dask scheduler, whose workers
    are then used and see the same files.
    """
    waiting = list(items)
    if cluster is not None:
        yield from _on_cluster(function, waiting, cluster)
    elif min(workers, len(waiting)) <= 1:
        yield from (_attempt(function, item) for item in waiting)
    else:
        yield from _in_processes(function, waiting, workers)


def _in_processes(
    function: Callable[[Item], Result], waiting: list[Item], workers: int
) -> Iterator[Outcome[Item, Result]]:
    while waiting:
        left = dict(enumerate(waiting))
        try:
            for index, outcome in _pooled(function, waiting, workers):
                del left[index]
                yield outcome
        except BrokenProcessPool:
            pass
        # Items start in order: one of the first that are left took its process down.
        unfinished = list(left.values())
        suspects, waiting = unfinished[: 2 * workers + 1], unfinished[2 * workers + 1 :]
        yield from (_alone(function, item) for item in suspects)


def _pooled(
    function: Callable[[Item], Result], items: list[Item], workers: int
) -> Iterator[tuple[int, Outcome[Item, Result]]]:
    """Index and outcome of each item; BrokenProcessPool where one takes its process down."""
    # `spawn` because torch and SimpleITK hold threads that do not survive a fork.
    size = min(workers, len(items))
    with ProcessPoolExecutor(size, get_context("spawn"), _share_cores, (size,)) as executor:
        futures: dict[Future[Outcome[Item, Result]], int] = {
            executor.submit(_attempt, function, item): index for index, item in enumerate(items)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # what runs is stopped, not waited for
                child.terminate()
            raise


def _alone(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    """An item in a process of its own, with all memory for itself."""
    try:
        (done,) = _pooled(function, [item], 1)
        return done[1]
    except BrokenProcessPool:
        return Outcome(item, error=_process_ended())


def _process_ended() -> DgmvlcError:
    return DgmvlcError(
        "its process ended early, most likely for want of memory",
        "Run the same command with fewer --workers, or on a machine with more memory; finished "
        "work is kept.",
    )


def _out_of_memory(error: MemoryError) -> DgmvlcError:
    return DgmvlcError(
        "out of memory" + (f" ({error})" if str(error) else ""),
        "Run the same command with fewer --workers, or on a machine with more memory; where one "
        "scan alone needs more than the others, look whether its size and spacing are right.",
    )


def _on_cluster(
    function: Callable[[Item], Result], items: list[Item], address: str
) -> Iterator[Outcome[Item, Result]]:
    """As above on the workers of a Dask scheduler, which does again what a lost worker held."""
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise DgmvlcError(
            "Dask is not installed.", 'Run `pip install "dgmvlc[cluster]"`.'
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise DgmvlcError(
            f"No Dask scheduler answers at {address}.",
            "Start one with `dask scheduler`, and workers with `dask worker ADDRESS`.",
        ) from error
    with client:
        futures = {client.submit(_attempt, function, one, pure=False): one for one in items}
        for future in as_completed(futures):
            try:
                yield future.result()
            except KilledWorker:
                yield Outcome(futures[future], error=_process_ended())


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, result=function(item))
    except DgmvlcError as error:
        return Outcome(item, error=error)
    except MemoryError as error:
        return Outcome(item, error=_out_of_memory(error))
    except OSError as error:
        where = Path(error.filename or "a file")
        return Outcome(item, error=write_error(where, error, "read or write"))


def _share_cores(workers: int) -> None:
    """In a worker, before heavy imports: each takes its share of the cores.

    An interrupt is the parent's to handle: it ends the workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = str(max(1, available_cores() // workers))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = threads
