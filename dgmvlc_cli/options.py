"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dgmvlc_cli.cohort import Question

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", help="Folder that holds dgmvlc.toml.", show_default="current folder"
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of everything random (default: dgmvlc.toml's)."),
]
NewSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Compute again what is current.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, for machines.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes.", show_default="cores")
]
AttributeOption = Annotated[
    str | None, typer.Option("--attribute", help="Attribute to change (default: the study's).")
]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Reference level (default: the study's).")
]
ValuesOption = Annotated[
    str | None,
    typer.Option("--values", help="Several levels or numbers, for example 45,55,65,75."),
]
EditOption = Annotated[
    list[str] | None,
    typer.Option("--edit", help="attribute=value; repeat it to change several together."),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", help="mask (a new scan under the mask) or scan (the scan, edited)."),
]
ToOption = Annotated[str | None, typer.Option("--to", help="Target level (default: the study's).")]


def one_of(value: str | None, known: tuple[str, ...], option: str) -> str | None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"{option} {value!r} is none of {', '.join(known)}")
    return value


def read_question(
    attribute: str | None,
    reference: str | None,
    target: str | None,
    values: str | None,
    edit: list[str] | None,
) -> Question:
    """The question that the shared options ask."""
    from dgmvlc_cli.cohort import Question

    return Question(
        attribute=attribute,
        reference=reference,
        target=target,
        values=tuple(read_list(values)),
        edits=tuple(read_edits(edit or []).items()),
    )


def read_list(text: str | None) -> list[str]:
    """The parts of a comma-separated list, without blanks around them."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def read_edits(texts: list[str]) -> dict[str, str | float]:
    """attribute -> value from `attribute=value`."""
    edits: dict[str, str | float] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise typer.BadParameter(
                f'{text!r} is not of the form ATTRIBUTE=LEVEL, as in --edit smoking="never smoker"'
            )
        if name in edits:
            raise typer.BadParameter(
                f"--edit sets {name!r} twice, to {edits[name]!r} and {value!r}"
            )
        edits[name] = value
    return edits


def require_only_names(compare: bool, analyses: list[str] | None, *others: object) -> None:
    """A comparison takes names alone, and names make sense in a comparison alone."""
    if not compare:
        raise typer.BadParameter(f"{analyses} makes sense with --compare alone")
    if any(others):
        raise typer.BadParameter("--compare takes names of finished analyses and nothing else")


def read_spacing(text: str) -> float | str:
    if text == "native":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number of mm nor `native`") from None
