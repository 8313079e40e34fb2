"""Scans in and out.

volume       the one file that opens NIfTI          header, stream  the gate in front of it
cases        Case and Cohort                        brats, msd      folder layouts -> Cohort
declaration  cohort.toml                            intake          any folder -> Cohort; findings
transforms   scan -> prepared case -> label map     geometry        scan's grid <-> working grid
cache        prepared cases on disk                 sampling        patches for a training step
splits       by patient                             phantom/        made-up heads with known truth
"""
