"""The hub: sees weights and metrics, never voxels.

app          plan -> rounds -> release, top to bottom   rounds       one round
roster       who is there                               stages       what is asked before and after the rounds
gate         what an update must be                     aggregation  how updates are merged
run          the run directory                          registry     releases
summary      summary.json                               start        the first global model
"""
