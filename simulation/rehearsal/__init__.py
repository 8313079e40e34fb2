"""A whole federation of real processes on one machine, and the faults it must survive."""
