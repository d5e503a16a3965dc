"""Map statistics on simulated nulls, and against nilearn: run by hand, prints what it measured.

python tests/benchmarks/map_errors.py errors --cohorts 1000 --no-tfce
python tests/benchmarks/map_errors.py errors --cohorts 200 --first 1000
python tests/benchmarks/map_errors.py speed --subjects 200

errors: family-wise error of the maximum statistic, TFCE and the real scans' permutation test.
speed: seconds and peak memory of the maps of 200 pairs at 4 mm, from their volumes to the p of
10,000 sign flips, and nilearn's permuted_ols with the same data (needs nilearn).  Each cohort is
smooth noise in an ellipsoid pair of lungs.
"""

import argparse
import resource
import time

import numpy as np
from scipy import ndimage, stats

from dgmvlc_cli.analysis import permutation
from dgmvlc_cli.analysis.maps import DEPTH, HEIGHT, TEMPLATE, WIDTH, Sampler, common_mask
from dgmvlc_cli.imaging.volume import Tissue
from dgmvlc_cli.workspace import generator

SPACING_MM = 4.0


def lungs() -> np.ndarray:
    """`TEMPLATE` bool: two ellipsoids."""
    z, y, x = np.indices(TEMPLATE)
    mask = np.zeros(TEMPLATE, bool)
    for centre in ((WIDTH - 1) / 2, WIDTH + (WIDTH + 1) / 2):
        mask |= (
            ((z - (HEIGHT - 1) / 2) / (HEIGHT / 2)) ** 2
            + ((y - (DEPTH - 1) / 2) / (DEPTH / 2)) ** 2
            + ((x - centre) / (WIDTH / 2)) ** 2
        ) < 1
    return mask


def noise(subjects: int, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(subjects, cells) HU: smooth, with a level of each subject's own; some subjects noisier."""
    fields = ndimage.gaussian_filter(rng.normal(size=(subjects, *TEMPLATE)), (0, 0.7, 0.7, 0.7))
    values = 40 * fields[:, mask] * np.exp(0.3 * rng.normal(size=(subjects, 1)))
    return (values + 3 * rng.normal(size=(subjects, 1))).astype(np.float32)


def errors(first: int, cohorts: int, subjects: int, tfce: bool) -> None:
    mask = lungs()
    wrong = dict.fromkeys(("maximum", *(["tfce"] if tfce else []), "real scans"), 0)
    for cohort in range(first, first + cohorts):
        rng = generator(cohort, "null cohort")
        x = noise(subjects, mask, rng)
        wrong["maximum"] += permutation.maximum_p(x, rng, 1000).p.min() < 0.05
        if tfce:
            wrong["tfce"] += permutation.tfce_p(x, mask, rng, 200).p.min() < 0.05
        age = rng.normal(size=(subjects, 1))
        a = (age[:, 0] + rng.normal(size=subjects) > 0).astype(float)
        y = x.astype(np.float64) + 10 * age
        _, _, control = permutation.regression_p(y, a, age, rng, 200)
        wrong["real scans"] += control.p.min() < 0.05
    for name, count in wrong.items():
        low, high = stats.binomtest(int(count), cohorts).proportion_ci(0.95, "exact")
        rate = f"{100 * count / cohorts:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        print(f"{name}: {count} of {cohorts} null cohorts have a cell with p < 0.05: {rate}")


def thorax() -> np.ndarray:
    """(72, 60, 80) labels at 4 mm: two ellipsoid lungs, 260 mm high, in a body."""
    z, y, x = (np.indices((72, 60, 80)) - np.array([36, 30, 40])[:, None, None, None]) * SPACING_MM
    labels = np.full(z.shape, int(Tissue.BODY), np.uint8)
    for side, tissue in ((-1, Tissue.RIGHT_LUNG), (1, Tissue.LEFT_LUNG)):
        inside = (z / 130) ** 2 + (y / 95) ** 2 + ((x - side * 75) / 62) ** 2 < 1
        labels[inside] = tissue
    return labels


def sample(subjects: int) -> np.ndarray:
    """(subjects, *TEMPLATE): the differences of so many pairs, smooth in space, in the template."""
    labels, rng = thorax(), generator(0, "speed")
    maps, seconds = [], 0.0
    for _ in range(subjects):
        own = (
            ndimage.gaussian_filter(rng.normal(size=labels.shape), 2)
            * 200
            * np.exp(0.3 * rng.normal())
        )
        difference = own + 0.6 + 3 * rng.normal()
        clock = time.perf_counter()
        maps.append(Sampler(labels, (SPACING_MM,) * 3)(difference))
        seconds += time.perf_counter() - clock
    print(f"{subjects} pairs at {SPACING_MM:g} mm read in the template: {seconds:.1f} s")
    return np.stack(maps)


def speed(subjects: int, flips: int) -> None:
    stack = sample(subjects)
    mask = common_mask(stack)
    x = stack[:, mask]
    print(f"{subjects} subjects, {int(mask.sum())} cells, {flips} flips")
    clock = time.perf_counter()
    ours = permutation.maximum_p(x, generator(0, "flips"), flips).p
    own = time.perf_counter() - clock
    print(f"maximum statistic: {own:.1f} s")
    clock = time.perf_counter()
    permutation.tfce_p(x, mask, generator(0, "flips"), 1000)
    print(f"TFCE, 1000 flips: {time.perf_counter() - clock:.1f} s")
    clock = time.perf_counter()
    columns = np.random.default_rng(0).normal(size=(subjects, 6))
    permutation.regression_p(
        x.astype(float), columns[:, 0], columns[:, 1:], generator(0, "p"), flips
    )
    print(f"real scans, {flips} permutations: {time.perf_counter() - clock:.1f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    from nilearn.mass_univariate import permuted_ols

    clock = time.perf_counter()
    theirs = permuted_ols(
        np.ones((subjects, 1)), x, model_intercept=False, n_perm=flips, two_sided_test=True,
        random_state=0, n_jobs=1, verbose=0, output_type="dict",
    )["logp_max_t"][0]  # fmt: skip
    other = time.perf_counter() - clock
    p = 10.0**-theirs
    print(f"nilearn permuted_ols: {other:.1f} s, {other / own:.1f} times ours")
    deviation = np.abs(ours - p)
    error = np.sqrt(2 * p * (1 - p) / flips)
    print(f"largest difference of p: {deviation.max():.4f}; in Monte-Carlo errors of the")
    print(f"difference: {np.max(deviation / np.maximum(error, 1 / flips)):.1f}")
    print(
        f"peak memory with nilearn: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("errors", "speed"))
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first cohort")
    parser.add_argument("--no-tfce", action="store_true", help="it takes most of the time")
    parser.add_argument("--subjects", type=int)
    parser.add_argument("--flips", type=int, default=10_000)
    chosen = parser.parse_args()
    if chosen.what == "errors":
        errors(chosen.first, chosen.cohorts, chosen.subjects or 24, not chosen.no_tfce)
    else:
        speed(chosen.subjects or 200, chosen.flips)
