"""Run every benchmark: `python -m simulation.bench`."""

from simulation.bench import deployed, learning, rounds

rounds.report()
deployed.report()
learning.report()
