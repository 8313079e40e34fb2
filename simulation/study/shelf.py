"""Prepared cases of several sites as one sequence, a bounded number of them in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import overload

from client.site import Site
from common.data.cases import Case
from common.data.transforms import PreparedCase
from common.plan import Plan

IN_MEMORY_BYTES = 2 << 30


class Shelf(Sequence[PreparedCase]):
    """Cases read from the sites' caches when asked for; those used last stay in memory.

    Args:
        cases: which, with the site of each.
        plan: fixes the working grid.
        most_bytes: of images kept in memory.
    """

    def __init__(
        self, cases: Sequence[tuple[Site, Case]], plan: Plan, *, most_bytes: int = IN_MEMORY_BYTES
    ) -> None:
        self._cases, self._plan, self._most_bytes = tuple(cases), plan, most_bytes
        self._kept: OrderedDict[int, PreparedCase] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> PreparedCase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PreparedCase]: ...
    def __getitem__(self, index: int | slice) -> PreparedCase | Sequence[PreparedCase]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index not in self._kept:
            site, case = self._cases[index]
            self._kept[index] = site.prepared(self._plan, (case,))[0]
            while len(self._kept) > 1 and self._bytes() > self._most_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]

    def _bytes(self) -> int:
        return sum(case.image.nbytes for case in self._kept.values())
