"""The researcher: many sites on one machine.

grid        an in-process Flower Grid            federation   cohorts + plan -> run
demo, degradation and phantom sites by plan      report       summary.json -> report.html
cli         fedglia simulate | demo | phantom | report
"""
