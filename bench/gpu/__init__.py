"""What the layer does on a GPU, in one run that is bounded in time: ``python -m bench.gpu``."""
