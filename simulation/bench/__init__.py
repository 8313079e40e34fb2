"""What things cost, measured in one run: `make bench`.

rounds    the round engine without training, for few and for many sites
learning  Dice against CPU-seconds of training, for several networks on the same batches
"""
