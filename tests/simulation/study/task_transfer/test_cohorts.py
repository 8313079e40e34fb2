"""What such a study refuses, in words, before it makes anything; and who is tested when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from common.errors import DataError, InputError
from simulation.study.run import Setup
from simulation.study.spec import open_source
from simulation.study.task_transfer.cohorts import target_parts
from simulation.study.task_transfer.settings import TaskTransfer, source_of

Make = Callable[..., Setup]
WriteGliomas = Callable[..., Path]


def test_real_folders_are_taken(tiny: Make, gliomas: WriteGliomas, hippocampi: Path) -> None:
    setup = tiny(folders={"hippocampus": hippocampi, "glioma": gliomas(5)})
    assert [source.phantom for source in setup.data.sources] == [None, None]
    assert not setup.out.exists()


def test_swapped_folders_are_refused(tiny: Make, gliomas: WriteGliomas, hippocampi: Path) -> None:
    with pytest.raises(DataError, match=r"hippocampus: has role source .* glioma cohort: were two"):
        tiny(folders={"hippocampus": gliomas(5), "glioma": hippocampi})


def test_too_few_patients_for_the_folds(tiny: Make, gliomas: WriteGliomas) -> None:
    with pytest.raises(InputError, match="glioma: 2 labelled patients for 2 folds leave 1 to train on"):
        tiny(folders={"glioma": gliomas(2)})


def test_too_few_phantoms_for_the_folds(tiny: Make) -> None:
    with pytest.raises(InputError, match="glioma: 3 labelled patients for 2 folds leave 1"):
        tiny(words={"cases = 4": "cases = 3"})


def test_no_labels(tiny: Make, gliomas: WriteGliomas) -> None:
    with pytest.raises(DataError, match="glioma: no case has a label"):
        tiny(folders={"glioma": gliomas(5, labels=False)})


def test_no_core_in_any_case(tiny: Make, gliomas: WriteGliomas) -> None:
    with pytest.raises(DataError, match="0 of 5 labelled cases hold any NCR or ET"):
        tiny(folders={"glioma": gliomas(5, codes=(2,))})


def test_a_label_map_without_core(tiny: Make, gliomas: WriteGliomas) -> None:
    folder = gliomas(5, codes=(2,))
    (folder / "cohort.toml").write_text("label_map = { ED = 2 }\n")
    with pytest.raises(
        DataError, match="needs labels of NCR and ET or TC or GTV, and its label map names ED"
    ):
        tiny(folders={"glioma": folder})


def test_a_label_map_without_hippocampus(tiny: Make, hippocampi: Path) -> None:
    (hippocampi / "cohort.toml").write_text("label_map = { amygdala = 1, caudate = 2 }\n")
    with pytest.raises(DataError, match="label map names amygdala, caudate; declare label_map"):
        tiny(folders={"hippocampus": hippocampi})


def test_the_wrong_modality(tiny: Make, gliomas: WriteGliomas) -> None:
    with pytest.raises(DataError, match="case case0 has no t1c"):
        tiny(folders={"glioma": gliomas(5, modality="flair")})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = 2", "seeds = 3", "3 seeds and 2 folds"),
        ("edge = 16", "edge = 24", "edge: 24 voxels; nano needs a multiple of 16"),
        ('role = "source"', 'role = "target"', "one of role source, one of role target"),
        ("epochs = 11", "epochs = 8", "'epochs'"),
        ("boxes = 2", 'network = "ren2024"', "choose nano or base"),
    ],
)
def test_a_study_that_does_not_fit_together(tiny: Make, old: str, new: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(words={old: new})


def test_every_patient_is_tested_equally_often_and_never_trained_on(
    tiny: Make, gliomas: WriteGliomas
) -> None:
    setup = tiny(folders={"glioma": gliomas(6)}, words={"seeds = 2": "seeds = 6", "folds = 2": "folds = 3"})
    study = cast(TaskTransfer, setup.study)
    cohort = open_source(source_of(setup.data, "target"))
    parts = [target_parts(study, cohort, number=number) for number in study.numbers]
    tested = Counter(case.patient for part in parts for case in part.test)
    assert set(tested.values()) == {2}
    for part in parts:
        train, test = ({case.patient for case in cases} for cases in (part.train, part.test))
        assert not train & test
        assert len(train | test) == 6
    assert {frozenset(c.patient for c in p.test) for p in parts[:3]} != {
        frozenset(c.patient for c in p.test) for p in parts[3:]
    }
