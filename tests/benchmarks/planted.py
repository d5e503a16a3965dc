"""Planted controls, semi-real: a cohort grown from one real scan, several sizes; by hand.

python tests/benchmarks/planted.py OUT --scan ct64/ct-64.nrrd --mask ct64/wholelung-64.nrrd

Every subject is the same chest under a random smooth warp, with a level, a gradient and noise of
its own; no attribute of its table shows in the scan.  `dgmvlc plant` then plants each size, the
stages run in every control, and the recovery is printed.  With --cohort a workspace that was
preprocessed already is planted in instead (a phantom's, or one's own).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from dgmvlc_cli.imaging.files import read_labels, read_volume, write_labels, write_volume
from dgmvlc_cli.imaging.volume import Volume
from dgmvlc_cli.workspace import generator

WARP_MM, WARP_SMOOTH_MM = 12.0, 60.0
LEVEL_SD_HU, GRADIENT_SD_HU, NOISE_HU = 17.0, 10.0, 12.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--cohort", type=Path, help="a preprocessed workspace to plant in")
    parser.add_argument("--subjects", type=int, default=96)
    parser.add_argument("--sizes", type=float, nargs="*", default=[5.0, 10.0, 20.0, 30.0])
    parser.add_argument("--region", default="upper")
    parser.add_argument("--preset", default="micro")
    chosen = parser.parse_args()
    study = chosen.cohort or grown_workspace(chosen)
    for size in chosen.sizes:
        options = ["--effect-hu", f"{size:g}", "--region", chosen.region]
        dgmvlc("plant", *options, "-w", str(study))
        sign = "plus" if size > 0 else "minus"
        name = f"{study.name}-planted-{chosen.region}-{sign}-{abs(size):g}-hu"
        for stage in ("preprocess", "describe", "train", "counterfactual", "analyze"):
            dgmvlc(stage, "-w", str(study.parent / name))
    dgmvlc("plant", "--collect", "-w", str(study))


def dgmvlc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dgmvlc_cli", *arguments], check=True)


def grown_workspace(chosen: argparse.Namespace) -> Path:
    """A preprocessed workspace whose subjects all grew from one scan."""
    study, source = chosen.out / "study", chosen.out / "source"
    scan, mask = read_volume(chosen.scan), read_labels(chosen.mask) > 0
    rows = []
    for k in range(chosen.subjects):
        rng, name = generator(0, "grown", k), f"grown-{k:03d}"
        rows.append(
            {
                "subject": name,
                "age": int(rng.integers(40, 80)),
                "sex": rng.choice(["female", "male"]),
                "smoking_status": rng.choice(["never smoker", "current smoker"]),
            }
        )
        volume, lungs = grow(scan, mask, rng)
        write_volume(source / "scans" / f"{name}.nii.gz", volume)
        write_labels(source / "masks" / f"{name}.nii.gz", lungs.astype(np.uint8), volume)
    pd.DataFrame(rows).to_csv(source / "clinical.csv", index=False)
    dgmvlc("init", str(source / "scans"), str(source / "clinical.csv"), "-w", str(study), "--force")
    settings = study / "dgmvlc.toml"
    text = settings.read_text().replace('preset = "tiny"', f'preset = "{chosen.preset}"')
    masks = (source / "masks").resolve()
    settings.write_text(text.replace('# masks = "masks"', f'masks = "{masks}"  #'))
    dgmvlc("preprocess", "-w", str(study))
    return study


def grow(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """The chest under a random smooth warp, its lungs with a level and a gradient of their own."""
    shape, spacing = scan.hu.shape, np.asarray(scan.spacing_mm)
    places = np.indices(shape, dtype=np.float64)
    centre = (np.asarray(shape) - 1).reshape(3, 1, 1, 1) / 2
    zoom = (1.08 + 0.05 * rng.normal(size=3)).reshape(3, 1, 1, 1)
    places = centre + (places - centre) * zoom
    for axis in range(3):
        field = ndimage.gaussian_filter(rng.normal(size=shape), WARP_SMOOTH_MM / spacing)
        places[axis] += WARP_MM / spacing[axis] * rng.normal() * field / field.std()
    hu = ndimage.map_coordinates(scan.hu, places, order=1, mode="nearest")
    lungs = ndimage.map_coordinates(mask.astype(np.uint8), places, order=0, mode="constant") > 0
    height = np.linspace(-1, 1, shape[0]).reshape(-1, 1, 1)
    level = LEVEL_SD_HU * rng.normal() + GRADIENT_SD_HU * rng.normal() * height
    hu = hu + np.where(lungs, level, 0.0) + NOISE_HU * rng.normal(size=shape)
    return Volume(
        hu=hu.astype(np.float32),
        spacing_mm=scan.spacing_mm,
        origin_mm=scan.origin_mm,
        direction=scan.direction,
    ), lungs


if __name__ == "__main__":
    main()
