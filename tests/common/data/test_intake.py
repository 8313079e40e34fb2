from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.brats import LABELS_2021, LABELS_2023
from common.data.intake import Finding, check, cohort_around, open_cohort
from common.data.volume import Volume, read_volume, write_volume
from common.errors import DataError
from tests.common.data.conftest import WriteCase


def texts(findings: list[Finding], level: str) -> list[str]:
    return [finding.text for finding in findings if finding.level == level]


def test_a_cohort_without_a_declaration_guesses_nothing(tmp_path: Path, write_case: WriteCase) -> None:
    write_case(tmp_path, "BraTS-SSA-00001-000", et=4)
    cohort = open_cohort(tmp_path)
    assert cohort.name == tmp_path.name
    assert (cohort.field_strength_t, cohort.scanner, cohort.phantom, cohort.degraded) == (
        None,
        None,
        False,
        None,
    )
    assert cohort.label_map == LABELS_2021


def test_what_cohort_toml_declares_holds(tmp_path: Path, write_case: WriteCase) -> None:
    write_case(tmp_path, "scan-1")
    write_case(tmp_path, "scan-2")
    (tmp_path / "cohort.toml").write_text(
        'name = "accra"\nfield_strength_t = 1.5\nscanner = "Avanto"\nphantom = true\nnotes = "thick slices"\n'
        "[label_map]\nNCR = 1\nED = 2\nET = 3\nRC = 4\n[patients]\nscan-1 = 'P'\nscan-2 = 'P'\n"
    )
    cohort = open_cohort(tmp_path)
    assert (cohort.name, cohort.field_strength_t, cohort.scanner, cohort.phantom) == (
        "accra",
        1.5,
        "Avanto",
        True,
    )
    assert cohort.notes == ("thick slices",)
    assert cohort.label_map == {**LABELS_2023, "RC": 4}
    assert cohort.patients == ("P",)
    assert open_cohort(tmp_path, "site-7").name == "site-7"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("field_strength = 3.0", "unknown key field_strength; did you mean field_strength_t"),
        ("zzz = 1", "unknown key zzz; known keys: name"),
        ('field_strength_t = "3T"', "key field_strength_t: .*got '3T'"),
        ("field_strength_t = -1.0", "greater than 0"),
        ("phantom = 1", "key phantom"),
        ("[label_map]\nET = 0", "label_map.ET is 0"),
        ("[label_map]\nET = 1\nNCR = 1", "one code to two structures"),
        ("[patients]\nscan-7 = 'P'", "case scan-7, which is not here; did you mean scan-1"),
        ("name = ", "cannot be read"),
    ],
)
def test_a_declaration_that_cannot_be_used(
    tmp_path: Path, write_case: WriteCase, toml: str, words: str
) -> None:
    write_case(tmp_path, "scan-1")
    (tmp_path / "cohort.toml").write_text(toml)
    with pytest.raises(DataError, match=words):
        open_cohort(tmp_path)
    assert check(tmp_path)[0].level == "FAIL"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_cohort(tmp_path / "none")
    assert check(tmp_path / "none")[0].code == "not-a-file"


def test_check_of_a_sound_cohort(tmp_path: Path, write_case: WriteCase) -> None:
    write_case(tmp_path, "a", seed=1)
    write_case(tmp_path, "b", seed=2, label=False)
    (tmp_path / "cohort.toml").write_text("field_strength_t = 3.0")
    findings = check(tmp_path)
    assert texts(findings, "FAIL") == []
    assert texts(findings, "PASS") == [
        "case a: t1n, t1c, t2w, t2f, label",
        "case b: t1n, t1c, t2w, t2f, no label",
    ]
    # The made-up brain is a ball of 5 ml.
    assert {finding.code for finding in findings if finding.level == "WARN"} == {"volume"}


def test_check_says_what_is_wrong_with_each_case_and_goes_on(tmp_path: Path, write_case: WriteCase) -> None:
    for number, name in enumerate("abcdef"):
        write_case(tmp_path, name, seed=number, modalities=("t1n", "t2f"))
    write_case(tmp_path, "g", seed=0, modalities=("t1n", "t2f"))
    (tmp_path / "a" / "a-t1n.nii.gz").write_bytes(b"no")
    scan = read_volume(tmp_path / "b" / "b-t2f.nii.gz", dtype=np.int16)
    write_volume(tmp_path / "b" / "b-t2f.nii.gz", Volume(scan.array[1:], scan.affine))
    write_volume(tmp_path / "c" / "c-t2f.nii.gz", Volume(np.full_like(scan.array, 7), scan.affine))
    shifted = scan.affine.copy()
    shifted[0, 3] += 5
    write_volume(tmp_path / "d" / "d-seg.nii.gz", Volume(np.full(scan.shape, 3, np.uint8), shifted))
    write_volume(tmp_path / "e" / "e-seg.nii.gz", Volume(np.zeros(scan.shape, np.uint8), scan.affine))
    (tmp_path / "f" / "f-seg.nii.gz").write_bytes(b"no")
    (tmp_path / "cohort.toml").write_text("[label_map]\nNCR = 1\nED = 2\n[patients]\na = 'P'")
    findings = check(tmp_path)
    failed = {(finding.case, finding.code) for finding in findings if finding.level == "FAIL"}
    assert {("a", "not-nifti"), ("b", "grid"), ("c", "constant"), ("d", "grid"), ("f", "not-nifti")} <= failed
    assert ("d", "label-codes") in failed
    warned = {(finding.case, finding.code) for finding in findings if finding.level == "WARN"}
    assert {("e", "label-empty"), ("", "undeclared")} <= warned


def test_the_same_scan_under_two_names(tmp_path: Path, write_case: WriteCase) -> None:
    write_case(tmp_path, "a")
    write_case(tmp_path, "b")
    assert any(finding.code == "twin" for finding in check(tmp_path))


def test_labels_that_speak_for_two_years_are_one_finding(tmp_path: Path, write_case: WriteCase) -> None:
    write_case(tmp_path, "a", et=4, seed=1)
    write_case(tmp_path, "b", et=3, seed=2)
    with pytest.raises(DataError, match="ET is 3 from BraTS 2023"):
        open_cohort(tmp_path)
    findings = check(tmp_path)
    assert [finding.code for finding in findings if finding.level == "FAIL"] == ["label-codes"]
    assert len(texts(findings, "PASS")) == 2


def test_check_of_one_file(tmp_path: Path, write_case: WriteCase) -> None:
    case = write_case(tmp_path, "a")
    (finding,) = check(case / "a-seg.nii.gz")
    assert finding.level == "PASS"
    assert "24 x 30 x 16 voxels of 1.5 x 1 x 2 mm, label codes [0, 1, 2, 3]" in finding.text


def test_every_odd_file_gets_a_finding(shared_data: Path) -> None:
    for path in sorted((shared_data / "odd_nifti").rglob("*.*")):
        findings = check(path)
        assert findings
        assert all(finding.text for finding in findings)
    levels = {path.name: check(path)[-1].level for path in (shared_data / "odd_nifti" / "derived").iterdir()}
    assert levels["constant.nii.gz"] == "FAIL"
    assert levels["bigendian.nii.gz"] == "PASS"


def test_the_real_gliomas(shared_data: Path) -> None:
    cohort = open_cohort(shared_data / "glioma_brats2021")
    assert cohort.label_map == LABELS_2021
    assert len(cohort.labelled) == len(cohort.patients) == 6
    alone = open_cohort(shared_data / "glioma_unlabelled" / "BraTS-GLI-00001-000")
    assert (alone.cases[0].patient, alone.label_map) == ("BraTS-GLI-00001", None)
    assert not texts(check(shared_data / "glioma_unlabelled"), "FAIL")


def test_where_a_label_map_would_be_taken_for_an_experts(tmp_path: Path, write_case: WriteCase) -> None:
    one, maps = tmp_path / "scan-1", tmp_path / "maps"
    write_case(tmp_path, "scan-1")
    assert cohort_around(one) == one
    assert cohort_around(one / "maps") == one
    assert cohort_around(maps) is None  # beside a single case: nobody has called this folder a cohort

    write_case(tmp_path, "scan-2")
    assert cohort_around(maps) == tmp_path
    assert cohort_around(maps / "deeper") is None
    assert cohort_around(tmp_path / "scan-2" / "deep" / "deeper") is None  # nobody looks so far


def test_beside_folders_of_many_cases_is_a_place_for_label_maps(
    tmp_path: Path, write_case: WriteCase
) -> None:
    for name in ("a-1", "a-2"):
        write_case(tmp_path, name)
    side_by_side = tmp_path / "whole" / "scans"
    side_by_side.mkdir(parents=True)
    for file in [*tmp_path.glob("a-*/*")]:
        file.rename(side_by_side / file.name)

    assert cohort_around(side_by_side / "maps") == side_by_side
    assert cohort_around(tmp_path / "whole" / "maps") is None
    (tmp_path / "whole" / "cohort.toml").touch()
    assert cohort_around(tmp_path / "whole" / "maps") == tmp_path / "whole"
