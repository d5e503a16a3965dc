"""How a command ends at the terminal: its result, or one message with the next move."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dgmvlc_cli.errors import DgmvlcError

if TYPE_CHECKING:
    from dgmvlc_cli.stages.base import StageResult

INTERRUPTED = 130


def is_first_process() -> bool:
    """Of the processes that share a training, the first one speaks."""
    return os.environ.get("RANK", "0") == "0"


def finish(result: StageResult, as_json: bool, workspace: Path = Path()) -> None:
    """Print the result and leave with the stage's exit code."""
    if not is_first_process():
        raise typer.Exit(result.exit_code)
    following = result.next_command
    if following.startswith("dgmvlc ") and workspace != Path():
        following += f" -w {shlex.quote(str(workspace))}"
    if as_json:
        record = {"stage": result.stage, "exit_code": result.exit_code, **result.facts}
        typer.echo(json.dumps({**record, "next": following}, indent=2, default=str))
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        for line in result.summary:
            text = Text(line)
            if result.stage == "edit":
                text.highlight_regex(r"\[[^\[\]]+\]", "bold magenta")  # what differs
            console.print(text)
        if following:
            console.print(f"[bold]Next:[/bold] [green]{following}[/green]")
    raise typer.Exit(result.exit_code)


def explain(error: DgmvlcError) -> None:
    """One message with the next move: on stderr, and as JSON on stdout where asked for."""
    if "--json" in sys.argv:
        record = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        typer.echo(json.dumps(record, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]Error:[/bold red] {escape(error.message)}")
    if error.hint:
        console.print(f"[bold]What to do:[/bold] {escape(error.hint)}")


class InterruptedByUser(BaseException):
    """Ctrl-C.  No `except Exception` on the way may take it for a subject's failure."""


def interrupt(signum: int, frame: object) -> None:
    raise InterruptedByUser


def guarded(run: Callable[[], object]) -> None:
    """Run; errors a user can act on end in one message, never in a traceback."""
    signal.signal(signal.SIGINT, interrupt)
    try:
        run()
    except DgmvlcError as error:
        if "DGMVLC_DEBUG" in os.environ:
            raise
        explain(error)
        sys.exit(error.exit_code)
    except InterruptedByUser:
        message = "Finished work is kept: the same command goes on from here."
        explain(DgmvlcError("Interrupted.", message, INTERRUPTED))
        sys.exit(INTERRUPTED)
    except OSError as error:
        if "DGMVLC_DEBUG" in os.environ:
            raise
        from dgmvlc_cli.workspace import write_error

        explain(write_error(Path(error.filename or "a file"), error, "read or write"))
        sys.exit(1)
