"""Compiles every Triton program for a card that need not be there, and says as JSON what came out.

Run by test_triton.py in a process of its own, where nothing is interpreted.
"""

from __future__ import annotations

import json
import sys

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparselinear.kernels.triton import launch, programs
from sparselinear.kernels.triton.tiles import Tile, tile

# Of activations, and of their sums.
TYPES = {
    "fp32": (torch.float32, tl.float32),
    "fp64": (torch.float64, tl.float64),
    "bf16": (torch.bfloat16, tl.float32),
    "fp16": (torch.float16, tl.float32),
}
ACTIVATIONS = {"values", "input", "bias", "output", "grad_output", "grad_input", "grad_values", "parts"}
NUMBERS = {"count", "batch", "stretch"}
BRANCHES = {
    "spmm": [{"PERMUTED": False, "BIASED": True}, {"PERMUTED": True, "BIASED": False}],
    "backward": [{"ADDING": False}, {"ADDING": True}],
    "sddmm": [{}],
}


def compiled(name: str, dtype: str, index: str, capability: int, constants: dict[str, object]) -> str:
    """PTX of a program; Triton has the assembler of the card read it too, so this fails where that does."""
    program = getattr(programs, name)
    sums = "fp64" if dtype == "fp64" else "fp32"
    signature, attributes = {}, {}
    for place, argument in enumerate(program.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in NUMBERS:
            signature[argument] = "i32"
        else:
            activation = sums if argument == "parts" else dtype
            signature[argument] = "*" + (activation if argument in ACTIVATIONS else index)
        if argument == "batch" or signature[argument].startswith("*"):
            attributes[(place,)] = [["tt.divisibility", 16]]  # as of memory that torch gives out
    places = {(program.arg_names.index(key),): value for key, value in constants.items()}
    source = ASTSource(fn=program, signature=signature, constexprs=places, attrs=attributes)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.COMPILATION)
    return str(done.asm["ptx"])


def of_tile(size: Tile, sums: object, even: bool) -> dict[str, object]:
    names = {"ROWS": size.rows, "LANES": size.lanes, "WIDTH": size.width}
    return {**names, "EVEN": even, "SUM": sums, "OFFSET": tl.int32}


def main(capability: int) -> None:
    found = []
    for dtype, (of_torch, sums) in TYPES.items():
        for batch in (64, 1):
            size = tile(20, 4096, batch, of_torch, torch.device("cpu"))
            for name, branches in BRANCHES.items():
                for branch in branches:
                    constants = {**branch, **of_tile(size, sums, even=True)}
                    ptx = compiled(name, dtype, "i32", capability, constants)
                    found.append({"program": name, "dtype": dtype, "batch": batch, "ptx": ptx})
    wide = {**of_tile(Tile(4, 8, 64), tl.float32, even=False), "OFFSET": tl.int64}
    for name, branches in BRANCHES.items():
        ptx = compiled(name, "fp32", "i64", capability, {**branches[0], **wide})
        found.append({"program": name, "dtype": "fp32", "batch": 0, "ptx": ptx})
    constants = {"BIASED": True, "OFFSET": tl.int32, "SUM": tl.float32, "WIDTH": 128}
    ptx = compiled("combine", "bf16", "i32", capability, constants)
    found.append({"program": "combine", "dtype": "bf16", "batch": 0, "ptx": ptx})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
