"""Scans per minute and peak memory of `dgmvlc preprocess`: run by hand, prints a table.

    python tests/benchmarks/throughput.py FOLDER --subjects 60 --spacing 2 --workers 1 2 --dask 2

Writes a phantom cohort into FOLDER unless it is there, and prepares it once per number of workers.
--dask N: then on a local Dask cluster of N workers of which one is killed half-way
(`pip install "dgmvlc[cluster]"`), and tells whether every scan is the same as before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

DASK = (sys.executable, "-m", "dask")
QUIET: dict[str, int] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--dask", type=int, default=0, help="workers of a local Dask cluster")
    chosen = parser.parse_args()
    cohort = chosen.folder / "cohort"
    if not (cohort / "phantom.json").exists():
        size = ("--subjects", str(chosen.subjects), "--spacing", str(chosen.spacing))
        run("phantom", str(cohort), *size)
    for workers in chosen.workers:
        study = fresh_study(chosen.folder, str(workers))
        arguments = ("--spacing", "4", "--workers", str(workers), "-w", str(study))
        seconds, cpu_seconds, peak_gb = measured("preprocess", *arguments)
        rate = 60 * chosen.subjects / seconds
        print(
            f"{workers} worker(s): {rate:.1f} scans/min, {seconds:.0f} s, "
            f"{cpu_seconds / chosen.subjects:.1f} s of computing per scan, peak {peak_gb:.2f} GB "
            "in all processes",
            flush=True,
        )

    if chosen.dask:
        study = fresh_study(chosen.folder, "dask")
        seconds = on_cluster(study, chosen.dask, chosen.subjects // 2)
        made = volumes(study)
        before = volumes(chosen.folder / f"study-{chosen.workers[0]}") if chosen.workers else made
        print(
            f"{chosen.dask} Dask workers, one killed: {60 * len(made) / seconds:.1f} scans/min, "
            f"{seconds:.0f} s, {len(made)} of {chosen.subjects} scans, "
            f"{'the same' if made == before else 'NOT the same'} bytes"
        )


def fresh_study(folder: Path, name: str) -> Path:
    study = folder / f"study-{name}"
    shutil.rmtree(study, ignore_errors=True)
    run("init", str(folder / "cohort" / "scans"), "-w", str(study))
    return study


def on_cluster(study: Path, workers: int, kill_after: int) -> float:
    """Seconds of `preprocess` on a local cluster that loses a worker after so many scans."""
    told = study / "scheduler.json"
    at = ("--scheduler-file", str(told))
    cluster = [
        subprocess.Popen([*DASK, "scheduler", *at, "--port", "0", "--no-dashboard"], **QUIET)
    ]
    one = ("worker", *at, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    cluster += [subprocess.Popen([*DASK, *one], **QUIET) for _ in range(workers)]
    try:
        while not told.exists():
            time.sleep(0.2)
        address = json.loads(told.read_text())["address"]
        command = ("preprocess", "--spacing", "4", "--dask", address, "-w", str(study))
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-m", "dgmvlc_cli", *command], **QUIET)
        while child.poll() is None and len(volumes(study)) < kill_after:
            time.sleep(0.2)
        cluster[-1].kill()
        if child.wait():
            sys.exit(f"preprocess ended with {child.returncode}")
        return time.perf_counter() - start
    finally:
        for process in cluster:
            process.kill()


def volumes(study: Path) -> dict[str, bytes]:
    """Digest of every prepared volume, by its path in the study."""
    return {
        str(path.relative_to(study)): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(study.rglob("*_ct.nii.gz"))
    }


def run(*arguments: str) -> None:
    command = [sys.executable, "-m", "dgmvlc_cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measured(*arguments: str) -> tuple[float, float, float]:
    """Seconds, seconds of computing, and the most resident memory of all processes at once, GB."""
    start, before = time.perf_counter(), computing_seconds()
    child = subprocess.Popen(
        [sys.executable, "-m", "dgmvlc_cli", *arguments], stdout=subprocess.DEVNULL
    )
    peak = [0.0]
    watcher = threading.Thread(target=watch, args=(child, peak))
    watcher.start()
    child.wait()
    watcher.join()
    if child.returncode:
        sys.exit(f"preprocess ended with {child.returncode}")
    return time.perf_counter() - start, computing_seconds() - before, peak[0]


def computing_seconds() -> float:
    """Of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(child: subprocess.Popen, peak: list[float]) -> None:
    while child.poll() is None:
        peak[0] = max(peak[0], resident_gb(child.pid))
        time.sleep(0.1)


def resident_gb(pid: int) -> float:
    """Resident memory of a process and all below it (Linux)."""
    pages = 0
    for one in family(pid):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * resource.getpagesize() / 1e9


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in family(int(child)))]


if __name__ == "__main__":
    main()
