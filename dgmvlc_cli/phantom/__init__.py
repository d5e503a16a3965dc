"""A synthetic chest CT cohort with planted effects and exact counterfactual truth.

The embedded default of the toolkit, and the instrument by which it measures itself.
"""

from dgmvlc_cli.phantom.cohort import write_cohort
from dgmvlc_cli.phantom.settings import PhantomSettings

__all__ = ["PhantomSettings", "write_cohort"]
