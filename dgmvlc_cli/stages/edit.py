"""`dgmvlc describe --edit`: sentences before and after an edit of the row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dgmvlc_cli.config import Settings
from dgmvlc_cli.stages.base import StageResult
from dgmvlc_cli.stages.describe import EXAMPLES, Described, read_rows
from dgmvlc_cli.workspace import Workspace

WARNING = "WARNING: "


@dataclass(frozen=True)
class Edited:
    """One subject's edit: both sentences, what changed, and what came of each attribute."""

    before: str
    after: str
    changes: dict[str, tuple[Any, Any]]
    notes: list[str]

    @property
    def lines(self) -> list[str]:
        """Both sentences, the words that only one of them has in brackets."""
        from dgmvlc_cli.text.edits import bracketed

        before, after = bracketed(self.before, self.after)
        return [f"before: {before}", f"after:  {after}"]

    @property
    def warning(self) -> str:
        return next((note for note in self.notes if note.startswith(WARNING)), "")


def edit(
    ws: Workspace, settings: Settings, subject: str | None, edits: Mapping[str, str]
) -> StageResult:
    """Both sentences of one subject, or what the edit makes of all; nothing is written.

    edits: attribute -> level or number.  Raises UsageError for a name, level or subject that is
    unknown, ContradictionError where the rest of the subject's row forbids it.
    """
    from dgmvlc_cli.text.schema import unknown_name

    said = read_rows(ws, settings)
    if subject is None:
        return _edit_all(said, edits)
    if subject not in said.rows.index:
        raise unknown_name("subject", subject, said.rows.index)
    one = _edit_one(said, subject, edits)
    facts = {"subject": subject, "before": one.before, "after": one.after}
    return StageResult(
        stage="edit",
        summary=[*one.lines, *one.notes],
        facts=facts | {"changes": one.changes, "notes": one.notes},
    )


def _edit_one(said: Described, subject: str, edits: Mapping[str, str]) -> Edited:
    from dgmvlc_cli.text.describe import sentence
    from dgmvlc_cli.text.edits import changes, edit_notes, edit_row

    row = {str(name): value for name, value in said.rows.loc[subject].items()}
    scan_year = float(said.cleaned.scan_years[subject])
    edited = edit_row(row, edits, said.schema, said.rows, scan_year=scan_year)
    return Edited(
        before=sentence(row, said.schema),
        after=sentence(edited, said.schema),
        changes=changes(row, edited),
        notes=edit_notes(row, edited, edits, said.schema, said.rows, scan_year=scan_year),
    )


def _edit_all(said: Described, edits: Mapping[str, str]) -> StageResult:
    """How many subjects the edit changes, contradicts or does not suit, with examples."""
    from dgmvlc_cli.text.edits import ContradictionError

    made: dict[str, Edited] = {}
    refused: dict[str, str] = {}
    for subject in map(str, said.rows.index):
        try:
            made[subject] = _edit_one(said, subject, edits)
        except ContradictionError as error:
            refused[subject] = error.message
    changed = {subject: one for subject, one in made.items() if one.changes}
    warned = {subject: one.warning for subject, one in changed.items() if one.warning}
    lines = [
        f"{len(changed)} of {len(said.rows)} subjects would change, {len(made) - len(changed)} are "
        "so already"
    ]
    for subject, one in list(changed.items())[:EXAMPLES]:
        lines += [f"{subject}:", *(f"  {line}" for line in one.lines)]
    for what, reasons in (("refused", refused), ("does not suit", warned)):
        if reasons:
            subject, reason = next(iter(reasons.items()))
            reason = reason.removeprefix(WARNING)
            lines.append(f"{what} {len(reasons)} of them, for example {subject}: {reason}")
    sentences = {subject: [one.before, one.after] for subject, one in changed.items()}
    facts = {"sentences": sentences, "refused": refused, "unsuited": warned}
    return StageResult(stage="edit", summary=lines, facts=facts)
