"""The coordinator's desk: plans become runs, and a run is watched, stopped and gone on with."""
