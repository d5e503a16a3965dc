import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.generators import training
from dgmvlc_cli.generators.fitting import build_network, fit_conditioning, to_tensors
from dgmvlc_cli.generators.flow import Flow
from dgmvlc_cli.generators.model import Generator
from dgmvlc_cli.generators.training import Trainer, batch_index, train_fold


def weights(generator: Generator) -> dict[str, torch.Tensor]:
    return generator.network.state_dict()


def test_a_run_stopped_at_any_step_ends_with_the_same_weights(tmp_path, training_set, plan):
    whole = weights(train_fold(training_set, plan, tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    def stop_at_7(step: int, loss: float) -> None:
        if step == 7:
            raise StoppedError

    folder = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        train_fold(training_set, plan, folder, checkpoint_seconds=1e-9, on_step=stop_at_7)
    assert (folder / "state" / "last.pt").exists()
    assert not (folder / "config.json").exists()
    steps = []
    resumed = train_fold(training_set, plan, folder, on_step=lambda step, loss: steps.append(step))
    assert steps[0] == 7  # the seventh step was not saved yet, so it is made again
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(resumed).items())


def test_a_run_that_is_out_of_time_goes_on_to_the_same_weights(tmp_path, training_set, plan):
    whole = weights(train_fold(training_set, plan, tmp_path / "whole"))
    for _ in range(plan.steps - 1):  # a deadline in the past leaves one step to each call
        with pytest.raises(DgmvlcError, match="Time is up"):
            train_fold(training_set, plan, tmp_path / "late", deadline=0.0)
    done = weights(train_fold(training_set, plan, tmp_path / "late", deadline=0.0))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in done.items())


def test_compiled_steps_train_and_save_the_same_network(tmp_path, training_set, plan, monkeypatch):
    def compiled(network: torch.nn.Module) -> torch.nn.Module:
        return real(network, backend="aot_eager")  # which needs no C++ compiler

    real = torch.compile
    plain = weights(train_fold(training_set, plan, tmp_path / "plain"))
    monkeypatch.setattr(torch, "compile", compiled)
    train_fold(training_set, plan, tmp_path / "compiled", compiled=True)
    loaded = weights(Generator.from_pretrained(tmp_path / "compiled"))
    assert loaded.keys() == plain.keys()
    assert all(torch.allclose(loaded[name], plain[name], atol=1e-4) for name in plain)


def test_a_machine_that_cannot_compile_is_told_what_to_set(
    tmp_path, training_set, plan, monkeypatch
):
    def broken(*inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", lambda network: broken)
    with pytest.raises(DgmvlcError, match=r"torch\.compile failed: no working C") as caught:
        train_fold(training_set, plan, tmp_path, compiled=True)
    assert "compile = false" in caught.value.hint


def test_seed_and_fold_decide_the_weights(tmp_path, training_set, plan):
    one = weights(train_fold(training_set, replace(plan, steps=2), tmp_path / "a"))
    same = weights(train_fold(training_set, replace(plan, steps=2), tmp_path / "b"))
    other = weights(train_fold(training_set, replace(plan, steps=2, fold=1), tmp_path / "c"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_training_learns_what_the_sentence_says(tmp_path, training_set, plan):
    long = replace(plan, steps=300)
    generator = train_fold(training_set, long, tmp_path)
    low, high = np.zeros((2, 1, 6), np.float32)
    low[0, 0], high[0, 0] = -1.0, 1.0
    labels = training_set.labels[:1].repeat(8, axis=0)
    noise = np.random.default_rng(0).standard_normal((8, *generator.noise_shape()), np.float32)
    arms = [
        generator.generate(noise, labels, text.repeat(8, axis=0), steps=6) for text in (low, high)
    ]
    change = (arms[1] - arms[0])[labels > 1].mean()
    assert change == pytest.approx(80, rel=0.4)  # planted: 40 HU per unit
    assert np.abs(arms[0][labels > 1].mean() + 850 + 40) < 25


def test_without_fusion_the_text_changes_nothing(tmp_path, training_set, plan):
    generator = train_fold(training_set, replace(plan, fusion="none"), tmp_path)
    labels, noise = training_set.labels[:1], np.zeros((1, *generator.noise_shape()), np.float32)
    one, other = (
        generator.generate(noise, labels, text[None], steps=2)
        for text in training_set.embeddings[:2]
    )
    assert np.array_equal(one, other)


def test_a_saved_model_generates_what_the_trained_one_did(tmp_path, training_set, plan):
    generator = train_fold(training_set, plan, tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    assert loaded.conditioning.standardiser == generator.conditioning.standardiser
    noise = np.random.default_rng(1).standard_normal((2, *generator.noise_shape()), np.float32)
    args = (noise, training_set.labels[:2], training_set.embeddings[:2])
    one, other = (g.generate(*args, steps=3) for g in (generator, loaded))
    assert np.allclose(one, other, atol=1e-3)


def test_the_batch_size_does_not_change_a_volume(tmp_path, training_set, plan):
    generator = train_fold(training_set, plan, tmp_path)
    noise = np.random.default_rng(1).standard_normal((4, *generator.noise_shape()), np.float32)
    labels, text = training_set.labels[:4], training_set.embeddings[:4]
    together = generator.generate(noise, labels, text, steps=3)
    alone = generator.generate(noise[2:3], labels[2:3], text[2:3], steps=3)
    assert np.abs(together[2] - alone[0]).max() < 0.1


def test_the_number_of_threads_does_not_change_a_volume(tmp_path, training_set, plan):
    generator = train_fold(training_set, plan, tmp_path)
    noise = np.random.default_rng(1).standard_normal((4, *generator.noise_shape()), np.float32)
    args = (noise, training_set.labels[:4], training_set.embeddings[:4])
    threads = torch.get_num_threads()
    try:
        made = []
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(generator.generate(*args, steps=3))
    finally:
        torch.set_num_threads(threads)
    assert np.abs(made[0] - made[1]).max() < 0.1


def test_a_non_finite_step_leaves_the_weights_alone(training_set, plan):
    conditioning, residuals = fit_conditioning(training_set, plan)
    network = build_network(conditioning, plan)
    trainer = Trainer(network, Flow(), plan, training.Accelerator())
    tensors = to_tensors(training_set, conditioning, residuals)
    before = {name: t.clone() for name, t in trainer.network.state_dict().items()}
    broken = replace(tensors, bands=tensors.bands * float("nan"))
    trainer.step(broken)
    assert trainer.progress.skipped == 1
    assert all(torch.equal(before[name], t) for name, t in trainer.network.state_dict().items())
    with pytest.raises(DgmvlcError, match="not finite"):
        for _ in range(training.MAXIMUM_SKIPPED_STEPS):
            trainer.step(broken)


def test_a_model_with_a_non_finite_weight_is_not_saved(tmp_path, training_set, plan):
    generator = train_fold(training_set, plan, tmp_path / "good")
    with torch.no_grad():
        generator.network.head.bias[0] = float("nan")
    with pytest.raises(DgmvlcError, match=r"head\.bias"):
        generator.save(tmp_path / "bad")
    assert not (tmp_path / "bad" / "config.json").exists()


def test_a_damaged_model_is_refused(tmp_path, training_set, plan):
    train_fold(training_set, plan, tmp_path)
    (tmp_path / "conditioning.safetensors").write_bytes(b"damaged")
    with pytest.raises(DgmvlcError, match="Cannot load the model"):
        Generator.from_pretrained(tmp_path)


def test_every_epoch_shows_every_subject_once(plan):
    seen = torch.cat([batch_index(8, plan, step) for step in range(4)])  # two epochs of 8
    assert sorted(seen[:8].tolist()) == sorted(seen[8:].tolist()) == list(range(8))
    assert seen[:8].tolist() != seen[8:].tolist()


def test_the_log_holds_every_tenth_step_and_the_last(tmp_path, training_set, plan):
    train_fold(training_set, plan, tmp_path)
    log = workspace.read_table(tmp_path / "train.tsv")
    assert list(log["step"]) == [10, 12]
    assert np.isfinite(log[["loss", "lr", "seconds"]]).all(axis=None)
    assert log["lr"].iloc[-1] > 0  # of the step itself, not of one that is never made


def test_the_time_of_a_training_is_that_of_all_its_legs(tmp_path, training_set, plan, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("dgmvlc_cli.generators.training.time.monotonic", lambda: 10.0 * next(clock))
    for _ in range(plan.steps - 1):
        with pytest.raises(DgmvlcError, match="Time is up"):
            train_fold(training_set, plan, tmp_path, deadline=0.0)
    train_fold(training_set, plan, tmp_path, deadline=0.0)
    seconds = workspace.read_table(tmp_path / "train.tsv")["seconds"]
    assert seconds.is_monotonic_increasing and seconds.iloc[-1] >= 10.0 * plan.steps
