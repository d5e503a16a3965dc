"""The stages, each of which reads like a paragraph of a methods section.

Read, skip what is current, compute, save: this is the only place that joins files to
algorithms.  Every stage takes a Workspace, Settings and Run, and returns a StageResult.
"""

from dgmvlc_cli.cohort import Question
from dgmvlc_cli.stages.analyze import analyze
from dgmvlc_cli.stages.base import Run, StageResult
from dgmvlc_cli.stages.compare import compare
from dgmvlc_cli.stages.counterfactual import counterfactual
from dgmvlc_cli.stages.describe import describe
from dgmvlc_cli.stages.edit import edit
from dgmvlc_cli.stages.preprocess import preprocess
from dgmvlc_cli.stages.probe import probe
from dgmvlc_cli.stages.train import train

__all__ = [
    "Question",
    "Run",
    "StageResult",
    "analyze",
    "compare",
    "counterfactual",
    "describe",
    "edit",
    "preprocess",
    "probe",
    "train",
]
