"""The doctor: looks at everything a site needs, says what is wrong in words, and the command that mends it.

findings      what a check says
contact       one conversation with the hub, which several checks look at
subject       what the checks look at: the site, opened, and that conversation
installation  Python, packages, programs
machine       memory, GPU, disk
folder        the site's own files, policy and records
network       name, proxy, TLS, clock, versions, admission
running       the two processes
scans         the data folder, and one real training step
table         all checks, in the order in which they are made
"""
