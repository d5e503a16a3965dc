"""Does torch.compile make training steps faster here?  Steps of both, in turn, in one process.

python tests/benchmarks/compiled.py --presets micro tiny

Run by hand; needs a C++ compiler.  Prints seconds per step of both, their ratio, and what compiling
costs before the first step, which a training of a few hundred steps must earn back.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from presets import chests

BLOCK = 4  # steps of one kind, then of the other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["micro", "tiny"])
    parser.add_argument("--model", default="flow")
    parser.add_argument("--blocks", type=int, default=6)
    chosen = parser.parse_args()
    rows = [measure(preset, chosen.model, chosen.blocks) for preset in chosen.presets]
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def measure(preset: str, model: str, blocks: int) -> dict:
    """Median seconds per step, eager and compiled."""
    from dgmvlc_cli.config import PRESETS
    from dgmvlc_cli.generators.fitting import TrainingPlan, fit_conditioning, to_tensors
    from dgmvlc_cli.generators.processes import build_accelerator
    from dgmvlc_cli.generators.training import Trainer, build_network, build_plan_family

    of = PRESETS[preset]
    plan = TrainingPlan(
        seed=0, fold=0, steps=1000, batch_size=of.batch_size, learning_rate=1e-3, text_dropout=0.1,
        widths=of.widths, model=model, fusion="affine", grid=of.grid, spacing_mm=of.spacing_mm,
        wavelet_levels=of.wavelet_levels, encoder="minilm", encoder_sha256="0",
    )  # fmt: skip
    conditioning, residuals = fit_conditioning(data := chests(of.grid, 16), plan)
    tensors = to_tensors(data, conditioning, residuals)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = build_accelerator("auto", Path(folder))
    trainers = {}
    for kind in ("eager", "compiled"):
        network, family = build_network(conditioning, plan), build_plan_family(plan)
        trainers[kind] = Trainer(network, family, plan, accelerator, compiled=kind == "compiled")
    first = {kind: seconds(trainer, tensors, 1) for kind, trainer in trainers.items()}
    spent: dict[str, list[float]] = {kind: [] for kind in trainers}
    for _ in range(blocks):
        for kind, trainer in trainers.items():
            spent[kind].append(seconds(trainer, tensors, BLOCK) / BLOCK)
    eager, compiled = (float(np.median(spent[kind])) for kind in trainers)
    return {
        "preset": preset,
        "eager_s": eager,
        "compiled_s": compiled,
        "ratio": eager / compiled,
        "compiling_s": first["compiled"] - compiled,
    }


def seconds(trainer, tensors, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        trainer.step(tensors)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
