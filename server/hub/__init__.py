"""The hub's machine: its folder, its keys, its edge, and who is admitted."""
