"""Run every benchmark: `python -m simulation.bench`."""

from simulation.bench import learning, rounds

rounds.report()
learning.report()
