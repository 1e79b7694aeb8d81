"""The ``triton`` kernel: products for a GPU, compiled by Triton at first use.

kernel.py is what the family sees. programs.py holds what runs on the card, segments.py the division of a
pattern's rows among programs, tiles.py the rule for how much one program does, and launch.py starts them.
Only programs.py and launch.py import triton, so that a machine without it can import this.

The activations are feature-major there: the batch of one feature lies in one piece, and a connection
loads that. Batch-major activations are transposed on the way in and out.
"""

from .kernel import TritonKernel

__all__ = ["TritonKernel"]
