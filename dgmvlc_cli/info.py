"""`dgmvlc info`: what is installed, what can be chosen, what is measured; without torch."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from typing import Any

from dgmvlc_cli import memory, workspace
from dgmvlc_cli.analysis.measures import MEASURES
from dgmvlc_cli.config import FUSIONS, MODELS, PRESETS
from dgmvlc_cli.parallel import available_cores
from dgmvlc_cli.text.encoders import ENCODERS


def facts() -> dict[str, Any]:
    """Everything `dgmvlc info` says, as JSON values."""
    return {
        "versions": workspace.versions(),
        "devices": {
            "cpu_cores": available_cores(),
            "memory_gb": round(memory.machine_gb(), 1),
            "gpus": gpus(),
        },
        "models": list(MODELS),
        "fusions": list(FUSIONS),
        "presets": {
            name: {**preset.model_dump(), "memory_gb": round(memory.needed_gb(preset, 100), 1)}
            for name, preset in PRESETS.items()
        },
        "encoders": {
            name: {
                "description": one.description,
                "installed": importlib.util.find_spec(one.package) is not None,
            }
            for name, one in ENCODERS.items()
        },
        "measures": {
            name: {"unit": one.unit, "definition": one.definition, "source": one.source}
            for name, one in MEASURES.items()
        },
    }


def gpus() -> list[str]:
    """Names and memory of NVIDIA GPUs by nvidia-smi; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def print_facts(found: dict[str, Any]) -> None:
    """The same as tables for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print("  ".join(f"{name} {version}" for name, version in found["versions"].items()))
    devices = found["devices"]
    console.print(
        f"{devices['cpu_cores']} CPU cores; GPU: {', '.join(devices['gpus']) or 'none found'}"
    )
    presets = Table("preset", "grid", "spacing", "widths", "batch", "steps", "memory*")
    for name, one in found["presets"].items():
        presets.add_row(
            name,
            "×".join(map(str, one["grid"])),
            f"{one['spacing_mm']:g} mm",
            " ".join(map(str, one["widths"])),
            str(one["batch_size"]),
            str(one["steps"]),
            f"{one['memory_gb']:g} GB",
        )
    console.print(presets)
    console.print("* to train on 100 subjects; this machine has ", end="")
    console.print(f"{found['devices']['memory_gb']:.0f} GB")
    encoders = Table("text encoder", "what it is", "installed")
    for name, one in found["encoders"].items():
        encoders.add_row(name, one["description"], "yes" if one["installed"] else "no")
    console.print(encoders)
    measures = Table("measure", "unit", "definition")
    for name, one in found["measures"].items():
        measures.add_row(name, one["unit"], one["definition"])
    console.print(measures)
