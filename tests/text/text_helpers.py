"""Small tables and schemas for the tests of this room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli.text.schema import Schema


def table_of(*rows: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), dtype=object)


def smoking_schema() -> Schema:
    """Smoking status and pack-years, which never smokers do not have."""
    smoking: dict[str, Any] = {
        "column": "smoking",
        "kind": "category",
        "label": "smoking status",
        "levels": ["never smoker", "former smoker", "current smoker"],
        "synonyms": {
            "never": "never smoker",
            "former": "former smoker",
            "current": "current smoker",
        },
    }
    pack_years: dict[str, Any] = {
        "column": "pack_years",
        "kind": "number",
        "label": "smoking history",
        "unit": "pack-years",
        "decimals": 0,
        "plausible": [0, 300],
        "not_applicable": ["N/A"],
        "follows": {"attribute": "smoking", "absent_for": ["never smoker"]},
    }
    attributes = {"smoking": smoking, "pack_years": pack_years}
    return Schema.model_validate({"id_column": "subject", "attributes": attributes})


def cohort_table(n: int, seed: int = 0) -> pd.DataFrame:
    """A table as a phantom cohort has it, with sentinels."""
    rng = np.random.default_rng(seed)
    smoking = rng.choice(["never smoker", "former smoker", "current smoker"], n)
    never, former = smoking == "never smoker", smoking == "former smoker"
    columns = {
        "subject": [f"ph-{i:04d}" for i in range(1, n + 1)],
        "age": rng.integers(35, 86, n).astype(str),
        "sex": rng.choice(["female", "male"], n),
        "smoking_status": smoking,
        "pack_years": np.where(never, "", rng.integers(2, 80, n).astype(str)),
        "quit_year": np.where(former, rng.integers(1980, 2020, n).astype(str), ""),
        "bmi": [f"{bmi:.1f}" for bmi in rng.normal(27, 4, n)],
        "diagnosis": rng.choice(["no lung disease", "COPD", "Not Collected"], n),
        "scan_date": ["2021-03-04"] * n,
    }
    table = pd.DataFrame(columns, dtype=object)
    table.loc[3, "age"] = "99999"
    return table
