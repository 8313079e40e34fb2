from __future__ import annotations

import numpy as np
import pytest

from common.data.phantom.tissue import (
    PROTOCOL_1T5,
    PROTOCOL_3T,
    TISSUES,
    TISSUES_3T,
    Protocol,
    Sequence,
    Tissue,
    csf_null_ms,
    jittered,
    signal,
    signal_table,
    tissues_at,
    water_sensitivity,
    with_contrast_agent,
    with_core,
)

# Signals by hand from the published relaxation values: t1n, t1c, t2w, t2f.
GOLDEN_3T = {
    "WM": (0.324, 0.332, 0.167, 0.111),
    "GM": (0.280, 0.289, 0.263, 0.142),
    "CSF": (0.149, 0.152, 0.667, 0.002),
    "ED": (0.279, 0.297, 0.429, 0.224),
    "ET": (0.292, 0.526, 0.370, 0.199),
    "NCR": (0.233, 0.253, 0.571, 0.199),
}
GOLDEN_1T5 = {
    "WM": (0.310, 0.316, 0.208, 0.153),
    "GM": (0.266, 0.273, 0.311, 0.203),
    "CSF": (0.117, 0.119, 0.591, 0.002),
    "ED": (0.264, 0.279, 0.473, 0.306),
    "ET": (0.278, 0.474, 0.419, 0.275),
    "NCR": (0.221, 0.236, 0.603, 0.299),
}


@pytest.mark.parametrize(
    ("protocol", "golden"), [(PROTOCOL_3T, GOLDEN_3T), (PROTOCOL_1T5, GOLDEN_1T5)], ids=["3T", "1.5T"]
)
def test_signals_are_the_golden_ones(protocol: Protocol, golden: dict[str, tuple[float, ...]]) -> None:
    table = signal_table(tissues_at(protocol.field_strength_t), protocol)

    actual = np.array([table[TISSUES.index(name)] for name in golden])

    np.testing.assert_allclose(actual, list(golden.values()), atol=1e-3)


def test_relaxation_at_1_5_t_has_the_published_ratio() -> None:
    white = tissues_at(1.5)["WM"]

    assert white.t1_ms == pytest.approx(850 / 1.22)
    assert white.t2_ms == pytest.approx(70 * 1.18)
    assert tissues_at(1.5)["CSF"] == TISSUES_3T["CSF"]


def test_gadolinium_adds_a_rate() -> None:
    assert with_contrast_agent(TISSUES_3T["ET"]).t1_ms == pytest.approx(620)
    assert with_contrast_agent(tissues_at(1.5)["ET"]).t1_ms == pytest.approx(567, abs=1)


def test_flair_is_dark_where_its_null_says() -> None:
    null_ms = csf_null_ms(4000, 9000)
    csf = Tissue(4000, 1500, 1.0, 0.0)

    assert null_ms == pytest.approx(2372, abs=1)
    assert signal(csf, Sequence("ir", 9000, 120, null_ms)) == pytest.approx(0, abs=1e-9)


def test_spoiled_gradient_echo_at_90_degrees_is_a_saturation_recovery() -> None:
    tissue = Tissue(1000, 1e9, 1.0, 0.0)

    assert signal(tissue, Sequence("spgr", 500, 3, flip_deg=90)) == pytest.approx(1 - np.exp(-0.5))


def test_more_water_is_darker_on_t1_and_brighter_on_t2() -> None:
    slope = water_sensitivity(tissues_at(3.0), PROTOCOL_3T)[TISSUES.index("ED")]

    assert slope[0] < 0 < slope[2]


def test_a_cyst_is_darker_on_flair_than_solid_core() -> None:
    def flair(fluid: float) -> float:
        return signal(with_core(tissues_at(3.0), fluid=fluid, uptake=1)["NCR"], PROTOCOL_3T.flair)

    assert flair(1.0) < flair(0.0)


def test_uptake_brightens_enhancing_tumour_alone() -> None:
    weak, strong = (
        signal_table(with_core(tissues_at(3.0), fluid=0.5, uptake=uptake), PROTOCOL_3T)
        for uptake in (0.3, 1.2)
    )

    changed = np.argwhere(weak != strong).tolist()

    assert changed == [[TISSUES.index("ET"), 1]]


def test_jitter_stays_within_two_standard_deviations(rng: np.random.Generator) -> None:
    for _ in range(50):
        subject = jittered(tissues_at(3.0), 0.1, rng)["GM"]
        assert abs(np.log(subject.t1_ms / TISSUES_3T["GM"].t1_ms)) <= 0.2 + 1e-9
        assert abs(np.log(subject.t2_ms / TISSUES_3T["GM"].t2_ms)) <= 0.2 + 1e-9
