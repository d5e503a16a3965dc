"""What every preset costs on this machine: memory, training steps per second, seconds per pair.

python tests/benchmarks/presets.py --presets micro tiny small --models flow diffusion gan
python tests/benchmarks/presets.py --presets base --subjects 4 12 --steps 3

Run by hand: trains each preset for a few steps on made-up chests of its grid, in a process of its
own, samples one pair, and prints a table.  Two numbers of subjects give the memory that each
subject takes; Preset.fixed_gb and memory.BYTES_PER_VOXEL come from here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["micro", "tiny", "small"])
    parser.add_argument("--models", nargs="+", default=["flow"])
    parser.add_argument("--subjects", nargs=2, type=int, default=[8, 24])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(**json.loads(chosen.one))))
        return
    rows = []
    for preset in chosen.presets:
        for model in chosen.models:
            asked = {"preset": preset, "model": model, "steps": chosen.steps}
            few, many = (in_own_process(asked | {"subjects": n}) for n in chosen.subjects)
            each_gb = (many["peak_gb"] - few["peak_gb"]) / (chosen.subjects[1] - chosen.subjects[0])
            rows.append(
                {
                    "preset": preset,
                    "model": model,
                    "steps_per_second": many["steps_per_second"],
                    "seconds_per_pair": many["seconds_per_pair"],
                    "fixed_gb": few["peak_gb"] - each_gb * chosen.subjects[0],
                    "bytes_per_voxel": 1e9 * each_gb / many["voxels"],
                    "gb_of_100_subjects": few["peak_gb"] + each_gb * (100 - chosen.subjects[0]),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def in_own_process(asked: dict) -> dict:
    command = [sys.executable, __file__, "--one", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(preset: str, model: str, steps: int, subjects: int) -> dict:
    """Peak resident memory in GB and speed of one short training and one pair."""
    import resource

    from dgmvlc_cli.config import PRESETS
    from dgmvlc_cli.generators.fitting import TrainingPlan
    from dgmvlc_cli.generators.training import train_fold

    of = PRESETS[preset]
    plan = TrainingPlan(
        seed=0, fold=0, steps=steps, batch_size=of.batch_size, learning_rate=1e-3, text_dropout=0.1,
        widths=of.widths, model=model, fusion="affine", grid=of.grid, spacing_mm=of.spacing_mm,
        wavelet_levels=of.wavelet_levels, encoder="minilm", encoder_sha256="0",
        paper=preset == "paper",
    )  # fmt: skip
    data = chests(of.grid, subjects)
    ticks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        generator = train_fold(
            data,
            plan,
            Path(folder),
            on_step=lambda step, loss: ticks.append(time.perf_counter()),
        )
    noise = np.random.default_rng(0).standard_normal((2, *generator.noise_shape()), np.float32)
    started = time.perf_counter()
    generator.generate(noise, data.labels[:2], data.embeddings[:2], steps=8)
    return {
        "steps_per_second": (len(ticks) - 1) / (ticks[-1] - ticks[0]),
        "seconds_per_pair": time.perf_counter() - started,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "voxels": int(np.prod(of.grid)),
    }


def chests(grid: tuple[int, int, int], subjects: int):
    """Two ellipsoids in a body, at random levels."""
    from dgmvlc_cli.generators.fitting import TrainingSet
    from dgmvlc_cli.text.projection import Practice

    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in grid), indexing="ij")
    labels = (x**2 + y**2 < 0.95).astype(np.uint8)
    for label, middle in ((2, -0.4), (3, 0.4)):
        labels[((x - middle) / 0.35) ** 2 + (y / 0.6) ** 2 + (z / 0.9) ** 2 < 1] = label
    practice = rng.normal(size=(50, 6)).astype(np.float32)
    hu = np.empty((subjects, *grid), np.float32)
    for one in hu:
        one[:] = np.where(labels > 1, rng.normal(-850, 20), np.where(labels == 1, 40.0, -1000.0))
        one += rng.normal(0, 20, grid).astype(np.float32)
    return TrainingSet(
        hu=hu,
        labels=np.stack([labels] * subjects),
        embeddings=rng.normal(size=(subjects, 6)).astype(np.float32),
        rewordings=np.zeros((subjects, 0, 6), np.float32),
        practice=Practice(embeddings=practice, codes=practice),
    )


if __name__ == "__main__":
    main()
