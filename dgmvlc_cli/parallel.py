"""One executor for work that splits by subject or by fold: local processes."""

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
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Outcome[Item, Result]]:
    """function(item) for every item, as each is done.

    A DgmvlcError or OSError of one item becomes its Outcome and the others go on; any other
    exception is a bug and is raised.  function and items must be picklable when workers > 1.
    """
    items = list(items)
    if min(workers, len(items)) <= 1:
        yield from (_attempt(function, item) for item in items)
        return
    # `spawn` because torch and SimpleITK hold threads that do not survive a fork.
    context = get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(items)), context, _share_cores, (workers,)
    ) as executor:
        futures: list[Future[Outcome[Item, Result]]] = [
            executor.submit(_attempt, function, item) for item in items
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DgmvlcError(
                "A worker process ended early, most likely for want of memory.",
                "Run the same command with fewer --workers; finished work is kept.",
            ) from error
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # what runs is stopped, not waited for
                child.terminate()
            raise


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, result=function(item))
    except DgmvlcError as error:
        return Outcome(item, error=error)
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
