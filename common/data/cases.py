"""Case and Cohort: what an examination and a site's examinations are, whatever the folder layout.

Label codes inside FedGlia are BraTS 2023's for every glioma source: 0 background, 1 NCR (necrotic core),
2 ED (oedema), 3 ET (enhancing tumour). A cohort's `label_map` says which code in its files means which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
"""Channel order everywhere: T1 native, T1 with gadolinium, T2, T2-FLAIR."""

GLIOMA_LABELS: Mapping[str, int] = {"NCR": 1, "ED": 2, "ET": 3}
TISSUE_LABELS: Mapping[str, int] = {"CSF": 1, "GM": 2, "WM": 3}
STRUCTURES: Mapping[str, tuple[str, ...]] = {"glioma": tuple(GLIOMA_LABELS), "tissue": tuple(TISSUE_LABELS)}
"""Task -> its structures, in the order of their codes; 0 is the background."""


@dataclass(frozen=True)
class ImageSource:
    """Where one channel lies: a file and, in a four-dimensional one, which volume of it."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class Case:
    """One examination.

    Attributes:
        name: unique within its cohort; never shown outside the site.
        patient: whose examination it is; the unit of splits, statistics and privacy.
        images: modality -> source; a modality that is absent was not acquired.
        label: expert segmentation on the same grid, or None.
    """

    name: str
    patient: str
    images: Mapping[str, ImageSource]
    label: Path | None = None


@dataclass(frozen=True)
class Cohort:
    """A site's cases, and what NIfTI cannot say about them; what nobody declared is None.

    Attributes:
        label_map: structure -> code in this cohort's files (ET is 4 in BraTS 2021, 3 from 2023); None
            where there is no label at all.
        phantom: True where the cases were made by `fedglia phantom`.
        degraded: the name of the degradation applied on reading (`ssa-1.5T`, `ultra-low`), or None.
    """

    name: str
    folder: Path
    cases: tuple[Case, ...]
    label_map: Mapping[str, int] | None = None
    field_strength_t: float | None = None
    scanner: str | None = None
    phantom: bool = False
    degraded: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients in the order of their first case."""
        return tuple(dict.fromkeys(case.patient for case in self.cases))

    @property
    def labelled(self) -> tuple[Case, ...]:
        """Cases that carry an expert segmentation."""
        return tuple(case for case in self.cases if case.label is not None)
