"""The paper's backbone under the `full` preset: it starts, steps, keeps a draft and goes on from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.checkpoint import load
from simulation.study import stretches
from simulation.study.jobs import Workplace
from simulation.study.site_transfer import centralised
from simulation.study.site_transfer.pieces import make_cohort
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.study.spec import parse, read, resolve


class StopTestError(Exception):
    """Ends a job where a kill could."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ren2024_starts_steps_and_goes_on_from_its_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, origin = read("ssa-transfer")
    full = raw["presets"]["full"]
    assert full["plan"]["adaptation"]["patch"] == [128, 192, 128]  # as published; smaller here for a CPU
    full |= {"steps": 4, "source_steps": 2, "rounds": 2, "curve_points": 2, "folds": 2}
    full["cohorts"] = {name: {"cases": 3} for name in raw["cohorts"]}
    full["plan"]["adaptation"]["patch"] = [64, 64, 128]
    full["plan"]["task"]["spacing_mm"] = 2.0
    study = parse(raw, SiteTransfer, preset="full", origin=origin)
    data = resolve(study, tmp_path, {})
    for source in data.role("source"):
        make_cohort(Workplace(tmp_path, source.name), study=study, data=data, source=source)
    kept = stretches.keep_draft

    def keep_and_stop(*arguments: object) -> None:
        kept(*arguments)  # type: ignore[arg-type]
        raise StopTestError

    monkeypatch.setattr(stretches, "keep_draft", keep_and_stop)
    monkeypatch.setattr(centralised, "_validation", lambda benches, model: None)
    place = Workplace(tmp_path, "once/baseline")
    place.folder.mkdir(parents=True)
    for step in (1, 2):
        with pytest.raises(StopTestError):
            centralised.carry_out(place, study=study, data=data, name="baseline", fold=-1)
        draft = load(place.folder / stretches.DRAFT)
        weights = [value for name, value in draft.tensors.items() if name.startswith("model:")]
        assert draft.provenance["step"] == step
        assert sum(value.numel() for value in weights) == 50_687_817
        assert len([name for name in draft.tensors if name.endswith("/exp_avg")]) == len(weights)
    assert len(draft.provenance["loss"]) == 2
