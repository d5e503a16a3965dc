import math

from dgmvlc_cli.stages.train import Divergence


def noticed(losses) -> list[int]:
    watch = Divergence()
    return [step for step, loss in enumerate(losses) if watch.begins(loss)]


def test_a_loss_that_doubles_is_noticed_once():
    rising = [1.0] * 50 + [1.0 + 0.1 * step for step in range(100)]
    (step,) = noticed(rising)
    assert 60 < step < 130


def test_a_loss_that_falls_or_shakes_is_not():
    assert not noticed([1 / (1 + step) for step in range(200)])
    assert not noticed([1.0 + 0.5 * (step % 2) for step in range(200)])
    assert not noticed([1.0, math.nan, math.inf] * 50)
