"""White-matter bundles on healthy subjects and on patients (Riccardi et al., Medical Image Analysis 2025).

`settings` is what the file says, `cohorts` the heads and folders, `training` and `judging` a model's life,
`pieces` the jobs, `shift` the split of the drop into parts, `findings` the report.
"""
