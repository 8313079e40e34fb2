"""The networks: what a checkpoint's weights belong to.

unet.py         presets `nano`, `base`, `ren2024`; every one has the named children encoder, decoder, head
ren2024.py      the 50.7 M backbone of the source paper, quirks kept
convolution.py  the 3x3x3 convolution, guarded against a fault of bfloat16 on CPUs
network.py      the network that a plan asks for
domain.py       gradient reversal and the domain discriminator
shipped/        models made by `fedglia pretrain`, which have seen no patient
"""
