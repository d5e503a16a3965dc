"""The registry of generator families, and how their settings are saved."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dgmvlc_cli.generators.diffusion import Diffusion
from dgmvlc_cli.generators.family import Family
from dgmvlc_cli.generators.flow import Flow
from dgmvlc_cli.generators.gan import Gan

FAMILIES: dict[str, type[Any]] = {
    "flow": Flow,
    "diffusion": Diffusion,
    "gan": Gan,
}
PAPER = {
    "timesteps": 250,
    "prediction": "epsilon",
    "zero_terminal_snr": False,
    "loss_power": 1,
}  # arXiv 2410.13823, after Med-DDPM


def build_family(name: str, **settings: Any) -> Family:
    """A family by name; settings left out take their defaults."""
    plain = {key: tuple(one) if isinstance(one, list) else one for key, one in settings.items()}
    family: Family = FAMILIES[name](**plain)
    return family


def describe_family(family: Family) -> dict[str, Any]:
    """Name and settings, from which `build_family` makes the same family again."""
    name = next(name for name, kind in FAMILIES.items() if isinstance(family, kind))
    kept = {one.name: getattr(family, one.name) for one in fields(FAMILIES[name]) if one.compare}
    return {"name": name, **kept}
