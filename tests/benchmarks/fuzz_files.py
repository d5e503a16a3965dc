"""Read thousands of damaged scans: each is read or ends in a message, in bounded time and memory.

    PYTHONPATH=tests/imaging python tests/benchmarks/fuzz_files.py 0:3000 FOLDER FILE [FILE ...]

FILE: whole scans to damage, such as those of a DICOM test collection; small ones are quick.
FOLDER: where damaged files go; one that crashed its process or took too long is kept beside it.
Every file is read in a process that may take 3 GB and 20 seconds of computing (exit code -27).
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from fuzzing import damaged, outcome

MEMORY_BYTES = 3 << 30
CPU_SECONDS = 20
WAIT_SECONDS = 300  # other work on the machine may slow this one down
BATCH = 100  # files per process: starting one costs more than reading


def read_all(folder: Path, sources: list[Path], seeds: range, done: multiprocessing.Queue) -> None:
    """Damage and read one file per seed; the last seed sent is the one that did not come back."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for seed in seeds:
        source = sources[seed % len(sources)]
        target = folder / f"damaged{''.join(source.suffixes[-2:])[-8:]}"
        target.write_bytes(damaged(source.read_bytes(), np.random.default_rng(seed)))
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        try:
            end = outcome(folder)
        except BaseException as error:
            end = f"{type(error).__name__}: {error}"[:200]
        done.put((seed, end, time.process_time() - start))
        target.unlink()


def main(wanted: range, folder: Path, sources: list[Path]) -> None:
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ends: Counter[str] = Counter()
    slowest, next_seed = 0.0, wanted.start
    while next_seed < wanted.stop:
        done = context.Queue()
        seeds = range(next_seed, min(next_seed + BATCH, wanted.stop))
        child = context.Process(target=read_all, args=(folder, sources, seeds, done))
        child.start()
        for seed in seeds:
            if not (result := _wait(child, done)):
                end = "hung" if child.is_alive() else f"exit code {child.exitcode}"
                ends[end] += 1
                print(f"seed {seed}: {end} ({sources[seed % len(sources)]})", flush=True)
                set_apart(folder, seed)
                next_seed = seed + 1
                break
            _, end, seconds = result
            slowest = max(slowest, seconds)
            ends[end if end in ("read", "refused") else "traceback"] += 1
            if end not in ("read", "refused"):
                print(f"seed {seed}: {end} ({sources[seed % len(sources)]})", flush=True)
            next_seed = seed + 1
        child.kill()
        child.join()
    print(dict(ends), f"slowest {slowest:.2f} s")


def set_apart(folder: Path, seed: int) -> None:
    """Move the file that took the process down out of the way of the next ones."""
    for left in folder.glob("damaged*"):
        left.rename(folder.with_name(f"{folder.name}-{seed}-{left.name}"))


def _wait(child: multiprocessing.Process, done: multiprocessing.Queue) -> tuple | None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            return done.get(timeout=0.5)
        except Exception:
            if not child.is_alive() and done.empty():
                return None
    return None


if __name__ == "__main__":
    first, last = map(int, sys.argv[1].split(":"))
    main(range(first, last), Path(sys.argv[2]), [Path(one) for one in sys.argv[3:]])
