#!/usr/bin/env python3
"""Writes dequant.txt: random blocks of each weight format and the values that the `gguf` package's
dequantizers (the format's own project) make of them. Run in a Python with gguf and numpy:

    python tests/golden/kernels/make_dequant_golden.py

One line a matrix: NAME rows cols, the bytes in hex, the fp32 bit patterns in hex.
"""

import pathlib

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
CASES = [(Q.Q4_0, 18, 32, (3, 64)), (Q.Q4_1, 20, 32, (3, 64)), (Q.Q8_0, 34, 32, (3, 64)),
         (Q.F16, 2, 1, (2, 37)), (Q.BF16, 2, 1, (2, 37)), (Q.F32, 4, 1, (2, 37))]


def finite_half(rng, count):
    """Any finite binary16: subnormals, zeros and both signs included."""
    bits = rng.integers(0, 0x7C00, count, dtype=np.uint16)
    return bits | (rng.integers(0, 2, count, dtype=np.uint16) << 15)


def main():
    rng = np.random.default_rng(20)
    lines = []
    for kind, block_bytes, values, (rows, cols) in CASES:
        blocks = rows * cols // values
        raw = rng.integers(0, 256, (blocks, block_bytes), dtype=np.uint8)
        if kind in (Q.Q4_0, Q.Q4_1, Q.Q8_0, Q.F16):
            raw[:, 0:2] = finite_half(rng, blocks).view(np.uint8).reshape(blocks, 2)
        if kind == Q.Q4_1:
            raw[:, 2:4] = finite_half(rng, blocks).view(np.uint8).reshape(blocks, 2)
        if kind == Q.BF16:
            raw[:, 1] &= 0xBF  # no infinities and NaNs
        if kind == Q.F32:
            raw[:] = rng.standard_normal(blocks).astype(np.float32).view(np.uint8).reshape(blocks, 4)
        if kind == Q.F32:
            want = raw.view(np.float32)
        else:
            want = gguf.dequantize(raw.reshape(rows, -1), kind)
        want = np.ascontiguousarray(want, dtype=np.float32).reshape(rows * cols)
        bits = want.view(np.uint32)
        lines.append(f"{kind.name} {rows} {cols} {raw.tobytes().hex()} "
                     + "".join(f"{int(b):08x}" for b in bits))
    path = pathlib.Path(__file__).with_name("dequant.txt")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
