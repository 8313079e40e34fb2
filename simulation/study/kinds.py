"""Which code carries out which kind of study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulation.study.bundle_shift import pieces as bundle_shift
from simulation.study.bundle_shift.findings import page as bundle_shift_page
from simulation.study.bundle_shift.settings import BundleShift
from simulation.study.jobs import Job
from simulation.study.page import Page, Results
from simulation.study.site_transfer import pieces as site_transfer
from simulation.study.site_transfer.findings import page as site_transfer_page
from simulation.study.site_transfer.settings import SiteTransfer
from simulation.study.spec import Data, Study
from simulation.study.task_transfer import pieces as task_transfer
from simulation.study.task_transfer.findings import page as task_transfer_page
from simulation.study.task_transfer.settings import TaskTransfer


@dataclass(frozen=True)
class Kind:
    """One kind of study.

    Attributes:
        study: what its file says.
        check: refuses (InputError) what cannot work, before anything is made; reads labels, trains nothing.
        jobs: the pieces, in the order in which their rows stand in results.csv.
        page: what the report says.
    """

    study: type[Study]
    check: Callable[[Any, Data], None]
    jobs: Callable[[Any, Data], list[Job]]
    page: Callable[[Results], Page]


KINDS: Mapping[str, Kind] = {
    "bundle-shift": Kind(BundleShift, bundle_shift.check, bundle_shift.jobs, bundle_shift_page),
    "site-transfer": Kind(SiteTransfer, site_transfer.check, site_transfer.jobs, site_transfer_page),
    "task-transfer": Kind(TaskTransfer, task_transfer.check, task_transfer.jobs, task_transfer_page),
}
