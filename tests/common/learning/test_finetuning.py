from __future__ import annotations

import pytest

from common.errors import InputError
from common.learning.finetuning import ADAPTATIONS, trainable_names
from common.models.unet import build_unet


def parts(names: tuple[str, ...]) -> set[str]:
    return {name.split(".", 1)[0] for name in names}


@pytest.mark.parametrize(
    ("adaptation", "new_head", "expected"),
    [
        ("all", False, {"encoder", "decoder", "head"}),
        ("frozen-decoder", False, {"encoder"}),
        ("frozen-decoder", True, {"encoder", "head"}),
        ("frozen-encoder", False, {"decoder", "head"}),
        ("head", False, {"head"}),
        ("head", True, {"head"}),
        ("norms", False, {"encoder", "decoder", "head"}),
    ],
)
def test_the_table(adaptation: str, new_head: bool, expected: set[str]) -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)

    assert parts(trainable_names(model, adaptation, new_head=new_head)) == expected


def test_norms_are_the_scales_and_shifts_of_norm_layers_and_nothing_else() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)
    names = trainable_names(model, "norms", new_head=False)

    assert {model.get_parameter(name).ndim for name in names} == {1}
    assert not any("classify" in name or "ups" in name for name in names)


def test_norms_with_a_new_head_also_train_its_convolutions() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)

    assert "head.classify.weight" in trainable_names(model, "norms", new_head=True)


def test_names_follow_the_model_and_gradients_follow_the_names() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)
    for adaptation in ADAPTATIONS:
        names = trainable_names(model, adaptation, new_head=False)

        assert names == tuple(n for n, p in model.named_parameters() if p.requires_grad)
        assert len(set(names)) == len(names)


def test_unknown_adaptation_is_refused() -> None:
    model = build_unet("nano", in_channels=4, classes=4, seed=0)

    with pytest.raises(InputError, match="frozen-decoder"):
        trainable_names(model, "lora", new_head=False)


def test_norms_of_a_network_without_norm_parameters_are_refused() -> None:
    model = build_unet("ren2024", in_channels=1, classes=1, seed=0)

    with pytest.raises(InputError, match="trains nothing"):
        trainable_names(model, "norms", new_head=False)
