"""The site's own files: key, rights, policy, records, and what was left behind."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from client import chain, records
from client.doctor.findings import Said, failed, passed, warned
from client.doctor.subject import Subject
from client.join import FORMAT, public_key
from client.keeping import unused_days
from client.policy import Policy
from common.errors import FedGliaError
from common.processes import states

PRIVATE = ("key", "secret")
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
OLD_DRAFT_DAYS = 1.0


def check_key(subject: Subject) -> Iterator[Said]:
    """Is the key there, is it this user's alone, and is it the one that the join file speaks of?"""
    folder = subject.folder
    for name in PRIVATE:
        path = folder / name
        if not path.is_file():
            yield failed(
                f"there is no file {name}",
                "put it back from a copy; else run fedglia site init again, and be admitted anew",
            )
            return
        if not os.access(path, os.R_OK):
            yield failed(f"{name} cannot be read by this user", f"sudo chown $USER {path}")
            return
        if path.stat().st_mode & OPEN_TO_OTHERS:
            yield failed(f"{name} can be read by other users of this machine", f"chmod 600 {path}")
    try:
        mine = public_key(folder)
    except FedGliaError as error:
        yield failed(str(error), "put it back from a copy; else make a new site folder and be admitted anew")
        return
    told = _told_key(folder / f"join-{subject.site.name}.json")
    if told not in (None, mine):
        yield failed(
            "the key is not the one in the join file, so the hub knows another",
            "put the old key back; else run fedglia site init again, and be admitted anew",
        )
    else:
        yield passed("key and secret are here, for this user alone")


def check_folder(subject: Subject) -> Iterator[Said]:
    """Is the folder closed to others, and of a layout that this version knows?"""
    if subject.folder.stat().st_mode & OPEN_TO_OTHERS:
        yield warned(
            "other users of this machine can look into the site folder, which holds prepared scans",
            f"chmod 700 {subject.folder}",
        )
    else:
        yield passed(f"the site folder is closed to others, format {FORMAT}")


def check_policy(subject: Subject) -> Iterator[Said]:
    """What does the policy allow, and could anything run under it?"""
    policy = subject.site.policy or Policy()
    names = ", ".join(f"{plan.plan} ({plan.sha256[:12]})" for plan in policy.approved)
    if not names:
        yield warned("no plan is approved, so nothing can run", "fedglia site approve PLAN")
    else:
        yield passed(f"approved: {names}")
    if policy.minimum_sites < 3:
        yield warned(
            f"minimum_sites is {policy.minimum_sites}: with two sites, each can work out the other's update",
            "set minimum_sites = 3 in [policy], if the federation has so many",
        )
    if not policy.is_open(datetime.now()):
        yield passed(f"closed now: work may begin {policy.hours} {' '.join(policy.days)}".rstrip())


def check_withdrawn(subject: Subject) -> Iterator[Said]:
    """Is every patient who withdrew known by that name?"""
    try:
        unknown = subject.site.unknown_withdrawn
    except FedGliaError:  # the check of the data folder says what is wrong with it
        yield warned("not looked at: the data folder cannot be read", "mend the data folder first")
        return
    if unknown:
        yield warned(
            f"withdrawn, but not in the data folder: {', '.join(unknown)}. Gone already, or misspelt",
            "compare withdrawn in site.toml with the patients of cohort.toml",
        )
    else:
        yield passed(f"{len(subject.site.withdrawn)} patient(s) withdrew")


def check_records(subject: Subject) -> Iterator[Said]:
    """Are the records of what left and what was decided as they were written?"""
    for file, what in records.RECORDS.items():
        verdict = chain.verify(subject.folder / file)
        if verdict.bad_line is None:
            yield passed(f"record of {what}: {verdict.words}")
        else:
            yield failed(records.complaint(file, verdict.words), records.mend(file))


def check_leftovers(subject: Subject) -> Iterator[Said]:
    """Is there anything of a process that was killed, or of runs long over?"""
    folder, runs = subject.folder, bool(states(subject.folder))
    sweeps = "fedglia site stop, then fedglia site start: a start sweeps"
    drafts = [path for path in folder.glob("**/.*.tmp") if unused_days(path) > OLD_DRAFT_DAYS]
    days = subject.site.policy.log_days if subject.site.policy else 30
    old = [path for path in (folder / "state").glob("*") if path.is_dir() and unused_days(path) > days]
    if drafts:
        yield warned(f"{len(drafts)} half-written file(s) of a process that was killed", sweeps)
    if old:
        yield warned(f"the state of {len(old)} run(s) that nobody asked for in {days} days", sweeps)
    if not runs and (folder / "run" / "services.json").exists() and _names_processes(folder):
        yield warned(
            "the site did not stop in order (a crash, or the machine went down)",
            "fedglia site start; it clears what was left",
        )
    if not drafts and not old:
        yield passed("nothing old is left")


def _told_key(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["public_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _names_processes(folder: Path) -> bool:
    try:
        record = json.loads((folder / "run" / "services.json").read_text())
        return any(entry.get("pid") for entry in record["services"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
