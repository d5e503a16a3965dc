"""What a training step is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dgmvlc_cli.generators import fitting
from dgmvlc_cli.generators.fitting import Drawn, fit_conditioning, to_tensors


def test_a_step_hears_the_wordings_that_it_draws(training_set, plan):
    others = training_set.embeddings[:, None] + np.array([[[0.5]], [[1.0]]])[:, 0]
    data = replace(training_set, rewordings=others.astype(np.float32))
    conditioning, residuals = fit_conditioning(data, plan)
    tensors = to_tensors(data, conditioning, residuals)
    index = torch.tensor([3, 7, 7, 2])
    drawn = Drawn(
        index=index,
        donors=index,
        wordings=torch.tensor([0, 1, 2, 2]),
        kept=torch.tensor([[1.0], [1.0], [1.0], [0.0]]),
    )
    heard = tensors.batch(drawn, torch.device("cpu")).conditions.text
    said = conditioning.projection
    assert np.allclose(heard[0], said(data.embeddings[3]), atol=1e-5)
    assert np.allclose(heard[1], said(others[7, 0]), atol=1e-5)
    assert np.allclose(heard[2], said(others[7, 1]), atol=1e-5)
    assert not heard[3].any()


def test_a_few_subjects_at_a_time_are_prepared_as_all_at_once(training_set, plan, monkeypatch):
    conditioning, residuals = fit_conditioning(training_set, plan)
    whole = to_tensors(training_set, conditioning, residuals)
    monkeypatch.setattr(fitting, "SUBJECTS_AT_ONCE", 5)
    assert len(training_set.hu) % 5
    parts = to_tensors(training_set, conditioning, residuals)
    for name in ("bands", "weight", "context", "sigma"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
