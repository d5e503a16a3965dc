"""The processes that share a training, started by `accelerate launch` or `torchrun`."""

from __future__ import annotations

import importlib.util
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

from dgmvlc_cli.errors import UsageError

TIMEOUT = timedelta(hours=6)  # the others wait while the first one validates a fold


def this_process() -> PartialState:
    """This process among those that train together; the only one where nothing launched more."""
    return PartialState(cpu=_on_cpu(), timeout=TIMEOUT)


def mixed_precision(precision: str) -> str:
    """What accelerate calls it on this device: `bf16` or `no`.

    precision: `fp32`, `bf16` (of activations; weights, optimiser, regional means and loss stay in
    fp32), or `auto`: bf16 on a GPU that has it.  Raises UsageError for bf16 on a CPU:
    there some gradients of 3-D convolutions come out non-finite.
    """
    on_gpu = this_process().device.type == "cuda"
    able = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not able:
        raise UsageError(
            "Precision bf16 needs a GPU that has it.",
            "Set `precision` under [train] in dgmvlc.toml to auto.",
        )
    return "no" if precision == "fp32" or not able else "bf16"


def build_accelerator(precision: str, folder: Path) -> Accelerator:
    """This process's device, and how it computes.

    precision: see `mixed_precision`.  folder: where TensorBoard's events go, if it is installed.
    """
    board = importlib.util.find_spec("tensorboard") is not None
    accelerator = Accelerator(
        mixed_precision=mixed_precision(precision),
        cpu=_on_cpu(),
        log_with="tensorboard" if board else None,
        project_dir=folder,
    )
    if board:
        accelerator.init_trackers("tensorboard")
    return accelerator


def device_name() -> str:
    """What training runs on, in words."""
    state = this_process()
    times = f"{state.num_processes} x " if state.num_processes > 1 else ""
    if state.device.type == "cuda":
        return times + torch.cuda.get_device_name(state.device)
    return f"{times}{state.device.type}, {torch.get_num_threads()} threads"


def _on_cpu() -> bool:
    return not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
