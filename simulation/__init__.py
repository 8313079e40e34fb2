"""The researcher: many sites on one machine.

federation  cohorts + plan -> run directory    grid      an in-process Flower Grid, sites in processes
progress    a run's events on a terminal       report    RUN/report.html: tables, charts, overlays, findings
bench/      what things cost                   cli       fedglia demo | simulate | phantom | report
"""
