"""`fedglia rounds` from start to report, as a coordinator types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest

from common.cli import fedglia
from common.errors import InputError, LockedError, PlanError, RunError
from common.plan import load
from common.wire import ROUND
from server.desk import cli, launch
from server.hub.folder import Hub
from server.run import create, is_open
from tests.server.desk.conftest import Desk, Flower, ended, until
from tests.stub_sites import StubSites, plan_of

NEVER = StubSites({"ssa": "is slow"}, kinds=(ROUND,))


def summary(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "summary.json").read_text())
    return found


def test_from_start_to_report(hub: Hub, desk: Desk, plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.desk.watch.LOOK_S", 0.05)
    started = desk("start", str(plan_file), "--yes")
    assert started.exit_code == 0
    assert "run stub-1: plan stub, hash" in started.output
    assert "site ssa: admitted, connected" in started.output
    assert "fedglia rounds watch stub-1" in started.output

    watched = desk("watch")
    assert watched.exit_code == 0
    assert "completed after 2 of 2 rounds" in watched.output
    assert "\x1b" not in watched.output

    folder = hub.runs_folder / "stub-1"
    assert summary(folder)["engine"] == "deployed"
    shown = desk("status")
    assert "run stub-1" in shown.output
    assert "completed after 2 of 2 rounds" in shown.output
    rows = json.loads(desk("status", "stub-1", "--json").output)["sites"]
    identity = json.loads((hub.folder / "runs" / "stub-1" / "run.json").read_text())["identity"]
    assert f"sites know this run as {identity[:12]}" in shown.output
    assert [(row["site"], row["state"], row["folded"]) for row in rows] == [
        (site, "answered", 2) for site in plan_of().site_names
    ]


def test_runs_count_up_and_the_latest_is_meant(hub: Hub, desk: Desk, flower: Flower, plan_file: Path) -> None:
    for number in (1, 2):
        desk("start", str(plan_file), "--yes")
        until(lambda number=number: ended(hub.runs_folder / f"stub-{number}"))  # type: ignore[misc]
    assert "run stub-2" in desk("status").output
    desk("start", str(plan_file), "--yes", "--name", "a-name")
    until(lambda: ended(hub.runs_folder / "a-name"))
    assert "run a-name" in desk("status").output


def test_nothing_is_started_without_a_yes(hub: Hub, desk: Desk, flower: Flower, plan_file: Path) -> None:
    for answer in ("n\n", ""):  # the second is Ctrl-D, or a script without --yes
        said = desk("start", str(plan_file), answer=answer)
        assert said.exit_code == 1
        assert "nothing was started" in said.output
    assert "no answer came: answer in a terminal, or give --yes" in said.output
    assert list(hub.runs_folder.iterdir()) == []
    assert flower.runs == {}


def test_some_sites_are_another_plan(hub: Hub, desk: Desk, plan_file: Path) -> None:
    said = desk("start", str(plan_file), "--yes", "--sites", "ssa,adult-a")
    effective = load(hub.runs_folder / "stub-1" / "plan.toml")
    assert effective.site_names == ("adult-a", "ssa")
    assert effective.sha256 != load(plan_file).sha256
    assert "sites must approve this one" in said.output
    assert str(hub.runs_folder / "stub-1" / "plan.toml") in said.output
    until(lambda: ended(hub.runs_folder / "stub-1"))


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        (["--sites", "adult"], InputError, "no site 'adult'; did you mean 'adult-"),
        (["--sites", "ssa"], PlanError, "quorum"),
        (["--name", "../x"], InputError, "lower-case letters"),
        (["--start", "/nowhere.safetensors"], InputError, "cannot be read"),
    ],
)
def test_what_cannot_be_started(
    hub: Hub,
    desk: Desk,
    flower: Flower,
    plan_file: Path,
    words: list[str],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        desk("start", str(plan_file), "--yes", *words)
    assert list(hub.runs_folder.iterdir()) == []
    assert flower.runs == {}


def test_a_name_that_is_taken(hub: Hub, desk: Desk, plan_file: Path) -> None:
    (hub.runs_folder / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"):
        desk("start", str(plan_file), "--yes", "--name", "mine")


def test_fewer_admitted_sites_than_the_quorum_start_nothing(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path
) -> None:
    known = json.loads((hub.folder / "admissions.json").read_text())
    del known["ssa"]
    known["adult-b"]["revoked_at"] = "2026-01-02T00:00:00+00:00"
    (hub.folder / "admissions.json").write_text(json.dumps(known))
    words = r"^1 of .* the quorum is 2; .* Not admitted: adult-b, ssa; for each: fedglia hub admit JOIN_FILE"
    with pytest.raises(InputError, match=words):
        desk("start", str(plan_file), "--yes")
    assert list(hub.runs_folder.iterdir()) == []
    del known["adult-b"]["revoked_at"]
    (hub.folder / "admissions.json").write_text(json.dumps(known))
    assert desk("start", str(plan_file), "--yes").exit_code == 0


def test_a_hub_that_is_down_starts_nothing(hub: Hub, desk: Desk, flower: Flower, plan_file: Path) -> None:
    flower.up = False
    with pytest.raises(RunError, match="fedglia hub start"):
        desk("start", str(plan_file), "--yes")
    assert list(hub.runs_folder.iterdir()) == []


def test_a_process_that_fails_before_it_begins(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_ASK_FLOWER_S", 0.1)
    flower.begins = False
    with pytest.raises(RunError, match=r"ended it at once \(finished:failed\).*rounds resume stub-1"):
        desk("start", str(plan_file), "--yes")


def test_a_process_that_never_begins(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "BEGIN_S", 0.3)
    flower.begins = False
    with pytest.raises(RunError, match="has not begun it"):
        desk("start", str(plan_file), "--yes")
    assert json.loads(desk("status", "--json").output)["state"] == "queued"


def test_stop_and_resume(hub: Hub, desk: Desk, flower: Flower, plan_file: Path) -> None:
    flower.sites = NEVER
    folder = hub.runs_folder / "stub-1"
    desk("start", str(plan_file), "--yes")
    again = desk("resume", "stub-1")
    assert (again.exit_code, again.stdout) == (
        0,
        "run stub-1 is at work already; watch it: fedglia rounds watch stub-1\n",
    )
    assert len(flower.runs) == 1
    assert "fedglia rounds resume stub-1" in desk("stop").output
    assert summary(folder)["status"] == "stopped"
    watched = desk("watch")
    assert watched.exit_code == 130
    assert "to go on: fedglia rounds resume stub-1" in watched.output
    with pytest.raises(InputError, match="is not running"):
        desk("stop")

    flower.sites = StubSites()
    assert "goes on" in desk("resume", "stub-1").output
    until(lambda: ended(folder))
    assert (summary(folder)["status"], summary(folder)["interruptions"]) == ("completed", 1)
    with pytest.raises(InputError, match="is completed"):
        desk("resume", "stub-1")


def test_a_run_that_does_not_heed_the_file_is_ended_by_flower(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "STOP_S", 0.1)
    monkeypatch.setattr(launch, "STOP_FILE", "unheeded")
    flower.sites = NEVER
    desk("start", str(plan_file), "--yes")
    with pytest.raises(RunError, match="fedglia hub stop"):
        desk("stop")
    assert flower.stopped == ["1000"]


def test_a_run_whose_process_died_can_be_resumed(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path
) -> None:
    desk("start", str(plan_file), "--yes")
    folder = hub.runs_folder / "stub-1"
    until(lambda: ended(folder))
    (folder / "summary.json").write_text(json.dumps({**summary(folder), "status": "running"}))
    assert "interrupted after 2 of 2 rounds: fedglia rounds resume stub-1" in desk("status").output
    assert desk("watch").exit_code == 1
    desk("resume", "stub-1")
    until(lambda: ended(folder))
    assert summary(folder)["status"] == "completed"


def test_a_run_restored_without_its_models_is_not_begun_anew(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path
) -> None:
    desk("start", str(plan_file), "--yes")
    folder = hub.runs_folder / "stub-1"
    until(lambda: ended(folder))
    (folder / "summary.json").write_text(json.dumps({**summary(folder), "status": "stopped"}))
    for part in ("checkpoints", "rounds", "stages"):
        shutil.rmtree(folder / part)
    said = desk("status").output
    assert "stopped after 2 of 2 rounds: the models of its closed rounds are not in this hub" in said
    assert "rounds resume" not in said
    with pytest.raises(InputError, match="cannot be resumed, start a new run: fedglia rounds start PLAN"):
        desk("resume")
    with pytest.raises(InputError, match="cannot be resumed; start a new run"):
        create(folder, load(plan_file), resume=True)
    assert len(flower.runs) == 1


def test_a_run_that_failed_says_why(hub: Hub, desk: Desk, flower: Flower, plan_file: Path) -> None:
    flower.sites = StubSites({"ssa": "refuses", "adult-b": "refuses"})
    desk("start", str(plan_file), "--yes")
    until(lambda: ended(hub.runs_folder / "stub-1"))
    watched = desk("watch")
    assert watched.exit_code == 1
    assert "why: round 1: 1 usable update(s), the quorum is 2" in watched.output
    assert "ssa: refused, it does not know a key of this plan" in watched.output


def test_a_changed_plan_is_not_gone_on_with(hub: Hub, desk: Desk, flower: Flower, plan_file: Path) -> None:
    flower.sites = NEVER
    desk("start", str(plan_file), "--yes")
    desk("stop")
    (hub.runs_folder / "stub-1" / "plan.toml").write_text(plan_of(seed=99).as_toml())
    with pytest.raises(PlanError, match="put it back"):
        desk("resume", "stub-1")


def test_ctrl_c_leaves_the_run_alone(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flower.sites = NEVER
    desk("start", str(plan_file), "--yes")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_tell_changes", interrupted)
    watched = desk("watch")
    assert watched.exit_code == 130
    assert is_open(hub.runs_folder / "stub-1")


def test_a_run_that_is_being_stopped_is_not_called_at_work(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flower.sites = NEVER
    desk("start", str(plan_file), "--yes")
    monkeypatch.setattr(launch, "STOP_FILE", "unheeded")
    (hub.runs_folder / "stub-1" / "unheeded").touch()
    with pytest.raises(LockedError, match="is being stopped; try again"):
        desk("resume")


def test_to_resume_the_last_run_that_is_not_completed_is_meant(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path
) -> None:
    for name, status in (("a", "stopped"), ("b", "failed"), ("c", "completed")):
        desk("start", str(plan_file), "--yes", "--name", name)
        folder = hub.runs_folder / name
        until(lambda folder=folder: ended(folder))  # type: ignore[misc]
        (folder / "summary.json").write_text(json.dumps({**summary(folder), "status": status}))
    for name in ("b", "a"):
        assert f"run {name} goes on" in desk("resume").output
        folder = hub.runs_folder / name
        until(lambda folder=folder: summary(folder)["status"] == "completed" and ended(folder))  # type: ignore[misc]
    with pytest.raises(InputError, match="every run of this hub is completed"):
        desk("resume")


def test_what_is_waited_for_is_said_beside_the_result(
    hub: Hub, desk: Desk, flower: Flower, plan_file: Path
) -> None:
    flower.sites = NEVER
    begins = ["hands the run to Flower", "waits until the hub's process of the run has begun, 90 s at most"]
    said = desk("start", str(plan_file), "--yes")
    assert said.stderr.splitlines() == [
        "looks at the plan's first model, and asks the hub who is connected",
        *begins,
    ]
    desk("stop")
    flower.sites = StubSites()
    said = desk("resume", "stub-1")
    assert said.stderr.splitlines() == ["tells Flower that the earlier process of the run is over", *begins]
    folder = hub.runs_folder / "stub-1"
    until(lambda: ended(folder))
    assert desk("report").stderr == f"writes {folder / 'report.html'}\n"
    assert desk("status", "--json").stderr == ""


@pytest.mark.parametrize("command", ["status", "watch", "stop", "resume", "report"])
def test_a_hub_without_a_run(desk: Desk, command: str) -> None:
    with pytest.raises(InputError, match="has no run yet"):
        desk(command)


@pytest.mark.parametrize("command", ["status", "watch", "stop", "resume", "report"])
def test_a_run_that_is_not_there(desk: Desk, plan_file: Path, hub: Hub, command: str) -> None:
    desk("start", str(plan_file), "--yes")
    with pytest.raises(InputError, match="no run of this hub; there are: stub-1"):
        desk(command, "../stub-1")


def test_a_report_with_the_researchers_room(hub: Hub, desk: Desk, plan_file: Path) -> None:
    desk("start", str(plan_file), "--yes")
    folder = hub.runs_folder / "stub-1"
    until(lambda: ended(folder))
    said = desk("report")
    assert str(folder / "report.html") in said.output.replace("\n", "")
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_report_without_it(hub: Hub, desk: Desk, plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(context: click.Context, name: str) -> None:
        return None

    monkeypatch.setattr(fedglia, "get_command", none)
    desk("start", str(plan_file), "--yes")
    folder = hub.runs_folder / "stub-1"
    until(lambda: ended(folder))
    said = desk("report")
    assert "2 round(s) closed" in said.output
    assert "0.500" in said.output
    assert not (folder / "report.html").exists()
