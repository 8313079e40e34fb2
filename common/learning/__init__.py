"""How a network learns and predicts: one loop for pretraining, centralised baselines and sites.

losses.py        name -> loss on logits and labels
loop.py          the training loop, the FedProx penalty, optimiser state as named tensors
finetuning.py    which parameters an adaptation trains
augmentation.py  random changes of a batch, seeded per step
inference.py     scan -> probabilities -> label map in the scan's own grid
evaluation.py    a case judged: the model's label map against the expert's
phantoms.py      phantom cases made ahead in another process
pretraining.py   the first global model, from those cases
released.py      a model file ready for use
"""
