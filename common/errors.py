"""Every error that FedGlia raises on purpose.

    FedGliaError               exit 1
    ├── InputError             exit 2   something given to us cannot be used; nothing was started
    │   ├── PlanError                   a plan file
    │   ├── DataError                   a scan, a label map, a cohort folder
    │   ├── CheckpointError             a model file
    │   └── SiteError                   a site that is missing, unknown or badly described
    ├── RunError               exit 1   a run that cannot go on
    │   ├── QuorumError                 too few sites answered in time
    │   ├── LockedError                 another process writes the same run
    │   └── StoppedError       exit 130 a person stopped the run
    └── RefusedUpdate                   one site's reply that the gate did not let in

A message says what is wrong, where (a site, a case, a key) and what to do. It may be shown to the
person at this machine. What leaves a site is `code` alone: it never holds a path, a patient or a value.
"""

from __future__ import annotations


class FedGliaError(Exception):
    """Base of all errors raised on purpose; `code` is short, stable and safe to send anywhere."""

    code = "failed"
    exit_status = 1

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class InputError(FedGliaError):
    """Something given to FedGlia cannot be used; nothing was started."""

    code = "input"
    exit_status = 2


class PlanError(InputError):
    """A plan that cannot be used; the message names the key."""

    code = "plan"


class DataError(InputError):
    """A scan, a label map or a cohort that cannot be used; the message names the case or the file."""

    code = "data"


class CheckpointError(InputError):
    """A model file that cannot be loaded into the architecture at hand."""

    code = "checkpoint"


class SiteError(InputError):
    """A site that is missing, unknown or badly described."""

    code = "site"


class RunError(FedGliaError):
    """A run that cannot go on; what had been closed is kept and can be resumed."""

    code = "run"


class QuorumError(RunError):
    """Fewer sites than the plan's quorum gave a usable update before the deadline."""

    code = "quorum"


class LockedError(RunError):
    """Another process is writing the same run or site folder."""

    code = "locked"


class StoppedError(RunError):
    """A person asked the run to stop; it can be resumed."""

    code = "stopped"
    exit_status = 130


class RefusedUpdate(FedGliaError):  # noqa: N818 - a verdict on one reply, not a failure of the run
    """One site's reply that the gate did not let into the fold; `code` is the reason."""

    code = "refused"
