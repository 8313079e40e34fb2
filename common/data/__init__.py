"""Scans in and out.

volume      the one file that opens NIfTI        cases      Case and Cohort
brats, msd  folder layouts -> Cohort             intake     findings about a folder, in words
transforms  scan <-> working grid, augmentation  cache      prepared cases on disk
splits      by patient                           phantom/   made-up heads with known truth
"""
