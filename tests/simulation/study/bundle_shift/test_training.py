"""The network of sigmoids, its loss on bits, and a training that goes on where it was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.geometry import geometry_of
from common.data.transforms import PreparedCase
from common.data.volume import Volume
from common.learning.loop import train
from common.models.unet import probabilities
from simulation.study.bundle_shift import training
from simulation.study.bundle_shift.judging import codes, found_bits
from simulation.study.bundle_shift.settings import BundleShift
from simulation.study.bundle_shift.training import (
    MODEL,
    Course,
    bits,
    bundle_loss,
    draw,
    fresh_network,
    load_network,
    train_network,
)
from simulation.study.spec import parse, read
from simulation.study.stretches import DRAFT


@pytest.fixture
def study() -> BundleShift:
    raw, origin = read("bundle-shift")
    raw = {**raw, "presets": {"smoke": {**raw["presets"]["smoke"], "patch": 16, "curve_points": 3}}}
    return parse(raw, BundleShift, preset="smoke", origin=origin)


def case(seed: int = 1) -> PreparedCase:
    rng = np.random.default_rng(seed)
    shape = (16, 20, 18)
    image = rng.standard_normal((1, *shape)).astype(np.float16)
    label = np.zeros(shape, np.uint8)
    label[4:9, 5:12, 4:10] |= 1
    label[7:12, 5:12, 4:10] |= 2
    scan = Volume(np.ones(shape, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    geometry = geometry_of(scan, np.ones(shape, bool), spacing_mm=None, margin=0)
    return PreparedCase("a", "a", image, label, geometry, (True,))


def test_bits_are_taken_apart() -> None:
    label = torch.tensor([[[[0, 1, 2, 3]]]])

    assert bits(label, 2).tolist() == [[[[[0, 1, 0, 1]]], [[[0, 0, 1, 1]]]]]


def test_the_loss_is_that_of_each_bundle_alone() -> None:
    logits = torch.tensor([[[[[2.0, -1.0]]], [[[0.5, 3.0]]]]])  # one voxel pair, two bundles
    label = torch.tensor([[[[1, 3]]]])
    target = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    seen = torch.sigmoid(logits[0, :, 0, 0])

    entropy = -(target * seen.log() + (1 - target) * (1 - seen).log()).mean()
    overlap = 1 - (2 * (seen * target).sum(1) + 1e-5) / (seen.sum(1) + target.sum(1) + 1e-5)

    assert float(bundle_loss(logits, label)) == pytest.approx(float(entropy + overlap.mean()), abs=1e-6)


def test_a_fresh_network_sees_no_bundle_and_lets_bundles_overlap(study: BundleShift) -> None:
    model = fresh_network(study, channels=1, bundles=2)

    seen = probabilities(model, model(torch.zeros(1, 1, 16, 16, 16)))

    assert seen.shape[1] == 3
    assert float(seen[:, 1:].max()) < 0.3
    with torch.no_grad():
        model.head.classify.bias.fill_(5.0)  # type: ignore[union-attr,operator]
    assert float(probabilities(model, model(torch.zeros(1, 1, 16, 16, 16)))[:, 1:].min()) > 0.9


def test_what_is_found_lies_where_the_truth_lies(study: BundleShift) -> None:
    subject = case()
    model = fresh_network(study, channels=1, bundles=2)

    found = found_bits(model, subject)

    assert found.shape == subject.geometry.shape
    assert not found.any()
    assert codes(np.array([[0, 1, 2, 3]], np.uint8), 2).tolist() == [[0, 1, 2, 1]]


def test_a_step_hangs_on_its_number_alone(study: BundleShift) -> None:
    course = Course([case()], [], 6, 1e-3, ("here",))

    assert torch.equal(draw(study, course, 3).image, draw(study, course, 3).image)
    assert not torch.equal(draw(study, course, 3).image, draw(study, course, 4).image)


def test_a_training_that_was_killed_ends_in_the_same_weights(
    study: BundleShift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course([case(1), case(2)], [case(1)], 6, 1e-3, ("here",))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    facts = train_network(whole, fresh_network(study, channels=1, bundles=2), study, course)
    real, calls = train, []

    def killed(*args: object, **words: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        train_network(broken, fresh_network(study, channels=1, bundles=2), study, course)
    assert (broken / DRAFT).is_file()
    again = train_network(broken, fresh_network(study, channels=1, bundles=2), study, course)

    assert again == facts
    assert [step for step, _ in facts["curve"]] == [2, 4, 6]
    assert not (broken / DRAFT).exists()
    one, other = (load_network(study, folder / MODEL, bundles=2).state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)
