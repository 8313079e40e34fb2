"""What stays at a site between rounds: optimiser moments and what the codec still owes.

State is kept by round, and the one before it too, until the hub's next message shows that the round
was closed: a hub that was killed asks for the same round again, and the site starts from the same state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.checkpoint import load, save
from common.files import sweep_drafts

_FILE = re.compile(r"^round-(\d{4,})\.safetensors$")


@dataclass(frozen=True)
class SiteState:
    """The state of one site in one run."""

    folder: Path

    def before(self, round_number: int) -> dict[str, Tensor]:
        """State to start a round from: that of the latest round before it; empty at the start.

        Forgets what no round can ask for any more, and drafts that a kill left.
        """
        sweep_drafts(self.folder)
        known = sorted(number for number in self._rounds() if number < round_number)
        for number in known[:-1]:
            self._file(number).unlink()
        return dict(load(self._file(known[-1])).tensors) if known else {}

    def keep(self, round_number: int, tensors: dict[str, Tensor]) -> None:
        """Keep the state after a round, in place of what an earlier try of it left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if tensors:
            save(self._file(round_number), tensors, {"kind": "site state", "round": round_number})

    def _rounds(self) -> list[int]:
        found = (_FILE.match(path.name) for path in self.folder.glob("round-*.safetensors"))
        return [int(match[1]) for match in found if match]

    def _file(self, round_number: int) -> Path:
        return self.folder / f"round-{round_number:04d}.safetensors"
