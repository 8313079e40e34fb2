"""One site: everything that touches a patient's scan in production.

app         ClientApp: message in, message out      adaptation  weights + plan -> update + numbers
site        this site: site.toml, cohort, split     state       what stays here between rounds
"""
