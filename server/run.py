"""The run directory: what a run leaves behind, and what it needs to go on after a kill.

    RUN/plan.toml plan.sha256 run.json     run.json is written last: with it, the directory is a run
    RUN/lock hub.lock                      held by the one process that writes (lock: a whole simulation)
    RUN/events.jsonl                       a log for people; nothing is read back from it
    RUN/start.safetensors                  the first model, where the plan names a file by its hash
    RUN/checkpoints/round-0003.safetensors a closed round is one whose checkpoint exists
    RUN/checkpoints/round-0003.server.safetensors   what the hub remembers besides, where it does
    RUN/domains.json                       where domains are aligned: their numbers
    RUN/rounds/round-0003.json             who answered, numbers; written just before its checkpoint
    RUN/stages/<stage>/<site>.json         what a site reported after, or before, the rounds
    RUN/spool/                             replies of the open round; worthless after a kill
    RUN/stop                               a person asks the run to end; resuming takes it away

One process writes a run at a time. Everything is written atomically, so that a kill at any moment
leaves the last closed round and every finished stage as they were. Looking at a run needs no PyTorch: only
what reads or writes a model imports it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, RunError, StoppedError
from common.files import append_line, sweep_drafts, write_atomic
from common.locks import is_locked, locked
from common.plan import Plan
from common.plan import load as load_plan

if TYPE_CHECKING:
    from torch import Tensor

    from common.checkpoint import Checkpoint

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""What a deployed run may be called: one name in the hub's folder of runs."""

STOP_FILE = "stop"
GIVEN_FILE = "start.safetensors"

_LOOKED_AT_S = 0.2
"""`is_open` holds a run's lock too, for a moment."""

_CLOSED = re.compile(r"round-(\d{4,})\.safetensors")

Event = Mapping[str, Any]
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Run:
    """An opened run directory.

    Attributes:
        identity: random, made once; tells sites which run a message belongs to.
        listen: called with every event as it is written, for progress on a terminal.
        interruptions: how often the run was ended before it was done, and gone on with.
    """

    folder: Path
    plan: Plan
    identity: str
    listen: Listener = lambda event: None
    interruptions: int = 0

    @property
    def spool_folder(self) -> Path:
        """Where the open round's replies wait to be folded."""
        return self.folder / "spool"

    def checkpoint_file(self, round_number: int) -> Path:
        """The global model after a round; round 0 is the model at the start."""
        return self.folder / "checkpoints" / f"round-{round_number:04d}.safetensors"

    def server_state_file(self, round_number: int) -> Path:
        """What the hub itself remembers after a round: the optimiser's memory, and the discriminator."""
        return self.folder / "checkpoints" / f"round-{round_number:04d}.server.safetensors"

    def event(self, kind: str, **facts: object) -> None:
        """Append one line to the log and tell the listener."""
        line = {"time": round(time.time(), 3), "event": kind, **facts}
        append_line(self.folder / "events.jsonl", line)
        self.listen(line)

    def check_stop(self) -> None:
        """End the run if a person asked for it; every wait of the hub calls this.

        Raises:
            StoppedError: the run directory holds the file `stop`.
        """
        if (self.folder / STOP_FILE).exists():
            raise StoppedError(f"run {self.folder.name}: was asked to stop; resume it to go on")

    def forget_open_round(self) -> None:
        """Throw the open round's replies away: a resumed run opens it again."""
        shutil.rmtree(self.spool_folder, ignore_errors=True)

    def last_round(self) -> int | None:
        """The last closed round, 0 where only the starting model is there, None where nothing is."""
        return _last_round(self.folder)

    def close_round(
        self,
        round_number: int,
        *,
        tensors: Mapping[str, Tensor],
        record: Mapping[str, Any],
        server_state: Mapping[str, Tensor],
    ) -> None:
        """Keep a round for good: record and server state first, the checkpoint last: it closes the round."""
        from common.checkpoint import save

        self.write_json(self.folder / "rounds" / f"round-{round_number:04d}.json", record)
        if server_state:
            facts = {"kind": "server state", "round": round_number}
            save(self.server_state_file(round_number), server_state, facts)
        self.keep_checkpoint(round_number, tensors, {})

    def keep_checkpoint(
        self, round_number: int, tensors: Mapping[str, Tensor], facts: Mapping[str, object]
    ) -> None:
        """Write a round's global model with where it comes from, and `facts` besides."""
        from common.checkpoint import save

        provenance = {
            "kind": "global model",
            "plan": {"name": self.plan.name, "sha256": self.plan.sha256},
            "preset": self.plan.model.preset,
            "task": self.plan.task.kind,
            "spacing_mm": self.plan.task.spacing_mm,
            "round": round_number,
        }
        save(self.checkpoint_file(round_number), tensors, {**provenance, **facts})

    def records(self) -> list[dict[str, Any]]:
        """Records of the closed rounds, in order."""
        last = self.last_round() or 0
        files = (self.folder / "rounds" / f"round-{number:04d}.json" for number in range(1, last + 1))
        return [json.loads(file.read_text()) for file in files]

    def load_round(self, round_number: int) -> tuple[Checkpoint, dict[str, Tensor]]:
        """The global model and the server's own state after a closed round."""
        from common.checkpoint import load

        state_file = self.server_state_file(round_number)
        server_state = dict(load(state_file).tensors) if state_file.is_file() else {}
        return load(self.checkpoint_file(round_number)), server_state

    def stage_result(self, stage: str, site: str) -> dict[str, Any] | None:
        """What a site reported in a stage, if it already did."""
        file = self.folder / "stages" / stage / f"{site}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def keep_stage_result(self, stage: str, site: str, result: Mapping[str, Any]) -> None:
        """Keep what a site reported, so that a resumed run does not ask again."""
        self.write_json(self.folder / "stages" / stage / f"{site}.json", result)

    def stage_seconds(self, stage: str) -> float:
        """Seconds that a stage took so far, over every time the run was resumed."""
        file = self.folder / "stages" / f"{stage}.json"
        return float(json.loads(file.read_text())["wall_s"]) if file.is_file() else 0.0

    def add_stage_seconds(self, stage: str, seconds: float) -> None:
        """Add to the account of a stage."""
        total = {"wall_s": self.stage_seconds(stage) + seconds}
        self.write_json(self.folder / "stages" / f"{stage}.json", total)

    def point(self, name: str, round_number: int) -> None:
        """Make `last` or `best` name a round's checkpoint."""
        target = self.folder / "checkpoints" / f"{name}.safetensors"
        draft = target.with_suffix(".tmp")
        try:
            draft.unlink(missing_ok=True)
            _link_or_copy(self.checkpoint_file(round_number), draft)
            draft.replace(target)
            draft.unlink(missing_ok=True)  # two links of one file: the system then renames nothing
        except OSError as error:
            raise RunError(
                f"{target.name}: cannot be written ({error.strerror}); make room and resume the run",
                code="disk",
            ) from error

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write one JSON file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content, indent=1, allow_nan=False).encode())


def create(folder: Path, plan: Plan, *, resume: bool) -> None:
    """Make a run directory for `plan`, or check that the one there can be resumed.

    A missing or empty directory starts from the beginning, with or without `resume`.

    Raises:
        InputError: the directory holds something else, another plan, or a run and `resume` is False.
    """
    check_free(folder, plan, resume=resume)
    marker = folder / "run.json"
    if marker.is_file():
        (folder / STOP_FILE).unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "plan.toml", plan.as_toml().encode())
    write_atomic(folder / "plan.sha256", f"{plan.sha256}\n".encode())
    write_atomic(marker, json.dumps({"schema": 1, "identity": uuid.uuid4().hex}).encode())


def check_free(folder: Path, plan: Plan, *, resume: bool) -> None:
    """Refuse a directory in which `create` could make nothing; changes nothing.

    Raises:
        InputError: see `create`.
    """
    if (folder / "run.json").is_file():
        _check_resumable(folder, plan, resume=resume)
    elif folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir())
        foreign = [name for name in names if not _ours_before_the_marker(name)]
        if foreign:
            raise InputError(
                f"{folder.name}: is not empty and holds no run (there is '{foreign[0]}'); name a new folder"
            )
    elif folder.exists():
        raise InputError(f"{folder.name}: is a file; name a folder for the run")


@contextmanager
def opened(folder: Path, *, listen: Listener = lambda event: None) -> Iterator[Run]:
    """Open a run directory as its one writer.

    Raises:
        LockedError: another process writes this run.
    """
    with exclusive(folder / "hub.lock", what=f"run {folder.name}"):
        for part in (folder, *folder.glob("*/"), *folder.glob("stages/*/")):
            sweep_drafts(part)
        identity = json.loads((folder / "run.json").read_text())["identity"]
        run = Run(folder, load_plan(folder / "plan.toml"), identity, listen, _interruptions(folder))
        run.forget_open_round()
        yield run


def exclusive(path: Path, *, what: str) -> AbstractContextManager[None]:
    """Hold a lock file for as long as a block runs.

    Raises:
        LockedError: another process holds it.
    """
    refusal = f"{what}: another process is writing it; wait for it or stop it first"
    return locked(path, wait_s=_LOOKED_AT_S, refusal=refusal)


def is_open(folder: Path) -> bool:
    """Whether a hub's process is at work on the run in this folder now."""
    return is_locked(folder / "hub.lock")


def has_lost_rounds(folder: Path) -> bool:
    """Whether summary.json tells of closed rounds whose models are gone, as in a backup without runs."""
    try:
        told: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return len(told.get("rounds", ())) > (_last_round(folder) or 0)
    except (OSError, ValueError):
        return False


def _last_round(folder: Path) -> int | None:
    found = (_CLOSED.fullmatch(file.name) for file in (folder / "checkpoints").glob("round-*.safetensors"))
    return max((int(match[1]) for match in found if match), default=None)


def _interruptions(folder: Path) -> int:
    """Counted in the summary, which is written whenever a run is opened."""
    try:
        before: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return int(before.get("interruptions", 0)) + int(before["status"] != "completed")
    except (OSError, ValueError, KeyError):
        return 0


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _ours_before_the_marker(name: str) -> bool:
    """Files that a run killed while it was being made may have left."""
    return name in {"plan.toml", "plan.sha256", "lock", "hub.lock"} or name.endswith(".tmp")


def _check_resumable(folder: Path, plan: Plan, *, resume: bool) -> None:
    if not resume:
        raise InputError(f"{folder.name}: holds a run already; add --resume to go on, or name a new folder")
    found = (folder / "plan.sha256").read_text().strip()
    if found != plan.sha256:
        raise InputError(
            f"{folder.name}: was started with another plan ({found[:12]}, this one is {plan.sha256[:12]}); "
            "give the same plan and options, or name a new folder"
        )
    if has_lost_rounds(folder):
        raise InputError(
            f"{folder.name}: the models of its closed rounds are not there, as after a restore without them, "
            "so it cannot be resumed; start a new run"
        )
