"""A plan in plain words, for whoever answers for this hospital; and the answer, recorded.

SITE/site.toml              [policy] approved: name, hash and time of each plan that may run here
SITE/approved/<hash>.toml   its text, so that the next plan of that name can be compared with it
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Array

from client import audit
from client.policy import ALWAYS, METRICS, Approval, Excess, Policy, excesses, steps_of
from client.settings import edited, policy_of
from client.site import Site
from common import wire
from common.codec import CODECS
from common.data.cases import STRUCTURES
from common.errors import FedGliaError, PlanError, SiteError
from common.files import write_atomic
from common.learning.alignment import attach
from common.learning.finetuning import trainable_names
from common.models.network import build
from common.plan import Plan, load

FOLDER = "approved"
SHORTEST_HASH = 8

_WIDTH = 100
_TRAINED = {
    "all": "all of it is trained",
    "frozen-decoder": "its encoder (and a new output layer) is trained, the rest stays as it comes",
    "frozen-encoder": "its decoder and output layer are trained, the rest stays as it comes",
    "head": "its output layer alone is trained",
    "norms": "the scales and shifts of its normalisation alone are trained",
}
_STAGES = 4  # the first model, its judgement, the last one's judgement, each site's own adaptation


def words(plan: Plan, site: Site) -> str:
    """A plan as a hospital's IT needs to read it before saying yes.

    What is trained, for how long, with whom, what leaves and what stays, what this site's policy would
    refuse of it now, and what differs from the last plan of that name that was approved here.
    """
    policy = site.policy or Policy()
    parts = [
        ("What is trained", _training(plan)),
        ("How long", _duration(plan)),
        ("With whom", _company(plan, site)),
        ("What leaves this building", _leaving(plan, policy)),
        ("What stays here", _staying(plan)),
        ("What this site's policy says", _verdict(plan, site)),
        ("Compared with what was approved before", _difference(plan, site)),
    ]
    head = f"Plan {plan.name}\nhash {plan.sha256}"
    about = audit.plain(plan.about, longest=300)
    lines = [head, *([f'It says of itself: "{about}"'] if about else [])]
    for title, sentences in parts:
        lines += ["", title, *(line for sentence in sentences for line in _wrapped(sentence))]
    return "\n".join(lines) + "\n"


def refused_now(plan: Plan, site: Site) -> list[Excess]:
    """Why a run of the plan would be refused even after a yes; nothing where it would not."""
    found = list(excesses(site.policy or Policy(), plan, bytes_up=_bytes_of_run(plan)))
    if site.name not in plan.sites:
        found.insert(0, Excess("not-planned", f"the plan names no site '{site.name}': it asks nothing of it"))
    return found


def approve(site: Site, plan: Plan) -> Approval:
    """Record a yes in site.toml, with the plan's text beside it and a line in audit.jsonl.

    A plan that is approved already stays as it is.

    Raises:
        SiteError, RunError, LockedError: nothing was approved.
    """
    known = _approvals(site, plan.sha256)
    if known:
        return known[-1]
    given = Approval(plan=plan.name, sha256=plan.sha256, when=datetime.now().isoformat(timespec="seconds"))
    folder = site.folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomic(folder / f"{plan.sha256}.toml", plan.as_toml().encode(), mode=0o600)
    # Before the yes: a record that cannot be written keeps it from being given.
    audit.note(site.folder, "approved", {"plan": plan.sha256, "name": plan.name})
    with edited(site.folder) as document:
        policy = policy_of(document)
        if not isinstance(policy.get("approved"), Array):
            policy["approved"] = tomlkit.array().multiline(True)
        row = tomlkit.inline_table()
        row.update(given.model_dump())
        policy["approved"].append(row)
    return given


def revoke(site: Site, which: str) -> tuple[Approval, ...]:
    """Take approvals back, from the next message on.

    Args:
        site: the site.
        which: a plan's name, which takes all of that name back, or the first 8 digits or more of a hash.

    Returns:
        What was taken back.

    Raises:
        SiteError: nothing approved here is called so.
    """
    gone = _approvals(site, which)
    if not gone:
        known = ", ".join(f"{a.plan} ({a.sha256[:12]})" for a in (site.policy or Policy()).approved)
        raise SiteError(f"no plan '{which[:64]}' is approved here; approved: {known or 'none'}")
    hashes = {approval.sha256 for approval in gone}
    with edited(site.folder) as document:
        approved = policy_of(document)["approved"]
        for index in reversed(range(len(approved))):
            if approved[index].get("sha256") in hashes:
                del approved[index]
    for approval in gone:
        audit.note(site.folder, "approval revoked", {"plan": approval.sha256, "name": approval.plan})
    return gone


def _approvals(site: Site, which: str) -> tuple[Approval, ...]:
    approved = (site.policy or Policy()).approved
    of_hash = [a for a in approved if len(which) >= SHORTEST_HASH and a.sha256.startswith(which)]
    return tuple(of_hash or [a for a in approved if a.plan == which])


def _training(plan: Plan) -> Iterator[str]:
    structures = ", ".join(STRUCTURES[plan.task.kind])
    values = build(plan, seed=0)
    size = sum(parameter.numel() for parameter in values.parameters())
    yield (
        f"A network of {size:,} numbers (a 3-D U-Net, preset {plan.model.preset}) learns to outline "
        f"{plan.task.kind} ({structures}) in brain MRI; {_TRAINED[plan.adaptation.trains]}."
    )
    starts = {
        "healthy": "a model that comes with FedGlia, made from artificial scans of healthy brains",
        "glioma": "a model that comes with FedGlia, made from artificial scans with tumours",
        "scratch": "random numbers",
    }
    start = starts.get(plan.model.start, f"a model file of the coordinator's ({plan.model.start[:19]}...)")
    yield f"It starts from {start}. The coordinator's hub sends it here; models are numbers, not programs."
    if plan.alignment.method != "none":
        yield (
            f"A second, small network learns to tell {_domains(plan)} apart, so that the first becomes "
            f"less dependent on them ({plan.alignment.method})."
        )


def _duration(plan: Plan) -> Iterator[str]:
    wanted = plan.adaptation
    sides = " x ".join(map(str, wanted.patch_sides))
    yield (
        f"{_count(plan.rounds.count, 'round')}, in each {_count(wanted.local_steps, 'training step')} here; "
        f"one step looks at {wanted.batch_size} pieces of scans, {sides} voxels of "
        f"{plan.task.spacing_mm:g} mm."
    )
    if wanted.adapt_steps:
        yield f"Then {_count(wanted.adapt_steps, 'step')} for a model of this site's own."
    if plan.evaluation.local_only:
        yield "Then all of it once more without the other sites, to compare (local_only)."
    longest_s = (plan.rounds.count + _STAGES + plan.evaluation.local_only) * plan.rounds.deadline_s
    yield (
        f"In all {steps_of(plan):,} steps, on {_count(plan.threads, 'processor core')} and on a GPU if any. "
        f"The hub waits {_time(plan.rounds.deadline_s)} for each round at most, so a run that is not "
        f"interrupted is over within {_time(longest_s)}; most take far less."
    )


def _company(plan: Plan, site: Site) -> Iterator[str]:
    names = ", ".join(f"{name} (this site)" if name == site.name else name for name in plan.site_names)
    yield f"{_count(len(plan.sites), 'site')}: {names}."
    yield (
        f"A round counts if {plan.rounds.quorum} of them or more answer in time. Sites never speak to each "
        "other, only to the hub."
    )


def _leaving(plan: Plan, policy: Policy) -> Iterator[str]:
    each = _bytes_of_update(plan)
    yield (
        f"After each round: by how much training here changed the network, {_size(each)} "
        f"({plan.aggregation.codec}); {_size(_bytes_of_run(plan))} in a run of {plan.rounds.count} rounds. "
        "It goes to the hub alone. As much comes in."
    )
    yield f"Always: {ALWAYS}."
    metrics = [name for name in METRICS if name != "domain_loss" or plan.alignment.method != "none"]
    yield "Numbers that your policy lets out:"
    yield from (f"- {name}: {METRICS[name]}" for name in metrics if name in policy.metrics)
    withheld = [name for name in metrics if name not in policy.metrics]
    if withheld:
        yield "Numbers that your policy keeps here:"
        yield from (f"- {name}: {METRICS[name]}" for name in withheld)
    yield "Where something fails, a code and a number to look up in this site's own site.log; no words."
    yield "Each reply is written down in egress.jsonl before it goes: `fedglia site ledger show`."


def _staying(plan: Plan) -> Iterator[str]:
    yield (
        "Scans, labels, names of files and patients, segmentations, this site's own adapted model, "
        "and everything that the training keeps between rounds."
    )
    if plan.privacy.method == "none":
        yield (
            "An update holds no scan, but it is computed from patients' scans, and this plan makes no "
            "mathematical promise (differential privacy) about what could be worked out from it."
        )


def _verdict(plan: Plan, site: Site) -> Iterator[str]:
    policy = site.policy or Policy()
    found = refused_now(plan, site)
    for excess in found:
        yield f"REFUSED [{excess.code}]: {excess.words}."
    if found:
        yield "A run would be refused even after a yes: change the plan, or [policy] in site.toml."
    else:
        yield (
            f"Fits: rounds {plan.rounds.count} of {policy.max_rounds}; steps {steps_of(plan):,} of "
            f"{policy.max_steps:,}; sent {_size(_bytes_of_run(plan))} of {_size(policy.max_bytes)}; sites in "
            f"a round {plan.rounds.quorum}, at least {policy.minimum_sites}."
        )
    when = ", ".join(filter(None, [policy.hours or "any time of day", " ".join(policy.days)]))
    yield (
        f"Work may begin: {when}. Stopped after {policy.max_hours:g} hours of work in one run. "
        f"Memory: {policy.max_memory_gb:g} GB. GPU: {policy.gpu}."
    )
    if policy.releases:
        yield f"A run may start from {_count(len(policy.releases), 'model')} that the policy names, no other."


def _difference(plan: Plan, site: Site) -> Iterator[str]:
    before = [a for a in (site.policy or Policy()).approved if a.plan == plan.name]
    if not before:
        yield f"No plan called {plan.name} was approved here before."
        return
    last = before[-1]
    if any(approval.sha256 == plan.sha256 for approval in before):
        yield f"This very plan is approved already ({last.when[:10]})."
        return
    old = _text_of(site.folder, last.sha256)
    if old is None:
        yield f"One of this name was approved on {last.when[:10]}, and its text is not kept here any more."
        return
    yield f"Approved on {last.when[:10]} ({last.sha256[:12]}). Since then:"
    one, other = dict(_leaves(old.as_dict())), dict(_leaves(plan.as_dict()))
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            yield f"- {key}: {_value(one.get(key))} -> {_value(other.get(key))}"


def _text_of(folder: Path, sha256: str) -> Plan | None:
    try:
        plan = load(folder / FOLDER / f"{sha256}.toml")
    except PlanError:
        return None
    return plan if plan.sha256 == sha256 else None


def _bytes_of_update(plan: Plan) -> int:
    """Bytes of one round's update, at most: with a new output layer, and as many domains as sites."""
    model = build(plan, seed=0)
    try:
        names = trainable_names(model, plan.adaptation.trains, new_head=True)
    except FedGliaError as error:
        raise PlanError(f"plan {plan.name}: {error}") from None
    if plan.alignment.method != "none":
        names = (*names, *attach(model, domains=len(plan.sites), seed=0))
    parameters = dict(model.named_parameters())
    layout = wire.Layout.of({name: parameters[name] for name in names})
    return CODECS[plan.aggregation.codec].nbytes(layout.size)


def _bytes_of_run(plan: Plan) -> int:
    return plan.rounds.count * _bytes_of_update(plan)


def _leaves(part: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _domains(plan: Plan) -> str:
    return "the sites" if plan.alignment.domains == "site" else "scanners of different field strength"


def _value(value: object) -> str:
    return "not there" if value is None else audit.plain(str(value), longest=80)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _size(nbytes: int) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= one:
            return f"{nbytes / one:.1f} {unit}"
    return f"{nbytes} bytes"


def _time(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    if seconds < 120:
        return f"{math.ceil(seconds)} seconds"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _wrapped(sentence: str) -> list[str]:
    hanging = "    " if sentence.startswith("- ") else "  "
    return textwrap.wrap(sentence, _WIDTH, initial_indent="  ", subsequent_indent=hanging)
