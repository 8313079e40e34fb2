"""What each tissue sends back: relaxation times, proton density and the signal equations.

Values for 3 T lie inside published ranges (BrainWeb; Stanisz et al. 2005; Lu et al. 2005 for the ratio
between 3 T and 1.5 T); gadolinium shortens T1 by adding a relaxation rate, so post-contrast T1 at any
field strength follows from the rate measured at 3 T. SOLID is tumour that does not enhance
(labelled as NCR), BLOOD haemorrhage inside a tumour, GLIOSIS harmless
white-matter change, VESSEL blood vessels and dura, CHOROID choroid plexus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TISSUES = ("CSF", "GM", "WM", "NCR", "ED", "ET", "SOLID", "BLOOD", "GLIOSIS", "VESSEL", "CHOROID")
"""Order of the tissue axis everywhere in the phantom."""


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms, proton density relative to water, and the rate gadolinium adds, in 1/ms."""

    t1_ms: float
    t2_ms: float
    density: float
    gadolinium_rate: float


def _at_3t(t1_ms: float, t2_ms: float, density: float, post_ms: float) -> Tissue:
    return Tissue(t1_ms, t2_ms, density, 1 / post_ms - 1 / t1_ms)


TISSUES_3T: dict[str, Tissue] = {
    "CSF": _at_3t(4000, 1500, 1.00, 3900),
    "GM": _at_3t(1350, 90, 0.82, 1300),
    "WM": _at_3t(850, 70, 0.70, 820),
    "NCR": _at_3t(2200, 250, 0.95, 2000),
    "ED": _at_3t(1550, 150, 0.87, 1430),
    "ET": _at_3t(1450, 120, 0.88, 620),
    "SOLID": _at_3t(1600, 160, 0.89, 1480),
    "BLOOD": _at_3t(700, 30, 0.80, 690),
    "GLIOSIS": _at_3t(1250, 125, 0.80, 1200),
    "VESSEL": _at_3t(1650, 60, 0.60, 350),
    "CHOROID": _at_3t(1900, 160, 0.90, 600),
}
"""Defaults at 3 T."""

T1_SHORTER_AT_1T5 = 1.22
T2_LONGER_AT_1T5 = 1.18


def tissues_at(field_strength_t: float) -> dict[str, Tissue]:
    """The tissue table at a field strength between 0.5 and 7 T.

    Between and beyond the two anchors (3 T, 1.5 T) times follow the power law through them. CSF is the
    same at every field.
    """
    octaves = np.log2(3.0 / field_strength_t)
    shorter, longer = T1_SHORTER_AT_1T5**-octaves, T2_LONGER_AT_1T5**octaves
    return {
        name: tissue
        if name == "CSF"
        else Tissue(tissue.t1_ms * shorter, tissue.t2_ms * longer, tissue.density, tissue.gadolinium_rate)
        for name, tissue in TISSUES_3T.items()
    }


def with_contrast_agent(tissue: Tissue) -> Tissue:
    """The same tissue after gadolinium: 1/T1 grows by its rate."""
    return Tissue(1 / (1 / tissue.t1_ms + tissue.gadolinium_rate), tissue.t2_ms, tissue.density, 0.0)


@dataclass(frozen=True)
class Sequence:
    """One pulse sequence; times in ms.

    Attributes:
        kind: `se` (spin echo, also turbo), `ir` (inversion recovery: FLAIR, and MPRAGE for a short TE),
            `spgr` (spoiled gradient echo).
        flip_deg: of `spgr`.
    """

    kind: Literal["se", "ir", "spgr"]
    tr_ms: float
    te_ms: float
    ti_ms: float = 0.0
    flip_deg: float = 90.0


@dataclass(frozen=True)
class Protocol:
    """What a scanner runs for one examination.

    Attributes:
        t1: both T1-weighted scans; the second after gadolinium.
    """

    field_strength_t: float
    t1: Sequence
    t2: Sequence
    flair: Sequence

    @property
    def sequences(self) -> tuple[Sequence, Sequence, Sequence, Sequence]:
        """Sequences in channel order t1n, t1c, t2w, t2f."""
        return self.t1, self.t1, self.t2, self.flair


PROTOCOL_3T = Protocol(
    3.0, Sequence("se", 650, 10), Sequence("se", 5000, 100), Sequence("ir", 9000, 120, 2380)
)
PROTOCOL_1T5 = Protocol(
    1.5, Sequence("se", 500, 12), Sequence("se", 4000, 100), Sequence("ir", 9000, 120, 2380)
)


def signal(tissue: Tissue, sequence: Sequence) -> float:
    """Magnitude signal of a tissue, relative to fully relaxed water.

    Spin echo: PD (1 - exp(-TR/T1)) exp(-TE/T2). Inversion recovery: PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)|
    exp(-TE/T2). Spoiled gradient echo: PD sin a (1 - E1) / (1 - cos a E1) exp(-TE/T2).
    """
    relaxed = np.exp(-sequence.tr_ms / tissue.t1_ms)
    match sequence.kind:
        case "se":
            magnetisation = 1 - relaxed
        case "ir":
            magnetisation = abs(1 - 2 * np.exp(-sequence.ti_ms / tissue.t1_ms) + relaxed)
        case "spgr":
            flip = np.deg2rad(sequence.flip_deg)
            magnetisation = np.sin(flip) * (1 - relaxed) / (1 - np.cos(flip) * relaxed)
    return float(tissue.density * magnetisation * np.exp(-sequence.te_ms / tissue.t2_ms))


def csf_null_ms(t1_ms: float, tr_ms: float) -> float:
    """Inversion time at which FLAIR nulls a fluid of `t1_ms`: T1 (ln 2 - ln(1 + exp(-TR/T1)))."""
    return float(t1_ms * (np.log(2) - np.log1p(np.exp(-tr_ms / t1_ms))))


def signal_table(tissues: dict[str, Tissue], protocol: Protocol) -> NDArray[np.float32]:
    """Signals (tissues, 4) in the order of TISSUES and of the channels."""
    table = []
    for name in TISSUES:
        plain, enhanced = tissues[name], with_contrast_agent(tissues[name])
        states = (plain, enhanced, plain, plain)
        table.append([signal(t, s) for t, s in zip(states, protocol.sequences, strict=True)])
    return np.array(table, np.float32)


def water_sensitivity(tissues: dict[str, Tissue], protocol: Protocol) -> NDArray[np.float32]:
    """Slopes d log(signal) / d log(water) (tissues, 4), where more water lengthens T1 and T2 alike.

    Clipped to +-2: near a null the logarithm has no use.
    """
    step = 0.02
    wetter = {
        name: Tissue(t.t1_ms * (1 + step), t.t2_ms * (1 + step), t.density, t.gadolinium_rate)
        for name, t in tissues.items()
    }
    ratio = signal_table(wetter, protocol) / np.maximum(signal_table(tissues, protocol), 1e-6)
    return np.asarray(np.clip(np.log(np.maximum(ratio, 1e-6)) / np.log1p(step), -2, 2), np.float32)


def jittered(tissues: dict[str, Tissue], relative: float, rng: np.random.Generator) -> dict[str, Tissue]:
    """Tissues of one subject: T1 and T2 vary by `relative` (standard deviation), density by 0.3 of it.

    Variation is cut at two standard deviations; CSF varies by a third of it.
    """
    subject = {}
    for name, tissue in tissues.items():
        amount = relative / 3 if name == "CSF" else relative
        t1, t2, density = np.exp(np.clip(rng.standard_normal(3), -2, 2) * [amount, amount, 0.3 * amount])
        subject[name] = Tissue(
            tissue.t1_ms * t1, tissue.t2_ms * t2, min(tissue.density * density, 1.0), tissue.gadolinium_rate
        )
    return subject


def with_core(tissues: dict[str, Tissue], *, fluid: float, uptake: float) -> dict[str, Tissue]:
    """The table for one tumour.

    Args:
        tissues: the subject's.
        fluid: NCR between solid non-enhancing tumour (0), necrosis (0.5) and cyst (1).
        uptake: gadolinium in ET relative to the table's.
    """
    ncr, et = tissues["NCR"], tissues["ET"]
    t1 = np.interp(fluid, [0, 0.5, 1], [0.72, 1.0, 1.55])
    t2 = np.interp(fluid, [0, 0.5, 1], [0.66, 1.0, 2.6])
    density = np.interp(fluid, [0, 0.5, 1], [0.89, 0.95, 0.99])
    # A cyst takes up no contrast agent.
    rate = ncr.gadolinium_rate * (1 - 0.8 * fluid)
    return tissues | {
        "NCR": Tissue(ncr.t1_ms * t1, ncr.t2_ms * t2, float(density), rate),
        "ET": Tissue(et.t1_ms, et.t2_ms, et.density, et.gadolinium_rate * uptake),
    }
