"""How outcomes and values are written."""

from __future__ import annotations

import pandas as pd
import pytest
from effect_rows import evidence

from dgmvlc_cli.analysis.outcomes import number
from dgmvlc_cli.analysis.verdicts import verdicts
from dgmvlc_cli.errors import DgmvlcError


def test_two_contrasts_are_not_judged_as_one():
    one = evidence((-22.1, 9.0), -19.4)
    other = one.assign(contrast="sex: female -> male")
    with pytest.raises(DgmvlcError, match="one contrast"):
        verdicts(pd.concat([one, other]))


@pytest.mark.parametrize(
    ("value", "text"), [(-22.14, "-22.1"), (0.012345, "0.0123"), (1234.5, "1230"), (0, "0")]
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert number(value) == text
