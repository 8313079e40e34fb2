"""A physics-based digital phantom of glioma MRI: what a site's scans look like, without a patient.

    fields.py       smooth random fields, interpolation, Jacobian determinants
    anatomy.py      whose brain: MNI152 tissue maps (or an analytic head), warped per subject
    tissue.py       relaxation times and signal equations
    tumour.py       NCR, ED and ET, and the mass effect, for a phenotype
    nuisance.py     what is bright and no tumour: vessels, meninges, choroid plexus, gliosis
    sampling.py     slices, resolution, Rician noise
    acquisition.py  one scanner's protocol and faults; the same faults put on real scans
    sites.py        the sites' profiles, and one case of a site
    writer.py       a cohort of cases as a BraTS 2023 folder
    bundles.py      white-matter bundles as tubes, displaced and interrupted
    diffusion.py    a map like FA and one like the largest fibre orientation
    bundle_head.py  a head with bundles, as a folder of TractSeg's kind

Randomness is drawn into a parameters object first and applied afterwards. A phantom shows that the
machinery works and in which direction a domain shift goes; it is no evidence of clinical performance.
"""
