"""Names of the messages between hub and site: what a site is asked for, and the record of a no.

Apart from `common.wire`, which needs PyTorch and Flower, so that a command that only shows how things stand
starts at once.
"""

from __future__ import annotations

HELLO = "query.hello"
RECEIVE = "query.receive"
ROUND = "train.round"
ADAPT = "train.adapt"
ALONE = "train.alone"
EVALUATE = "evaluate.model"

REFUSAL = "refusal"
