"""Which of several series of a subject is taken, why not the others, and the table of them all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.imaging.identity import Identity
from dgmvlc_cli.imaging.scans import PassedOver, Scan, Survey, below, passed_over
from dgmvlc_cli.imaging.vocabulary import sharpness

CONTRAST_WORDS = {True: "with contrast", False: "without contrast", None: "no contrast told"}
COVERING = 0.8  # of the tallest series of a subject


def choose(found: Survey, overrides: Mapping[str, str], identity: Identity) -> Survey:
    """The survey with one scan per subject, all others passed over with the reason."""
    by_subject = defaultdict(list)
    for scan in found.scans:
        by_subject[scan.subject].append(scan)
    _require_known(overrides, by_subject, identity)
    chosen, passed = [], list(found.passed_over)
    for subject, scans in sorted(by_subject.items()):
        wanted = overrides.get(subject, overrides.get(identity.subject(subject)))
        if wanted is None:
            first, others = _prefer(scans)
            first = _told_of_studies(first, scans)
        else:
            first = _named(wanted, scans, found.root, identity)
            others = [(one, "another was named in dgmvlc.toml") for one in scans if one != first]
        chosen.append(first)
        passed += [passed_over(one, reason) for one, reason in others]
    return Survey(
        root=found.root, scans=chosen, passed_over=sorted(passed, key=lambda one: str(one.path))
    )


class Criterion(NamedTuple):
    """A rank by which series are compared (the lower, the better), and what it means in words."""

    rank: float
    words: str


def preference(scan: Scan, tallest_mm: float) -> tuple[Criterion, ...]:
    """What decides between the series of a subject, from the weightiest criterion on.

    Covers (nearly) as much of the body as any; original, not derived; axial; not expiratory or
    prone by its description; without lossy compression; without contrast medium; a smooth kernel;
    thin slices; many; many bytes.
    """
    one = scan.traits
    edge = sharpness(one.kernel)
    return (
        Criterion(one.height_mm < COVERING * tallest_mm, f"covers {one.height_mm:.0f} mm"),
        Criterion(one.derived, "derived" if one.derived else "original"),
        Criterion(one.plane not in ("", "axial"), one.plane or "of unknown plane"),
        Criterion(bool(one.breath), one.breath or "not expiratory"),
        Criterion(bool(one.lossy), "compressed with loss" if one.lossy else "without loss"),
        Criterion(bool(one.contrast), CONTRAST_WORDS[one.contrast]),
        Criterion(
            {"smooth": 0, "": 1, "sharp": 2}[edge], f"{edge or 'unknown'} kernel {one.kernel}"
        ),
        Criterion(round(one.gap_mm, 2), f"gaps of {one.gap_mm:.2f} mm"),
        Criterion(-one.slices, f"{one.slices} slices"),
        Criterion(-scan.size, f"{scan.size} bytes"),
    )


def _prefer(scans: list[Scan]) -> tuple[Scan, list[tuple[Scan, str]]]:
    """The best scan, and the others with what decided against them."""
    tallest = max(scan.traits.height_mm for scan in scans)
    ranks = {scan.key: preference(scan, tallest) for scan in scans}
    first, *rest = sorted(
        scans, key=lambda scan: ([one.rank for one in ranks[scan.key]], str(scan.path))
    )
    return first, [(one, _against(ranks[one.key], ranks[first.key])) for one in rest]


def _told_of_studies(chosen: Scan, scans: list[Scan]) -> Scan:
    """The chosen scan, with a note where other studies of the subject were to choose from."""
    studies = len({one.study for one in scans} - {""})
    if studies < 2:
        return chosen
    note = (
        f"chosen from series of {studies} studies under one id: other dates, or other people of "
        'whom each needs an id of their own (subject_from = "folder", or "column" of the table)'
    )
    return replace(chosen, notes=(*chosen.notes, note))


def _against(these: tuple[Criterion, ...], those: tuple[Criterion, ...]) -> str:
    for this, that in zip(these, those, strict=True):
        if this.rank != that.rank:
            return f"{this.words.strip()}; the chosen series: {that.words.strip()}"
    return "equal to the chosen series by every rule; the first by path was taken"


def _named(wanted: str, scans: list[Scan], root: Path, identity: Identity) -> Scan:
    """The series of a subject that dgmvlc.toml names."""
    fitting = [scan for scan in scans if identity.series(scan.key) == wanted] or [
        scan for scan in scans if below(scan.path, root).as_posix() == wanted
    ]
    if len(fitting) == 1:
        return fitting[0]
    labels = ", ".join(identity.series(scan.key) for scan in scans)
    raise UsageError(
        f"[scans.choose] names {wanted!r}, which fits {len(fitting)} series of its subject.",
        f"The subject has: {labels} (see series.tsv).",
    )


def _require_known(
    overrides: Mapping[str, str], subjects: Iterable[str], identity: Identity
) -> None:
    known = {name for one in subjects for name in (one, identity.subject(one))}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise UsageError(
            f"[scans.choose] names a subject {unknown[0]!r} that has no scan.",
            "Take the names from the column `subject` of series.tsv.",
        )


def series_rows(
    found: Survey, identity: Identity, warnings: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Rows of series.tsv: every series and file, chosen or not, and why.

    warnings: what was wrong with the chosen series, by the subject's name in the workspace.
    Paths are given relative to the scans, and not at all where names are pseudonyms.
    """
    told = warnings or {}
    rows = [
        _row(one, "yes", "", found.root, identity)
        | {"warnings": told.get(identity.subject(one.subject), "")}
        for one in found.scans
    ] + [_row(one, "no", one.reason, found.root, identity) for one in found.passed_over]
    return sorted(rows, key=lambda row: (row["subject"] == "", row["subject"], row["series"]))


def _row(
    one: Scan | PassedOver, chosen: str, reason: str, root: Path, identity: Identity
) -> dict[str, Any]:
    path = "" if identity.pseudonymous else below(one.path, root).as_posix()
    return {
        "subject": identity.subject(one.subject) if one.subject else "",
        "series": identity.series(one.key or str(one.path)),
        "chosen": chosen,
        "reason": reason,
        "warnings": "",
        "kind": one.kind,
        "files": max(len(one.files), 1),
        **asdict(one.traits),
        "path": path,
    }


def series_paths(found: Survey, identity: Identity) -> dict[str, str]:
    """Label of each series -> its path, for the key file."""
    return {identity.series(one.key or str(one.path)): str(one.path) for one in found.all}
