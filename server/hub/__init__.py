"""The hub as a machine: its folder, its three processes, who may join.

folder.py      what is in HUB, how a command finds it, the services
making.py      `hub init`; certificates made anew; what is derived from hub.toml
edge.py        nginx: what passes from outside, and what it is told otherwise
running.py     checks before the start, start and stop, waiting until sites can connect
control.py     Flower's side for the coordinator: runs, registered sites
admissions.py  join files, admitting, revoking; edge and SuperLink agree with admissions.json
standing.py    what `hub status` says
backup.py      one file with all that cannot be made again
"""
