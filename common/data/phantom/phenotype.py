"""What gliomas a site sees: phenotypes as data, and one tumour's parameters drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Phenotype:
    """Ranges of one kind of glioma.

    Attributes:
        whole_ml: volume of core and oedema (log-uniform).
        core_share: core over whole volume (its root is uniform); 0 is oedema without a core.
        enhancing: probability that anything enhances.
        et_share: enhancing share of the core where anything does.
        uptake: gadolinium in ET relative to a typical glioblastoma.
        patchiness: 0 one shell around one necrosis, 1 islands.
        incompleteness: gaps in the shell.
        fluid: NCR from 0 (solid, not enhancing) over 0.5 (necrosis) to 1 (cyst).
        solid: share of NCR that is solid whatever `fluid` says.
        multifocal: probability of further foci.
        mass_effect_mm: largest displacement.
        mass_reach_mm: its decay length.
        irregularity: roughness of every border.
        asymmetry: how much further ED reaches on one side than on the other.
        fade: share of the volume over which ED fades out.
        oedema_strength: how fully ED replaces tissue.
        cortex_sparing: how much ED avoids grey matter.
        texture: relative variation of water inside the tumour.
        blood: probability of dark haemorrhage inside the core.
    """

    whole_ml: Range = (20, 200)
    core_share: Range = (0.15, 0.6)
    enhancing: float = 0.95
    et_share: Range = (0.3, 0.8)
    uptake: Range = (0.35, 1.3)
    patchiness: Range = (0.0, 0.6)
    incompleteness: Range = (0.1, 0.7)
    fluid: Range = (0.3, 1.0)
    solid: Range = (0.01, 0.6)
    multifocal: float = 0.1
    mass_effect_mm: Range = (0, 8)
    mass_reach_mm: Range = (15, 25)
    irregularity: Range = (0.4, 1.2)
    asymmetry: Range = (0.0, 1.5)
    fade: Range = (0.05, 0.4)
    oedema_strength: Range = (0.5, 1.0)
    cortex_sparing: Range = (0.2, 1.5)
    texture: Range = (0.05, 0.2)
    blood: float = 0.1


PHENOTYPES: Mapping[str, Phenotype] = {
    "high-grade": Phenotype(),
    "late-stage": Phenotype(
        whole_ml=(60, 260), core_share=(0.2, 0.6), mass_effect_mm=(4, 12), fluid=(0.4, 1.0), blood=0.2
    ),
    "gliomatosis": Phenotype(
        whole_ml=(100, 280), core_share=(0.005, 0.05), enhancing=0.6, mass_effect_mm=(1, 6), fade=(0.2, 0.5)
    ),
    "low-grade": Phenotype(
        whole_ml=(15, 180),
        core_share=(0.15, 0.85),
        enhancing=0.25,
        et_share=(0.01, 0.15),
        patchiness=(0.4, 1.0),
        fluid=(0.0, 0.7),
        multifocal=0.05,
        mass_effect_mm=(0, 6),
        cortex_sparing=(0.0, 1.0),
    ),
    "diffuse": Phenotype(
        whole_ml=(10, 120),
        core_share=(0.0, 0.02),
        enhancing=0.4,
        et_share=(0.3, 1.0),
        patchiness=(0.3, 1.0),
        fluid=(0.0, 0.5),
        mass_effect_mm=(0, 4),
        cortex_sparing=(0.0, 1.0),
    ),
    "infiltrative": Phenotype(
        whole_ml=(15, 120),
        core_share=(0.005, 0.12),
        enhancing=0.8,
        et_share=(0.3, 1.0),
        patchiness=(0.3, 1.0),
        fluid=(0.0, 0.5),
        mass_effect_mm=(0, 4),
    ),
    "solid": Phenotype(
        whole_ml=(15, 220),
        core_share=(0.5, 0.95),
        et_share=(0.3, 0.9),
        patchiness=(0.5, 1.0),
        fluid=(0.1, 0.9),
        multifocal=0.05,
    ),
}
"""Kinds of glioma by name."""


@dataclass(frozen=True)
class TumourParameters:
    """One tumour, drawn; the meaning of each number is the phenotype's.

    Attributes:
        places: one number in [0, 1) for each focus: which of the possible positions it takes.
        elongation: standard deviation of the log semi-axes of the core.
        blood: amount of haemorrhage in the core, 0 for none.
        seed: for the fields themselves.
    """

    phenotype: str
    places: tuple[float, ...]
    whole_ml: float
    core_ml: float
    et_share: float
    uptake: float
    patchiness: float
    incompleteness: float
    fluid: float
    solid: float
    mass_effect_mm: float
    mass_reach_mm: float
    irregularity: float
    asymmetry: float
    fade: float
    oedema_strength: float
    cortex_sparing: float
    texture: float
    elongation: float
    blood: float
    seed: int


def draw_tumour(weights: Mapping[str, float], rng: np.random.Generator) -> TumourParameters:
    """One tumour of a phenotype chosen by `weights` (name -> relative frequency)."""
    names = list(weights)
    share = np.array([weights[name] for name in names], float)
    name = names[int(rng.choice(len(names), p=share / share.sum()))]
    kind = PHENOTYPES[name]
    whole_ml = float(np.exp(rng.uniform(*np.log(kind.whole_ml))))
    foci = 1 + (int(rng.integers(1, 3)) if rng.random() < kind.multifocal else 0)
    enhances = rng.random() < kind.enhancing
    return TumourParameters(
        phenotype=name,
        places=tuple(rng.random(foci).tolist()),
        whole_ml=whole_ml,
        core_ml=whole_ml * float(rng.uniform(*np.sqrt(kind.core_share)) ** 2),
        et_share=float(rng.uniform(*kind.et_share)) * enhances,
        uptake=float(rng.uniform(*kind.uptake)),
        patchiness=float(rng.uniform(*kind.patchiness)),
        incompleteness=float(rng.uniform(*kind.incompleteness)),
        fluid=float(rng.uniform(*kind.fluid)),
        solid=float(rng.uniform(*kind.solid)),
        mass_effect_mm=float(rng.uniform(*kind.mass_effect_mm)),
        mass_reach_mm=float(rng.uniform(*kind.mass_reach_mm)),
        irregularity=float(rng.uniform(*kind.irregularity)),
        asymmetry=float(rng.uniform(*kind.asymmetry)),
        fade=float(rng.uniform(*kind.fade)),
        oedema_strength=float(rng.uniform(*kind.oedema_strength)),
        cortex_sparing=float(rng.uniform(*kind.cortex_sparing)),
        texture=float(rng.uniform(*kind.texture)),
        elongation=float(rng.uniform(0.0, 0.3)),
        blood=float(rng.uniform(0.3, 0.9)) * (rng.random() < kind.blood),
        seed=int(rng.integers(2**62)),
    )
