from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.checkpoint import load
from common.errors import InputError
from common.models.unet import (
    PRESETS,
    UNet,
    build_unet,
    classes_for,
    exchange_head,
    find_preset,
    fold,
    probabilities,
    unfold,
)


def parameters(preset: str, *, classes: int) -> int:
    model = build_unet(preset, in_channels=4, classes=classes, seed=0)
    return sum(p.numel() for p in model.parameters())


def test_ren2024_has_the_published_number_of_parameters() -> None:
    model = build_unet("ren2024", in_channels=4, classes=3, seed=0)

    assert sum(p.numel() for p in model.parameters()) == 50_687_817
    assert sum(p.numel() for p in model.encoder.parameters()) == 25_086_912


def test_two_nano_checkpoints_in_half_precision_stay_below_4_megabytes() -> None:
    assert parameters("nano", classes=4) <= 950_000


def test_base_has_about_six_million_parameters() -> None:
    assert 5.5e6 <= parameters("base", classes=4) <= 6.5e6


@pytest.mark.parametrize("preset", ["nano", "base"])
def test_logits_have_the_resolution_of_the_image(preset: str) -> None:
    model = build_unet(preset, in_channels=4, classes=4, seed=0)

    assert model(torch.zeros(2, 4, 16, 32, 16)).shape == (2, 4, 16, 32, 16)


def test_ren2024_runs_at_full_resolution_and_its_logits_are_not_squashed() -> None:
    narrow = replace(PRESETS["ren2024"], widths=(4, 6, 8, 12, 16, 24, 32))
    model = UNet(narrow, in_channels=4, classes=3)
    with torch.no_grad():
        model.state_dict()["head.classify.bias"].fill_(50.0)
        logits = model(torch.randn(1, 4, 64, 64, 128, generator=torch.Generator().manual_seed(0)))

    assert logits.shape == (1, 3, 64, 64, 128)
    assert logits.min() > 1.0


def test_children_hold_all_parameters_and_no_buffers() -> None:
    for preset in PRESETS:
        model = build_unet(preset, in_channels=4, classes=4, seed=0)

        assert [name for name, _ in model.named_children()] == ["encoder", "decoder", "head"]
        assert list(model.buffers()) == []


def test_same_seed_same_weights_and_global_generator_untouched() -> None:
    before = torch.random.get_rng_state()
    first = build_unet("nano", in_channels=4, classes=4, seed=7).state_dict()
    again = build_unet("nano", in_channels=4, classes=4, seed=7).state_dict()
    other = build_unet("nano", in_channels=4, classes=4, seed=8).state_dict()

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.classify.weight"], other["head.classify.weight"])


def test_exchanging_the_head_keeps_the_body() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=7)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    exchange_head(model, classes=5, seed=9)

    after = model.state_dict()
    assert model.classes == 5
    assert model(torch.zeros(2, 4, 16, 16, 16)).shape[1] == 5
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("head."))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_unfold_inverts_fold(d: int, h: int, w: int) -> None:
    x = torch.arange(2 * 3 * 8 * d * h * w).reshape(2, 3, 2 * d, 2 * h, 2 * w)

    assert torch.equal(unfold(fold(x, 2), 2), x)


def test_fold_puts_each_block_into_channels() -> None:
    x = torch.arange(8).reshape(1, 1, 2, 2, 2)

    assert fold(x, 2).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert fold(x, 2).shape == (1, 8, 1, 1, 1)


@pytest.mark.parametrize("preset", ["nano", "base"])
def test_a_fresh_network_says_background_and_the_voxels_of_a_block_alike(preset: str) -> None:
    model = build_unet(preset, in_channels=4, classes=4, seed=0)
    logits = model(torch.randn(1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0)))
    side = find_preset(preset).fold
    corners = logits[:, :, ::side, ::side, ::side]

    assert (logits.argmax(dim=1) == 0).float().mean() > 0.9
    assert torch.allclose(logits[:, :, side - 1 :: side, ::side, ::side], corners, atol=1e-5)


@pytest.mark.parametrize("name", ["healthy", "glioma"])
def test_shipped_models_fit_their_network_and_are_small(name: str) -> None:
    path = Path(str(resources.files("common.models") / "shipped" / f"{name}.safetensors"))
    checkpoint = load(path)
    model = build_unet("nano", in_channels=4, classes=checkpoint.provenance["classes"], seed=0)
    model.load_state_dict(checkpoint.tensors)

    assert path.stat().st_size < 1.95e6


def test_features_can_be_taken_on_the_way_and_change_nothing() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)
    image = torch.randn(1, 4, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    features = model.encode(image)

    assert [level.shape[1] for level in features] == [16, 32, 64, 80]
    assert torch.equal(model.decode(features, image), model(image))
    with pytest.raises(InputError, match="divisible by 16"):
        model.encode(image[..., :24])


def test_softmax_probabilities_sum_to_one() -> None:
    model = build_unet("nano", in_channels=4, classes=3, seed=0)
    seen = probabilities(model, torch.tensor([0.0, 0.0, 0.0]).reshape(1, 3, 1, 1, 1))

    assert torch.allclose(seen.flatten(), torch.full((3,), 1 / 3))


def test_sigmoid_probabilities_gain_a_background_that_wins_below_one_half() -> None:
    model = build_unet("ren2024", in_channels=1, classes=2, seed=0)
    # sigmoid(-ln 3) = 1/4, sigmoid(ln 3) = 3/4
    logits = torch.tensor([[-1.0986123, -20.0], [1.0986123, -20.0]]).reshape(2, 2, 1, 1, 1)
    seen = probabilities(model, logits)[:, :, 0, 0, 0]

    assert torch.allclose(seen[:, :2], torch.tensor([[0.75, 0.25], [0.25, 0.75]]), atol=1e-6)
    assert seen.argmax(dim=1).tolist() == [0, 1]


def test_classes_count_the_background_with_softmax_only() -> None:
    assert classes_for("nano", ("NCR", "ED", "ET")) == 4
    assert classes_for("ren2024", ("NCR", "ED", "ET")) == 3


def test_unknown_preset_is_refused_by_naming_the_known() -> None:
    with pytest.raises(InputError, match="nano, base, ren2024"):
        find_preset("huge")


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(InputError, match="2 classes"):
        build_unet("nano", in_channels=4, classes=1, seed=0)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 4, 16, 16, 20), "divisible by 16"), ((2, 3, 16, 16, 16), "4 channels"), ((4, 16, 16, 16), "shape")],
)
def test_an_input_that_does_not_fit_is_refused_in_words(shape: tuple[int, ...], words: str) -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)

    with pytest.raises(InputError, match=words):
        model(torch.zeros(shape))


def test_ren2024_refuses_a_single_bottleneck_voxel() -> None:
    model = build_unet("ren2024", in_channels=1, classes=1, seed=0)

    with pytest.raises(InputError, match="one bottleneck voxel"):
        model(torch.zeros(1, 1, 64, 64, 64))
