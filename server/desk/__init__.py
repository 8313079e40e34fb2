"""The coordinator's desk: start rounds, see where they stand, stop and resume them."""
