"""A site's commands: what they say, how they end, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client import approval, audit, egress, keeping, services, worker
from client.cli import site
from client.join import init_site
from client.policy import Policy
from client.site import open_site
from client.status import Standing, lines, look, why
from client.trust import UnreachableError, trust
from common import certificates, processes
from common import plan as plans
from common.errors import FedGliaError, InputError, LockedError, SiteError
from common.processes import ServiceState

RUNNING = ServiceState(pid=os.getpid(), started_at=1.7e9, restarts=0, last_exit=None)


@pytest.fixture
def folder(tmp_path: Path, tiny_cohorts: dict[str, Path]) -> Path:
    """A site that has joined, pinned an authority, and is not started; its hub is away."""
    made = tmp_path / "site"
    init_site(made, hub="127.0.0.1:1", name="adult-a", data=tiny_cohorts["adult-a"])
    certificates.make_authority(tmp_path, "test hub")
    trust(made, "127.0.0.1:1", ca=tmp_path / "ca.crt")
    return made


def run(folder: Path, *words: str, answer: str = "") -> Result:
    """A command about a site; what it raised on purpose is raised here."""
    group = 2 if words[0] == "ledger" else 1
    given = [*words[:group], "--site", str(folder), *words[group:]]
    done = CliRunner().invoke(site, given, input=answer)
    if isinstance(done.exception, FedGliaError):
        raise done.exception
    return done


def plan_file(folder: Path, **changes: object) -> Path:
    wanted = plans.load("smoke").override({"sites": {"adult-a": {}, "ssa": {}, "c": {}}, **changes})
    path = folder.parent / "plan.toml"
    path.write_text(wanted.as_toml())
    return path


# Start, stop, status


@pytest.mark.slow
def test_a_site_starts_once_and_stops(folder: Path) -> None:
    try:
        assert "the site runs" in run(folder, "start").output
        with pytest.raises(LockedError, match="run already"):
            run(folder, "start")
        told = run(folder, "status", "--json")
        assert (told.exit_code, json.loads(told.output)["state"]) == (1, "not connected")
        assert set(json.loads(told.output)["services"]) == {"node", "worker"}
    finally:
        assert run(folder, "stop").output == "stopped\n"
    assert run(folder, "stop").output == "nothing ran\n"
    assert processes.states(folder) == {}


def test_a_start_needs_an_authority_or_the_hub(folder: Path) -> None:
    (folder / "hub-ca.crt").unlink()
    with pytest.raises(UnreachableError):
        run(folder, "start")
    assert not (folder / "run" / "services.json").exists()
    assert list(services.prepare(folder, only="worker")) == []  # which dials nobody


def test_one_process_alone_is_for_whatever_restarts_it(folder: Path) -> None:
    with pytest.raises(InputError, match="--only goes with --foreground"):
        run(folder, "start", "--only", "node")


def test_a_process_is_given_no_program_of_flowers_and_the_worker_no_proxy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intranet")
    node, worker = services.services(folder)

    assert shutil.which("flwr-clientapp", path=node.environment["PATH"]) is None
    assert node.environment["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert "https_proxy" not in node.environment
    assert worker.environment["https_proxy"] == ""
    assert node.environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert [service.command[1:4] for service in (node, worker)] == [
        ("-P", "-m", "client.node"),
        ("-P", "-m", "client.worker"),
    ]


def test_a_start_sweeps_what_nobody_used_for_long(folder: Path) -> None:
    old, new = folder / "state" / ("a" * 32), folder / "state" / ("b" * 32)
    entries = [folder / "cache" / name for name in ("old.safetensors", "new.safetensors", ".d.tmp")]
    for path in (old, new):
        path.mkdir()
        (path / "spent.json").write_text("{}")
    for path in entries:
        path.touch()
    for path in (old / "spent.json", old, entries[0], entries[2]):
        os.utime(path, (1, 1))

    told = list(keeping.sweep(folder, Policy()))
    assert told == [
        "swept 1 state(s) of runs that nobody used for 30 days",
        "swept 1 prepared case(s) that nobody used for 30 days",
    ]
    assert (old.exists(), new.exists()) == (False, True)
    assert [path.exists() for path in entries] == [False, True, False]
    assert (folder / "key").exists()


def hear(folder: Path, seconds_ago: float) -> None:
    told = {"time": time.time() - seconds_ago, "ok": True}
    (folder / "run" / "last-poll.json").write_text(json.dumps(told))


def test_a_site_that_does_not_run_is_said_to_be_stopped(folder: Path) -> None:
    found = run(folder, "status")

    assert found.exit_code == 1
    assert found.output.startswith("stopped\n")
    assert "hub 127.0.0.1:1: never answered" in found.output
    assert "no plan yet: fedglia site approve PLAN" in found.output
    assert "what to do  fedglia site start" in found.output


@pytest.mark.parametrize(
    ("supervised", "heard_s_ago", "state"),
    [
        (True, 2, "well"),
        (True, 100, "not connected"),
        (True, None, "not connected"),
        (False, 2, "well"),
        (False, 100, "stopped"),
    ],
)
def test_the_state_follows_from_processes_and_the_hubs_last_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, supervised: bool, heard_s_ago: float | None, state: str
) -> None:
    states = {"node": RUNNING, "worker": RUNNING} if supervised else {}
    monkeypatch.setattr(processes, "states", lambda folder: states)
    if heard_s_ago is not None:
        hear(folder, heard_s_ago)

    assert look(folder).state == state
    assert run(folder, "status").exit_code == (0 if state == "well" else 1)


def test_a_process_that_is_being_started_again_is_no_connection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ServiceState(pid=None, started_at=1.7e9, restarts=3, last_exit=1)
    monkeypatch.setattr(processes, "states", lambda folder: {"node": gone, "worker": RUNNING})
    hear(folder, 1)

    found = look(folder)
    assert found.state == "not connected"
    assert "node        is being started again, started again 3 time(s)" in list(lines(found))


def test_status_shows_what_was_refused_and_approved(folder: Path) -> None:
    run(folder, "approve", str(plan_file(folder)), "--yes")
    audit.note(folder, "refused", {"code": "hours", "id": "12ab", "words": "outside the hours"})

    found: Standing = look(folder)
    assert [plan["plan"] for plan in found.approved] == ["smoke"]
    assert [line["code"] for line in found.refused] == ["hours"]
    assert any(line.startswith("refused ") and "hours: outside the hours" in line for line in lines(found))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("INFO up\nExit Code: 305\n[code: 2004] Failed\nINFO down\n", "the hub does not let it in"),
        ("INFO up\nValueError: odd\nINFO down\n", "ValueError: odd"),
        ("INFO up\n", "INFO up"),
        ("", "it said nothing"),
    ],
)
def test_why_a_process_ended_is_read_from_its_log(folder: Path, log: str, words: str) -> None:
    (folder / "logs" / "node.log").write_text(log)
    assert why(folder, "node").startswith(words)


# Approvals


def test_a_plan_is_shown_asked_about_and_recorded(folder: Path) -> None:
    plan = plan_file(folder)
    no, yes = run(folder, "approve", str(plan), answer="n\n"), run(folder, "approve", str(plan), answer="y\n")

    assert (no.exit_code, yes.exit_code) == (1, 0)
    assert "What leaves this building" in no.output
    assert "not approved; nothing was recorded" in no.output
    digest = plans.load(plan).sha256
    assert f"approved: smoke {digest}" in yes.output
    assert digest in open_site(folder).policy.approved_hashes  # type: ignore[union-attr]
    assert "# Patients who withdrew" in (folder / "site.toml").read_text()
    assert f"no longer approved: smoke {digest}" in run(folder, "revoke-approval", "smoke").output
    assert open_site(folder).policy.approved == []  # type: ignore[union-attr]


def test_no_answer_is_a_no_and_says_how_to_answer(folder: Path) -> None:
    done = run(folder, "approve", str(plan_file(folder)), answer="")

    assert done.exit_code == 1
    assert "answer in a terminal, or give --yes" in done.output
    assert "not approved; nothing was recorded" in done.output
    assert open_site(folder).policy.approved == []  # type: ignore[union-attr]


@pytest.mark.parametrize("program", ["node", pytest.param("worker", marks=pytest.mark.slow)])
def test_a_process_that_cannot_begin_says_why_in_one_line(folder: Path, program: str) -> None:
    (folder / "site.toml").write_text("name = \n")
    command = [sys.executable, "-P", "-m", f"client.{program}", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"20[\d-]{8} [\d:]{8}[+-]\d{4} error: site: (no usable )?site\.toml .*", line)


def test_neither_a_start_nor_a_worker_goes_on_with_a_changed_record(folder: Path) -> None:
    """The node needs none."""
    approved = folder / "audit.jsonl"
    audit.note(folder, "approved", {"plan": "ab"})
    audit.note(folder, "approved", {"plan": "cd"})
    approved.write_text(approved.read_text().replace('"ab"', '"ef"'))
    with pytest.raises(SiteError, match=r"audit\.jsonl: line 1 was changed"):
        run(folder, "start")
    with pytest.raises(
        SiteError, match=r"audit\.jsonl: line 1 was changed.*audit\.head away together"
    ) as raised:
        worker.main(folder)
    assert (raised.value.code, raised.value.exit_status) == ("ledger", 2)
    (folder / "hub-ca.crt").write_text("")
    assert list(services.prepare(folder, only="node")) == []


def test_a_plan_that_the_policy_refuses_says_so_before_it_asks(folder: Path) -> None:
    plan = plan_file(folder, **{"rounds.count": 500})
    shown = run(folder, "approve", str(plan), answer="n\n").output

    assert shown.index("REFUSED ANYWAY [cap-rounds]") < shown.index("May this plan run here?")


# Withdrawal


def prepared(folder: Path, *cases: str) -> None:
    for name in ("one", "two"):
        (folder / "cache" / f"{name}.safetensors").touch()
    for case in cases:
        (folder / "predictions" / f"{case}.nii.gz").touch()


def test_a_patient_who_withdraws_is_listed_and_what_was_prepared_goes(folder: Path) -> None:
    first, other = open_site(folder).cohort.cases[:2]
    prepared(folder, first.name, other.name)
    done = run(folder, "withdraw", first.patient)

    assert done.exit_code == 0
    assert f"{first.patient} is withdrawn; 1 case(s) stay in the data folder" in done.output
    assert open_site(folder).withdrawn == {first.patient}
    assert list((folder / "cache").glob("*.safetensors")) == []
    assert [path.name for path in (folder / "predictions").iterdir()] == [f"{other.name}.nii.gz"]
    assert first.patient not in (folder / "audit.jsonl").read_text()
    assert first.images["t1n"].path.exists()
    again = run(folder, "withdraw", first.patient)
    assert "was withdrawn" in again.output
    assert tomllib.loads((folder / "site.toml").read_text())["withdrawn"] == [first.patient]
    assert len((folder / "audit.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("options", [(), ("--gone",)])
def test_a_case_is_not_taken_for_a_patient(folder: Path, options: tuple[str, ...]) -> None:
    """A case says whose it is; of a number that is not there, another patient's is no better guess."""
    case = open_site(folder).cohort.cases[0]
    scans = folder.parent / "scans"
    shutil.copytree(open_site(folder).data, scans)
    named = f'[patients]\n"{case.name}" = "P-009"\n'
    (scans / "cohort.toml").write_text((scans / "cohort.toml").read_text().partition("[patients]")[0] + named)
    file = folder / "site.toml"
    file.write_text(file.read_text().replace(str(open_site(folder).data), str(scans)))
    (scans / "notes").mkdir()

    with pytest.raises(InputError, match=r"is a case in the data folder, no patient; did you mean P-009\?"):
        run(folder, "withdraw", case.name, *options)
    if options:
        with pytest.raises(InputError, match=r"1 case\(s\) of P-009 are in the data folder"):
            run(folder, "withdraw", "P-009", *options)
        with pytest.raises(InputError, match="'notes' is a folder or file"):
            run(folder, "withdraw", "notes", *options)
    else:
        with pytest.raises(InputError, match="no case of a patient 'P-008'") as raised:
            run(folder, "withdraw", "P-008")
        assert "P-009" not in str(raised.value)
    assert open_site(folder).withdrawn == frozenset()


def test_a_patient_whose_scans_are_gone_can_still_withdraw(folder: Path) -> None:
    prepared(folder, "anybody")
    run(folder, "withdraw", "P-77", "--gone")

    assert open_site(folder).withdrawn == {"P-77"}
    assert list((folder / "predictions").iterdir()) == []


# The ledger


def test_what_left_is_shown_by_run_and_reply(folder: Path) -> None:
    facts = {"type": "train.round", "run": "ab" * 16, "round": 3, "records": ["metrics"], "bytes": 1234}
    assert run(folder, "ledger", "show").output == "nothing has left yet\n"
    for _ in range(2):
        egress.record(folder, {**facts, "sha256": "5c" * 32})

    assert "2 replies, 0 of them refusals, 2,468 bytes, last round 3" in run(folder, "ledger", "show").output
    each = run(folder, "ledger", "show", "--run", "abab")
    assert each.output.count("train.round round 3  1,234 bytes (metrics)  sha256 5c5c") == 2
    assert len(json.loads(run(folder, "ledger", "show", "--run", "ab", "--json").output)) == 2


def test_a_run_that_is_not_known_here_is_no_run_of_which_nothing_left(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is known at this site[^$]*none: nothing has left yet"):
        run(folder, "ledger", "show", "--run", "smoke-1")
    given = approval.approve(open_site(folder), plans.load(plan_file(folder)))
    egress.record(folder, {"type": "train.round", "run": "ab" * 16, "plan": given.sha256, "bytes": 5})

    with pytest.raises(InputError, match="not the name that the coordinator gave it") as refused:
        run(folder, "ledger", "show", "--run", "smoke-1")
    (known,) = str(refused.value).splitlines()[2:]
    assert known.startswith("abababababab  20")
    assert "  plan smoke  1 replies" in known


def test_what_is_asked_every_minute_imports_no_training(folder: Path) -> None:
    """A monitoring system calls `status`, and systemd waits for `stop`; PyTorch alone takes seconds."""
    words = """
import sys
from contextlib import suppress
from client.cli import site
for asked in ("status", "stop", "ledger show", "ledger verify"):
    with suppress(SystemExit):
        site([*asked.split(), "--site", sys.argv[1]])
from client import services
list(services.prepare(services.Path(sys.argv[1])))
print({"torch", "flwr", "grpc"} & set(sys.modules))
"""
    asked = [sys.executable, "-P", "-c", words, str(folder)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)

    assert "nothing ran" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_changed_record_is_found(folder: Path) -> None:
    for number in range(3):
        egress.record(folder, {"type": "train.round", "bytes": number})
    assert run(folder, "ledger", "verify").exit_code == 0
    file = folder / "egress.jsonl"
    file.write_text(file.read_text().replace('"bytes":1', '"bytes":9'))

    found = run(folder, "ledger", "verify")
    assert found.exit_code == 1
    assert "FAIL  egress.jsonl: line 2 was changed" in found.output
    assert "PASS  audit.jsonl" in found.output
