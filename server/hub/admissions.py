"""Who may join: the join files that sites send, what was admitted and revoked, and telling Flower of it.

admissions.json is the truth; the SuperLink's database is made to agree with it whenever the hub starts, so
the database may be lost. The file is written before the SuperLink is told: a kill between the two leaves
an admission without a number, and the next start gives it one.

    {"ssa": {"public_key": "ecdsa-sha2-nistp384 ...", "node_id": 123, "admitted_at": "...",
             "revoked_at": null, "former": [...]}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.certificates import key_fingerprint
from common.errors import FedGliaError, InputError, RunError
from common.files import write_atomic
from common.locks import locked
from common.plan import SiteName
from server.hub import control, edge
from server.hub.folder import Hub

KEY_TYPES = ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
"""What Flower takes; sites make the second."""
_LONGEST_FILE = 1 << 14
_LOCK_WAIT_S = 90.0


class JoinFile(BaseModel):
    """What a site sends to be admitted; nothing in it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_: Literal[1]
    site: SiteName
    public_key: str
    fedglia: str
    flwr: str


@dataclass(frozen=True)
class Admission:
    """One site's entry.

    Attributes:
        public_key: in OpenSSH's form, without a comment.
        node_id: Flower's number; None until the SuperLink has been told.
        admitted_at: UTC, ISO 8601.
        revoked_at: the same, or None.
        former: keys of this name that were revoked before, with their times.
    """

    public_key: str
    node_id: int | None
    admitted_at: str
    revoked_at: str | None = None
    former: tuple[Mapping[str, Any], ...] = ()


def read_join_file(path: Path) -> JoinFile:
    """Read and judge what a site sent.

    Raises:
        InputError: no join file, a key of another kind, or a name that plans cannot use.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(_LONGEST_FILE + 1)
        words = json.loads(content) if len(content) <= _LONGEST_FILE else None
    except (OSError, ValueError):
        words = None
    if not isinstance(words, dict) or "schema" not in words:
        raise InputError(f"{path.name}: is no join file; ask the site for join-NAME.json in its site folder")
    words["schema_"] = words.pop("schema")
    try:
        join = JoinFile.model_validate(words)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]).strip("_")
        raise InputError(
            f"{path.name}: {key}: {first['msg'].lower()}; ask the site for its join file again, "
            "made by the version of FedGlia that runs here"
        ) from None
    return JoinFile.model_validate(
        {**join.model_dump(), "public_key": _checked_key(join.public_key, path.name)}
    )


def version_differences(join: JoinFile) -> list[str]:
    """What differs between the versions of site and hub, in words; empty where nothing does."""
    here = {"fedglia": version("fedglia"), "flwr": version("flwr")}
    there = {"fedglia": join.fedglia, "flwr": join.flwr}
    return [
        f"{name} {there[name]} at the site, {here[name]} here" for name in here if here[name] != there[name]
    ]


def load(hub: Hub) -> dict[str, Admission]:
    """Every name that was ever admitted, in the order of the first admission.

    Raises:
        InputError: the file is damaged.
    """
    path = hub.folder / "admissions.json"
    try:
        words = json.loads(path.read_text()) if path.is_file() else {}
        return {
            name: Admission(**{**entry, "former": tuple(entry.get("former", ()))})
            for name, entry in words.items()
        }
    except (ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path.name}: is damaged; take it from a backup, or move it away and admit every site again"
        ) from None


def names(hub: Hub) -> list[str]:
    """Sites that may call now.

    Raises:
        InputError: the record is damaged.
    """
    return [name for name, entry in load(hub).items() if entry.revoked_at is None]


def admitted_keys(hub: Hub) -> list[str]:
    """Keys that may call now."""
    return [each.public_key for each in load(hub).values() if each.revoked_at is None]


def admit(hub: Hub, join: JoinFile) -> Literal["admitted", "known"]:
    """Let a site in from now on; admitting it again changes nothing.

    Where the hub is not running, the SuperLink is told at the next start.

    Raises:
        InputError: the name, or the key, is another's, or the key was revoked once.
        RunError: Flower refuses, or the disk is full.
        LockedError: another command is at it.
    """
    with _locked(hub):
        entries = load(hub)
        _check_free(entries, join)
        before = entries.get(join.site)
        if before is not None and before.revoked_at is None and before.node_id is not None:
            return "known"
        if before is None or before.revoked_at is not None:
            entries[join.site] = _fresh(join.public_key, before)
            _save(hub, entries)
        _tell(hub)
        return "admitted"


def revoke(hub: Hub, name: str) -> Literal["revoked", "known"]:
    """Refuse a site from now on, for good: its key is never let in again.

    Raises:
        InputError: no site of this name was admitted.
        RunError: Flower refuses, or the disk is full.
        LockedError: another command is at it.
    """
    with _locked(hub):
        entries = load(hub)
        if name not in entries:
            known = ", ".join(entries) or "none"
            raise InputError(f"{name}: was never admitted; admitted: {known}")
        before = entries[name].revoked_at is not None
        if not before:
            entries[name] = replace(entries[name], revoked_at=_now())
            _save(hub, entries)
        _tell(hub)
        return "known" if before else "revoked"


def reconcile(hub: Hub) -> list[str]:
    """Make edge and SuperLink agree with admissions.json; returns in words what was changed.

    Raises:
        RunError: the hub is not running, or Flower refuses.
        LockedError: another command is at it.
    """
    with _locked(hub):
        return _tell(hub)


def _tell(hub: Hub) -> list[str]:
    """The work of `reconcile`, under the lock; where the hub is down the next start does it.

    Edge and SuperLink each refuse a revoked key by themselves: where one cannot be told, the other still is.
    """
    failed: FedGliaError | None = None
    try:
        edge.write_admitted(hub.folder / "edge", admitted_keys(hub))
        edge.reload(hub.folder / "edge")
    except FedGliaError as error:
        failed = error
    said = _tell_superlink(hub) if control.is_up(hub) else []
    if failed is not None:
        raise failed
    return said


def _tell_superlink(hub: Hub) -> list[str]:
    """Those who are out first: a key that Flower does not take must not keep another in."""
    known, said = control.nodes(hub), []
    entries = load(hub).items()
    for name, entry in entries:
        if entry.revoked_at is not None and entry.node_id in known:
            control.unregister(hub, entry.node_id)
            said.append(f"{name}: unregistered")
    for name, entry in entries:
        if entry.revoked_at is None and entry.node_id not in known:
            _keep_number(hub, name, _registered(hub, name, entry))
            said.append(f"{name}: registered")
    return said


def _registered(hub: Hub, name: str, entry: Admission) -> int:
    """Register a key, or find the number that it was given just before a kill."""
    number = control.register(hub, entry.public_key, name)
    if number is not None:
        return number
    # Only this hub registers sites, under a lock: a number that no entry holds is the one lost in the kill.
    taken = {each.node_id for each in load(hub).values()}
    lost = [number for number in control.registered_since(hub, entry.admitted_at) if number not in taken]
    if len(lost) != 1:
        raise RunError(
            f"{name}: the SuperLink refuses this key, it was unregistered once; ask the site for a new key, "
            "or stop the hub, move state.db away, and start it: every admitted site is then registered anew",
            code="key-used",
        )
    return lost[0]


def _keep_number(hub: Hub, name: str, number: int) -> None:
    entries = load(hub)
    entries[name] = replace(entries[name], node_id=number)
    _save(hub, entries)


def _check_free(entries: Mapping[str, Admission], join: JoinFile) -> None:
    present = entries.get(join.site)
    if present is not None and present.revoked_at is None and present.public_key != join.public_key:
        raise InputError(
            f"{join.site}: is admitted with another key ({key_fingerprint(present.public_key)}); if the site "
            f"made a new one, and says so by telephone, first: fedglia hub revoke {join.site}"
        )
    for name, entry in entries.items():
        if entry.revoked_at is None and entry.public_key == join.public_key and name != join.site:
            raise InputError(f"{join.site}: this key is admitted as '{name}' already; a site has one name")
        gone = {str(each["public_key"]) for each in entry.former}
        gone |= {entry.public_key} if entry.revoked_at is not None else set()
        if join.public_key in gone:
            raise InputError(
                f"{join.site}: this key was revoked (as '{name}') and stays refused; the site needs a new one"
            )


def _fresh(public_key: str, before: Admission | None) -> Admission:
    if before is None:
        return Admission(public_key, None, _now())
    gone = {key: value for key, value in asdict(before).items() if key != "former"}
    return Admission(public_key, None, _now(), former=(*before.former, gone))


def _checked_key(public_key: str, where: str) -> str:
    parts = public_key.split()
    kind = parts[0] if parts else "nothing"
    if kind not in KEY_TYPES:
        raise InputError(f"{where}: public_key: is of kind '{kind[:40]}'; sites have {KEY_TYPES[1]}")
    key = " ".join(parts[:2])
    try:
        edge.header_of(key)
    except InputError:
        raise InputError(f"{where}: public_key: is damaged; ask the site for its join file again") from None
    return key


def _save(hub: Hub, entries: Mapping[str, Admission]) -> None:
    words = {name: asdict(entry) for name, entry in entries.items()}
    write_atomic(hub.folder / "admissions.json", json.dumps(words, indent=1).encode(), mode=0o600)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _locked(hub: Hub) -> AbstractContextManager[None]:
    """One command at a time."""
    refusal = "admissions: another command is changing them; try again"
    return locked(hub.folder / "admissions.lock", wait_s=_LOCK_WAIT_S, refusal=refusal)
