"""dgmvlc: pattern discovery in medical images by counterfactual synthesis."""

__version__ = "0.1.0"
