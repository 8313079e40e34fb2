"""What an update must be before it is folded in, and the spool where it waits until its round closes.

Each reply is checked alone as it comes: its table against the hub's own layout, its numbers, its weight
against the patients that the site declared. When the round closes, the updates are judged together by
their length (`judge`). What is refused is refused by site and by code, and the round goes on.
Messages are for the hub's own log; they name the site and quote nothing that it sent but numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from common.codec import norm_of
from common.errors import RefusedUpdate, RunError
from common.wire import Layout, read_weights

Flat = NDArray[np.float32]

MAX_NORM = 1e6
"""Absolute ceiling of an update's Euclidean norm; a trained U-Net's is a few units."""

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Expectation:
    """What a site's reply must be.

    Attributes:
        layout: the parameters that were asked for.
        round_number: the open round.
        max_weight: patients that this site declared; a weight is 1 to this.
        max_norm: absolute ceiling of the update's Euclidean norm.
    """

    layout: Layout
    round_number: int
    max_weight: int
    max_norm: float = MAX_NORM


@dataclass(frozen=True)
class Update:
    """One site's reply: `delta` (layout.size,) float32 is the site's model minus the one it was sent."""

    site: str
    round_number: int
    layout: Layout
    delta: Flat
    weight: int


def admit(
    content: RecordDict, expectation: Expectation, *, site: str, answered: Collection[str] = ()
) -> tuple[Update, float]:
    """The update in a reply, and its Euclidean norm.

    Args:
        content: the reply, trusted in nothing.
        expectation: what it must be.
        site: who sent it, as the hub knows and not as the reply says.
        answered: sites whose update of this round is in already.

    Raises:
        RefusedUpdate: the message names the site, the code is one of those of `check_reply` and
            `common.wire.read_weights`.
    """
    try:
        payload = read_weights(content, expectation.layout)
    except RefusedUpdate as refusal:
        raise RefusedUpdate(f"site {site}: {refusal}", code=refusal.code) from None
    update = Update(site, payload.round_number, payload.layout, payload.flat, payload.weight)
    return update, check_reply(update, expectation, answered=answered)


def check_reply(update: Update, expectation: Expectation, *, answered: Collection[str] = ()) -> float:
    """Check one update alone; returns its Euclidean norm.

    Raises:
        RefusedUpdate: code `duplicate`, `round`, `names`, `shape`, `dtype`, `size`, `weight`, `not-finite`
            or `norm`; the message names the site.
    """
    fault = (
        _sender_fault(update, expectation, answered)
        or _layout_fault(update.layout, expectation.layout)
        or _values_fault(update, expectation)
    )
    if fault is None:
        norm = norm_of(update.delta)
        fault = _norm_fault(norm, expectation.max_norm)
        if fault is None:
            return norm
    code, words = fault
    raise RefusedUpdate(f"site {update.site}: {words}", code=code)


def judge(norms: Mapping[str, float], *, factor: float = 10.0, minimum_sites: int = 3) -> dict[str, str]:
    """Sites whose update is out of proportion to the round, each with the reason in words.

    Args:
        norms: site -> Euclidean norm of its update, of all that came through `check_reply`.
        factor: an update longer than this many times the round's median is refused.
        minimum_sites: with fewer there is no majority to compare with, and nobody is refused.

    A median of 0 (half the sites did not train) refuses nobody: the absolute ceiling remains.
    """
    if len(norms) < minimum_sites:
        return {}
    median = float(np.median(list(norms.values())))
    if median == 0:
        return {}
    return {
        site: f"its update has norm {norm:.4g}, more than {factor:g} times the round's median {median:.4g}"
        for site, norm in norms.items()
        if norm > factor * median
    }


@dataclass(frozen=True)
class Spooled:
    """An update on disk that reads like a vector: `update[start:stop]` is a fresh float32 array.

    It holds neither memory nor an open file, so that a thousand of them cost nothing.

    Attributes:
        digest: SHA-256 of the values, little-endian.
    """

    site: str
    weight: int
    norm: float
    size: int
    digest: str
    path: Path

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> Flat:
        start, stop, _ = part.indices(self.size)
        values = np.fromfile(self.path, dtype="<f4", count=max(stop - start, 0), offset=start * 4)
        if values.size != max(stop - start, 0):
            raise RunError(
                f"site {self.site}: its spooled update was cut short; resume the run to repeat the round"
            )
        return values


class Spool:
    """A folder where the updates of the open round wait; worthless once it is closed or the hub died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, site: str, flat: Flat, *, weight: int, norm: float) -> Spooled:
        """Keep one site's update.

        Raises:
            RefusedUpdate: code `duplicate`; this site's update is here already.
            RunError: the name cannot be a file's, or the disk is full.
        """
        values, facts = self._files(site)
        if facts.exists():
            raise RefusedUpdate(f"site {site}: has already answered this round", code="duplicate")
        content = np.ascontiguousarray(flat, dtype="<f4").data.cast("B")
        spooled = Spooled(site, weight, norm, flat.size, hashlib.sha256(content).hexdigest(), values)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            values.write_bytes(content)
            facts.write_text(json.dumps({**asdict(spooled), "path": values.name}))
        except OSError as error:
            values.unlink(missing_ok=True)
            facts.unlink(missing_ok=True)
            raise RunError(
                f"site {site}: its update cannot be kept ({error.strerror}); make room and resume the run",
                code="disk",
            ) from error
        return spooled

    def open(self, site: str) -> Spooled:
        """A kept update, by its site.

        Raises:
            RunError: there is none.
        """
        _, facts = self._files(site)
        try:
            fields = json.loads(facts.read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"site {site}: no update of it waits in the spool") from error
        return Spooled(**{**fields, "path": self.folder / fields["path"]})

    def sites(self) -> tuple[str, ...]:
        """Sites whose update waits, by name."""
        return tuple(sorted(facts.stem for facts in self.folder.glob("*.json")))

    def clear(self) -> None:
        """Forget every update."""
        for pattern in ("*.json", "*.f32"):
            for file in self.folder.glob(pattern):
                file.unlink()

    def _files(self, site: str) -> tuple[Path, Path]:
        if not _SITE.fullmatch(site):
            raise RunError(
                f"'{site[:20]}' is no name for a site: letters, digits, '.', '_' and '-'", code="site"
            )
        return self.folder / f"{site}.f32", self.folder / f"{site}.json"


def _sender_fault(
    update: Update, expectation: Expectation, answered: Collection[str]
) -> tuple[str, str] | None:
    if update.site in answered:
        return "duplicate", "has already answered this round"
    if update.round_number != expectation.round_number:
        return "round", f"answered round {update.round_number}, open is round {expectation.round_number}"
    return None


def _layout_fault(found: Layout, expected: Layout) -> tuple[str, str] | None:
    if found == expected:
        return None
    columns = zip(("names", "shape", "dtype"), found.columns(), expected.columns(), strict=True)
    code = next(code for code, theirs, ours in columns if theirs != ours)
    return code, f"its table differs from the hub's in {code}"


def _values_fault(update: Update, expectation: Expectation) -> tuple[str, str] | None:
    delta, weight = update.delta, update.weight
    if delta.dtype != np.float32:
        return "dtype", f"its values are {delta.dtype}, not float32"
    if delta.shape != (expectation.layout.size,):
        return "size", f"its values have shape {delta.shape}, not ({expectation.layout.size},)"
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= expectation.max_weight:
        return "weight", f"weight {weight!r} where the site declared {expectation.max_weight} patients"
    return None


def _norm_fault(norm: float, ceiling: float) -> tuple[str, str] | None:
    if not math.isfinite(norm):
        return "not-finite", "its update holds NaN or Inf"
    if norm > ceiling:
        return "norm", f"its update has norm {norm:.4g}, the ceiling is {ceiling:.4g}"
    return None
