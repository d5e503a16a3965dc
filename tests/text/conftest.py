"""The real clinical table, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dgmvlc_cli.text.table import read_table


@pytest.fixture(scope="session")
def nsclc(real_data: Callable[[str], Path]) -> pd.DataFrame:
    """NSCLC-Radiogenomics, 211 subjects (Bakr et al. 2017, doi:10.7937/K9/TCIA.2017.7hs46erv)."""
    return read_table(real_data("tables/nsclc_radiogenomics_clinical.csv"))
