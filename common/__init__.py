"""What hub and sites must agree on.

errors        the error tree          plan        what a federation is to do
wire, codec   what travels            checkpoint  model files
files         atomic writes, logs     processes   what keeps services running, and stops them
metrics       Dice, HD95, ASD, NSD    data/       scans in and out, cohorts, splits, phantom
models/       the 3-D U-Net           learning/   one training loop and what surrounds it
"""
