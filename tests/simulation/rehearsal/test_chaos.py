"""Chaos as a whole: which faults, what is said of each, and two of them for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.errors import InputError
from simulation.rehearsal import chaos
from simulation.rehearsal.cli import rehearsal
from simulation.rehearsal.faults import FAULTS, Fault
from simulation.rehearsal.trial import judged, not_run

ROW: dict[str, Any] = {
    "fault": "edge killed",
    "what_happened": "edge killed",
    "recovered_s": 12.4,
    "rounds_lost": 0,
    "resumed_by": None,
    "sites": {},
    "wrong": [],
    "ok": True,
}


def fault(**parts: Any) -> Fault:  # noqa: ANN401 - whatever a row has
    return Fault("a fault", lambda scene: "done", **parts)


def test_without_a_choice_every_fault_is_tried() -> None:
    assert chaos.chosen(()) == FAULTS


def test_faults_are_chosen_by_words_of_their_names() -> None:
    found = chaos.chosen(("disk full", "superexec"))
    assert [each.name for each in found] == [
        "superexec killed",
        "disk full at a site",
        "disk full at the hub",
    ]


def test_a_word_that_no_fault_has_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no fault is called 'flood'; there are: site's node killed"):
        chaos.main(tmp_path, tell=print, only=["flood"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no rehearsal's"):
        chaos.main(tmp_path, tell=print)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_line_says_what_happened_and_what_it_cost() -> None:
    said = chaos.line(ROW)
    assert said.startswith("ok      edge killed")
    assert said.endswith("edge killed; recovered after 12 s; 0 rounds lost")
    assert "resumed by the coordinator" in chaos.line({**ROW, "resumed_by": "coordinator"})


def test_a_line_of_a_fault_that_was_not_survived_says_what_is_wrong() -> None:
    said = chaos.line({**ROW, "ok": False, "wrong": ["1 closed round(s) lost"], "rounds_lost": 1})
    assert said.startswith("FAILED ")
    assert said.endswith("1 rounds lost; 1 closed round(s) lost")


def test_what_could_not_be_run_is_said_and_counted_apart() -> None:
    row = not_run(fault(), "needs root and a mount, for a small disk")
    assert chaos.line(row).startswith("not run a fault")
    assert chaos.line(row).endswith("not run: needs root and a mount, for a small disk")
    assert chaos.tally([ROW, row, {**ROW, "ok": False, "rounds_lost": 2}]) == (
        "1 survived, 1 failed, 1 not run; 2 closed rounds lost"
    )


def test_a_row_has_the_keys_that_are_promised() -> None:
    for row in (ROW, not_run(fault(), "why")):
        assert {"fault", "what_happened", "recovered_s", "rounds_lost", "resumed_by", "ok"} <= row.keys()


def test_a_lost_round_no_recovery_and_a_late_one_are_wrong() -> None:
    assert list(judged(fault(within_s=60.0), 59.0, 0)) == []
    assert list(judged(fault(), 59.0, 2)) == ["2 closed round(s) lost"]
    assert list(judged(fault(), None, 0)) == ["no later round held every site"]
    assert list(judged(fault(returns=False), None, 0)) == ["no later round held the other sites"]
    assert list(judged(fault(within_s=60.0), 61.0, 0)) == ["recovered after 61 s, 60 s are allowed"]


def test_a_revoked_site_is_not_waited_for() -> None:
    assert chaos.revoked(FAULTS[:-1]) == frozenset()
    assert chaos.revoked(FAULTS) == {"ssa"}


def test_the_command_fails_when_a_fault_was_not_survived(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for ok, status in ((True, 0), (None, 0), (False, 1)):
        monkeypatch.setattr(chaos, "main", lambda out, *, tell, only, ok=ok: [{**ROW, "ok": ok}])
        found = CliRunner().invoke(rehearsal, ["chaos", "--out", str(tmp_path)])
        assert found.exit_code == status, found.output


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed")
def test_two_faults_for_real_are_survived_and_nothing_is_left_running(tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "chaos"
    rows = chaos.main(out, tell=said.append, only=["edge killed", "worker killed"])
    assert [row["fault"] for row in rows] == ["site's worker killed", "edge killed and restarted"]
    assert [row["wrong"] for row in rows] == [[], []], "\n".join(said)
    assert rows[0]["asked_again"] >= 1
    assert all(row["rounds_lost"] == 0 and row["closed_before"] == [1] for row in rows)
    assert json.loads((out / "chaos.json").read_text()) == rows
    assert not any(path.is_mount() for path in out.iterdir())
    assert processes_that_name(out) == []


def processes_that_name(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found
