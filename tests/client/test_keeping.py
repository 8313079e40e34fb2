"""What a site removes by itself, and what it never touches while something writes it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from client import keeping, refusal, services
from client.policy import Policy
from common.errors import RunError
from common.files import sweep_drafts
from tests.client.hospital import Hospital, hospital

OLD = 1.0


@pytest.fixture
def site(tmp_path: Path) -> Hospital:
    made = hospital(tmp_path / "ssa")
    for part in ("cache", "models", "state", "run", "logs"):
        (made.folder / part).mkdir(exist_ok=True)
    return made


def file(path: Path, *, used_at: float | None = None, nbytes: int = 1) -> Path:
    path.write_bytes(b"x" * nbytes)
    if used_at is not None:
        os.utime(path, (used_at, used_at))
    return path


def swept(site: Hospital, **policy: object) -> list[str]:
    return list(keeping.sweep(site.folder, Policy.model_validate(policy)))


def test_a_draft_that_is_being_written_stays(site: Hospital) -> None:
    """A second start must not take away what the running worker writes."""
    young = file(site.folder / ".egress.head.ab12.tmp")
    old = file(site.folder / "models" / ".start.cd34.tmp", used_at=time.time() - 61)
    swept(site)

    assert (young.exists(), old.exists()) == (True, False)


def test_a_draft_that_goes_while_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".a.tmp").symlink_to(tmp_path / "gone")
    sweep_drafts(tmp_path, older_than_s=60)


def test_starting_models_go_unless_a_run_used_them_lately(site: Hospital) -> None:
    models = site.folder / "models"
    old, now = (file(models / f"start-{name}.safetensors", used_at=OLD) for name in "ab")
    kept = file(models / "kept.safetensors", used_at=OLD)
    keeping.used(now)

    assert swept(site) == ["swept 1 starting model(s) that nobody used for 30 days"]
    assert [path.exists() for path in (old, now, kept)] == [False, True, True]


def test_the_cache_keeps_what_was_used_last(site: Hospital) -> None:
    entries = [
        file(site.folder / "cache" / f"{number}.safetensors", used_at=time.time() - number, nbytes=400)
        for number in range(5)
    ]
    told = swept(site, cache_gb=1e-6)

    assert told == ["swept 3 prepared case(s), those used longest ago: cache_gb is 1e-06"]
    assert [path.exists() for path in entries] == [True, True, False, False, False]


def test_the_log_of_errors_is_put_aside_and_its_oldest_part_goes(
    site: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "MAX_BYTES", 2000)
    for number in range(200):
        refusal.refuse(site.folder, RunError(f"error {number}"))
    logs = sorted(path.name for path in site.folder.glob("site.log*"))

    assert logs == ["site.log", *(f"site.log.{age}" for age in range(1, refusal.KEPT + 1))]
    assert all((site.folder / name).stat().st_size < 2200 for name in logs)
    assert "error 199" in (site.folder / "site.log").read_text()
    os.utime(site.folder / "site.log.4", (OLD, OLD))
    os.utime(site.folder / "site.log", (OLD, OLD))
    assert swept(site) == ["swept 1 log(s) that nobody used for 30 days"]
    assert (site.folder / "site.log").exists()


def test_a_site_that_runs_for_months_sweeps_once_a_day(site: Hospital) -> None:
    stale = site.folder / "cache" / "old.safetensors"
    file(stale, used_at=OLD)
    site.ask(site.message())
    assert not stale.exists()

    file(stale, used_at=OLD)
    site.ask(site.message())
    assert stale.exists()

    os.utime(site.folder / keeping.SWEPT, (OLD, OLD))
    site.ask(site.message())
    assert not stale.exists()


def test_the_nodes_start_looks_at_nothing_but_what_a_node_reads(site: Hospital) -> None:
    (site.folder / "hub-ca.crt").write_text("pinned")
    stale = file(site.folder / "cache" / "old.safetensors", used_at=OLD)

    assert list(services.prepare(site.folder, only="node")) == []
    assert stale.exists()
    assert len(list(services.prepare(site.folder, only="worker"))) == 1
