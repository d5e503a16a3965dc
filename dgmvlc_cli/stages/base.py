"""What all stages share: how a stage is run, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dgmvlc_cli.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a stage is run, which never changes what it computes.

    force: compute again what is current.  dry_run: say what would be done, write nothing.
    workers: processes for work that splits by subject.  cluster: address of a Dask scheduler
    to use instead.
    """

    force: bool = False
    dry_run: bool = False
    workers: int = 1
    cluster: str | None = None
    reporter: Reporter = field(default_factory=Reporter)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did.

    summary: lines for the user.  facts: JSON values for machines.  failed: subject -> reason.
    next_command: what to run next.
    """

    stage: str
    summary: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    next_command: str = ""

    @property
    def exit_code(self) -> int:
        return 3 if self.failed else 0


def dry_run(stage: str, lines: list[str]) -> StageResult:
    return StageResult(stage=stage, summary=["would do:", *lines], facts={"dry_run": lines})
