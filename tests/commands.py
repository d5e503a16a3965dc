"""Run `dgmvlc` as a user would: in this process for speed, or as a process of its own."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from unittest.mock import patch

from dgmvlc_cli import cli


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def dgmvlc(*arguments: str, expect: int | None = 0) -> Done:
    """Run a command in this process; expect None accepts any exit code."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGINT)
    with (
        patch.object(sys, "argv", ["dgmvlc", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            signal.signal(signal.SIGINT, handler)
    done = Done(code, out.getvalue(), err.getvalue())
    assert "Traceback" not in done.stderr
    assert expect in (None, code), f"exit code {code}\n{done.stdout}\n{done.stderr}"
    return done


def process(*arguments: str) -> list[str]:
    """The command as a process of its own, for what must be killed or timed."""
    return [sys.executable, "-m", "dgmvlc_cli", *arguments]
