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


def build_accelerator(precision: str, folder: Path) -> Accelerator:
    """This process's device, and how it computes.

    precision: `fp32`, `bf16` (activations of the convolutions only; weights, optimiser, level and
    loss stay in fp32), or `auto`: bf16 on a GPU that has it.  On a CPU bf16 is refused: there some
    gradients of 3-D convolutions come out non-finite.  folder: where TensorBoard's events go, if
    it is installed.
    """
    gpu = this_process().device.type == "cuda"
    if precision == "bf16" and not gpu:
        raise UsageError("precision bf16 needs a GPU.", "Leave [train] precision at auto.")
    use = precision == "bf16" or (precision == "auto" and gpu and torch.cuda.is_bf16_supported())
    board = importlib.util.find_spec("tensorboard") is not None
    accelerator = Accelerator(
        mixed_precision="bf16" if use else "no",
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
