"""A walk through the demo from Python: what `dgmvlc demo` does, stage by stage.

Run it with `python examples/walkthrough.py [FOLDER]`.  Every stage takes a workspace, settings
and a Run, returns a StageResult, and keeps what is current, so that the script can be run again.
"""

import sys
from pathlib import Path

import pandas as pd

from dgmvlc_cli import stages
from dgmvlc_cli.config import load_settings, override
from dgmvlc_cli.phantom import PhantomSettings, write_cohort
from dgmvlc_cli.progress import RichReporter
from dgmvlc_cli.stages.initialise import init
from dgmvlc_cli.workspace import Workspace


def main(folder: Path) -> None:
    # 1. A synthetic cohort: scans, a clinical table with gaps and sentinels, and the exact
    #    change that current smoking makes in each subject (the same seed gives the same files).
    cohort = folder / "phantom"
    if not (cohort / "phantom.json").exists():
        write_cohort(cohort, PhantomSettings(subjects=192, seed=0), workers=2)

    # 2. A workspace.  `init` looks at scans and table and proposes dgmvlc.toml; with your own
    #    data, read it before you go on.
    ws = Workspace(folder)
    run = stages.Run(workers=2, reporter=RichReporter())
    if not ws.settings_path.exists():
        init(ws, cohort / "scans", cohort / "clinical.csv", run, truth=cohort / "truth.tsv")
    settings = load_settings(ws.settings_path)

    # 3. Scans to HU and masks on one grid; rows to sentences.
    stages.preprocess(ws, settings, run)
    stages.describe(ws, settings, run)

    # 4. One generator per fold.  Settings are frozen: `override` makes changed ones, checked.
    settings = override(settings, {"train": {"folds": 2}})
    stages.train(ws, settings, run)

    # 5. Pairs of held-out subjects: same mask, same noise, another smoking status.
    question = stages.Question(
        attribute="smoking", reference="never smoker", target="current smoker"
    )
    stages.counterfactual(ws, settings, run, question)

    # 6. The four numbers per measure and region, and the report.
    result = stages.analyze(ws, settings, run, question)
    print("\n".join(result.summary))

    # Everything in the report lies beside it as a table.
    effects = pd.read_csv(result.facts["effects"], sep="\t")
    mean_hu = effects[
        (effects["measure"] == "mean_hu") & effects["region"].isin(["upper", "lower"])
    ]
    columns = ["region", "contrast", "kind", "n", "effect", "ci_low", "ci_high"]
    print(mean_hu[columns].round(1).to_string(index=False))


if __name__ == "__main__":  # worker processes import this file
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dgmvlc-demo"))
