"""Studies: approaches x folds from one TOML file to one table with honest statistics.

`spec` reads a study file, `kinds` says which code carries out which kind of study, `jobs` runs the pieces
in worker processes and goes on where a killed study stopped, `results` is the table, `statistics` compares
approaches, `report` writes the pages. `cli` is `fedglia study`.
"""
