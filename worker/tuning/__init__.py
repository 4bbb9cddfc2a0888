"""Finding out by measurement what suits a machine and a model: the cores' arrangement, and whether scaled decoding agrees."""
