"""Codes and outcomes in words, each with what somebody can do about it; a code is all that a site sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """What a code means, and what to do; `remedy` is empty where nothing need be done."""

    sentence: str
    remedy: str = ""


_SITE_LOG = "the site's own site.log has the words"
_DATA = Word("its scans cannot be used as they are", "ask the site to run: fedglia site check")
_DATA_CODES = (
    *("ambiguous", "cohort", "constant", "damaged", "data", "dimensions", "folds", "geometry", "grid"),
    *("label-codes", "label-fractional", "missing", "no-case", "no-label", "not-a-file", "not-nifti"),
    *("too-few", "too-large", "too-many", "unreachable", "voxel-type"),
)
_FOREIGN = Word("its update is not what was asked for", "compare the versions of hub and site")
_VERSION = Word("hub and site do not speak the same version", "bring both to one version of FedGlia")
_CAP = "agree on a smaller plan, or ask the site to raise that cap in its site.toml"

WORDS: Mapping[str, Word] = {
    # between hub and site
    "offline": Word("it is not connected", "ask the site: fedglia site status"),
    "absent": Word("it was not there when the round was opened", "ask the site: fedglia site status"),
    "deadline": Word("it did not answer by the deadline", "a longer rounds.deadline_s, or fewer local_steps"),
    "expired": Word("it got the question after the deadline", "see its clock: fedglia site check"),
    "not-sent": Word("the hub could not send it the question", "fedglia hub status"),
    "keeps-failing": Word("it lost the question each time it was sent", "ask the site: fedglia site status"),
    "worker-died": Word("its working process was killed, perhaps for want of memory", "see its site.log"),
    "flower-2": Word("its process failed outside FedGlia's own border", _SITE_LOG),
    "flower-3": Word("the message or its answer was no longer to be had"),
    "flower-4": Word("its answer came after its time to live"),
    "flower-8": Word("its working process died", "ask the site: fedglia site status"),
    # who it is
    "identity": Word(
        "it says another name than its key was admitted under", "admit it again by its join file"
    ),
    "unknown-site": Word("it says a name that the plan does not have"),
    "no-domain": Word("its cohort.toml declares no field strength, which this plan tells domains by"),
    "unknown-domain": Word("its scans belong to a domain that this run did not begin with"),
    # its guard
    "unapproved": Word(
        "its hospital has not approved this plan", "send it the plan: fedglia site approve PLAN"
    ),
    "bundle": Word("it was offered another bundle than its own version makes", _VERSION.remedy),
    "not-planned": Word("it was asked for what the plan does not hold", _VERSION.remedy),
    "cap-rounds": Word("more rounds than its hospital allows", _CAP),
    "cap-steps": Word("more training steps than its hospital allows", _CAP),
    "cap-bytes": Word("more bytes sent than its hospital allows", _CAP),
    "cap-hours": Word("more hours of work than its hospital allows", _CAP),
    "cap-runs": Word("more runs of this plan than its hospital allows", _CAP),
    "minimum-sites": Word("the quorum is below the number of sites that it asks for", "raise rounds.quorum"),
    "release": Word("the first model is not one that its hospital allows", "agree on the model"),
    "hours": Word("outside the hours in which its hospital lets it work", "resume the run in those hours"),
    "policy": Word("its site.toml cannot be used", "ask the site: fedglia site check"),
    "gpu": Word("its hospital forbids the GPU that its process uses", "ask the site to restart"),
    "ledger": Word("a record of its own is damaged or was changed", _SITE_LOG),
    "unknown-type": _VERSION,
    "schema": _VERSION,
    # its work
    "diverged": Word("training diverged there", "a smaller adaptation.learning_rate"),
    "no-start": Word("it never received the first model", "it gets it before the next round"),
    "start": Word("it was given another first model than the one named", "resume the run"),
    "disk": Word("its disk is full or cannot be written", "ask the site: fedglia site check"),
    "internal": Word("an error that nobody foresaw", _SITE_LOG),
    "locked": Word(
        "another process of the site is at work in its folder", "ask the site: fedglia site status"
    ),
    "site": Word("its site.toml describes no usable site", "ask the site: fedglia site check"),
    "plan": Word("it does not know a key of this plan", "bring both to one version of FedGlia"),
    **dict.fromkeys(_DATA_CODES, _DATA),
    # the hub's gate
    "norm": Word("its update is far longer than the others of that round", "look at its loss and its data"),
    "not-finite": Word("its update holds NaN or infinity", "a smaller adaptation.learning_rate"),
    "duplicate": Word("a second answer to the same round"),
    "malformed": Word("its answer lacks a part, or has one that is not what it should be", _VERSION.remedy),
    "weight": Word("it claims more patients than it declared", "ask the site: fedglia site status"),
    "round": Word("it answered another round"),
    **dict.fromkeys(("names", "shape", "dtype", "size", "codec"), _FOREIGN),
    # the coordinator
    "not-admitted": Word("no key of this name was admitted", "fedglia hub admit JOIN_FILE"),
    "revoked": Word("it was revoked", "a new key of it can be admitted: fedglia hub admit JOIN_FILE"),
    "hub-down": Word("the hub does not run, and cannot say who is connected", "fedglia hub start"),
    "never-connected": Word("it was admitted and has never connected", "ask the site: fedglia site start"),
}

STATES: Mapping[str, str] = {
    "not admitted": "the plan names it; the hub has no key of it",
    "revoked": "the hub refuses its key",
    "admitted": "the hub has its key; nobody has seen it yet",
    "connected": "it is there; the run has not heard yet what it has",
    "configured": "it said what it has, and waits for its turn",
    "training": "it works on the open question",
    "judging": "it judges a model on its own test cases",
    "answered": "its answer of the open round came",
    "late": "it did not answer in time",
    "refused": "it refused, or its answer was refused",
    "lost": "the question or its answer was lost",
    "absent": "it is not connected",
}
"""Every state of a site in a run."""

RUN_STATES: Mapping[str, str] = {
    "queued": "Flower has not started it yet",
    "meeting sites": "waits for the sites to say what they have",
    "running": "a round or a stage is under way",
    "completed": "all rounds are closed and the model is released",
    "failed": "it could not go on; it can be resumed",
    "stopped": "a person, or the hub's own stop, ended it; it can be resumed",
    "interrupted": "its process died; it can be resumed",
}
"""Every state of a run."""

NO_WAY_ON = (
    "the models of its closed rounds are not in this hub, as after a restore from a backup without runs; it "
    "cannot be resumed, start a new run: fedglia rounds start PLAN"
)

STAGE_WORDS: Mapping[str, str] = {
    "before": "judging the first model",
    "federated": "judging the global model",
    "adapted": "fine-tuning at each site",
    "local_only": "training each site alone, for comparison",
}


def explain(code: str) -> Word:
    """A code in words; one that is not known is shown as it is, as the site may be newer."""
    return WORDS.get(code) or Word(f"code '{code}'", _SITE_LOG)


def duration(seconds: float) -> str:
    """A duration as people say it: 45 s, 12 min, 3 h 20 min."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Bytes as people say them."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
