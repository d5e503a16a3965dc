"""How stages report: notes and progress bars, or silence for library use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Reporter:
    """Says nothing.  The command line uses `RichReporter`; a notebook may pass its own."""

    def note(self, message: str) -> None:
        """One line for the user."""

    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[..., None]]:
        """A progress bar: yields advance(amount=1, detail="")."""
        yield lambda amount=1, detail="": None


class RichReporter(Reporter):
    """Notes and progress bars on stderr."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def note(self, message: str) -> None:
        self.console.print(message, markup=False, style="dim", soft_wrap=True)

    @contextlib.contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[..., None]]:
        from rich import progress

        columns = (
            progress.TextColumn("{task.description:<22}"),
            progress.BarColumn(bar_width=28),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[detail]}"),
        )
        with progress.Progress(*columns, console=self.console) as bars:
            task = bars.add_task(description, total=total, detail="")

            def advance(amount: int = 1, detail: str = "") -> None:
                bars.update(task, advance=amount, detail=detail)

            yield advance
