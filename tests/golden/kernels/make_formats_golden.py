#!/usr/bin/env python3
"""Writes formats_gguf.txt and formats_grouped.txt: small random matrices in each weight format and the
values that they stand for. Run in a Python with gguf and numpy:

    python tests/golden/kernels/make_formats_golden.py

formats_gguf.txt, values by the `gguf` package's dequantizers. One line a matrix: NAME rows cols, the bytes
in hex, the fp32 bit patterns in hex.

formats_grouped.txt, values by the unpackers below, which were written from the formats' descriptions and
share nothing with the node: they build the whole matrix of integers with numpy's bit operations, bit by bit.
One line a matrix, `key=value` fields: type, rows, cols, group_size, scale (F16 BF16 F32), symmetric,
zero_offset, and in hex data, scales, zeros, g_idx (empty: none), values.
"""

import pathlib

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
HERE = pathlib.Path(__file__).parent


# ---- GGUF

# type, bytes of a block, values of a block, places of fp16 numbers in a block
BLOCKS = [(Q.Q4_0, 18, 32, [0]), (Q.Q4_1, 20, 32, [0, 2]), (Q.Q8_0, 34, 32, [0]), (Q.Q5_0, 22, 32, [0]),
          (Q.Q5_1, 24, 32, [0, 2]), (Q.IQ4_NL, 18, 32, [0]), (Q.Q3_K, 110, 256, [108]),
          (Q.Q4_K, 144, 256, [0, 2]), (Q.Q5_K, 176, 256, [0, 2]), (Q.Q6_K, 210, 256, [208]),
          (Q.IQ4_XS, 136, 256, [0])]


def finite_half(rng, count):
    """Any finite binary16: subnormals, zeros and both signs included."""
    bits = rng.integers(0, 0x7C00, count, dtype=np.uint16)
    return bits | (rng.integers(0, 2, count, dtype=np.uint16) << 15)


def gguf_lines(rng):
    for kind, block_bytes, values, halves in BLOCKS:
        rows, blocks = 3, 2 if values == 256 else 4
        raw = rng.integers(0, 256, (rows * blocks, block_bytes), dtype=np.uint8)
        for at in halves:
            raw[:, at:at + 2] = finite_half(rng, len(raw)).view(np.uint8).reshape(-1, 2)
        # Hostile blocks: all ones (every scale a NaN), all zeros, an infinite scale over random codes.
        raw[0] = 0xFF
        raw[1] = 0
        raw[2, halves[0]:halves[0] + 2] = (0x00, 0xFC)
        with np.errstate(all="ignore"):
            want = gguf.dequantize(raw.reshape(rows, -1), kind)
        yield f"{kind.name} {rows} {blocks * values} {raw.tobytes().hex()} {hex_of(want)}"


def hex_of(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32)
    return "".join(f"{int(b):08x}" for b in bits)


# ---- Grouped

def bits_of(words):
    """[..., n] of uint32 -> [..., 32 n] bits, the low bit of each word first."""
    shifts = np.arange(32, dtype=np.uint32)
    return ((words[..., None] >> shifts) & 1).reshape(*words.shape[:-1], -1).astype(np.int64)


def fields(words, width, count):
    """The first `count` fields of `width` bits of each row of words."""
    bits = bits_of(words)[..., :count * width].reshape(*words.shape[:-1], count, width)
    return (bits << np.arange(width)).sum(-1)


def unpack_gptq(m):
    bits, n, k = m["bits"], m["rows"], m["cols"]
    codes = fields(m["data"].T, bits, k)  # [N, K]
    groups = m["scales"].shape[0]
    if m["zeros"] is None or m["symmetric"]:
        zeros = np.full((groups, n), 2 ** (bits - 1))
    else:
        zeros = fields(m["zeros"], bits, n) + m["zero_offset"]
    return codes, zeros.T, m["scales"].T


def awq_fields(words, n):
    # Nibble i of a word is column 0 2 4 6 1 3 5 7 of its eight.
    nibbles = fields(words, 4, 8 * words.shape[-1]).reshape(*words.shape, 8)
    out = np.empty_like(nibbles)
    for i, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        out[..., column] = nibbles[..., i]
    return out.reshape(words.shape[0], -1)[:, :n]


def unpack_awq(m):
    n = m["rows"]
    codes = awq_fields(m["data"], n).T
    groups = m["scales"].shape[0]
    zeros = np.full((groups, n), 8) if m["zeros"] is None else awq_fields(m["zeros"], n)
    return codes, zeros.T, m["scales"].T


def unpack_packed(m):
    bits, n, k = m["bits"], m["rows"], m["cols"]
    offset = 2 ** (bits - 1)
    codes = fields(m["data"], bits, k) - offset  # signed, as the format means them
    groups = m["scales"].shape[1]
    zeros = np.zeros((n, groups), np.int64)
    if m["zeros"] is not None:
        zeros = fields(m["zeros"].T, bits, n).T - offset  # packed along N
    return codes, zeros, m["scales"]


def unpack_int8(m):
    return m["data"].astype(np.int64), np.zeros((m["rows"], 1), np.int64), m["scales"]


UNPACKERS = {"GPTQ4": unpack_gptq, "GPTQ8": unpack_gptq, "AWQ4": unpack_awq, "W4A16": unpack_packed,
             "W8A16": unpack_packed, "W8A8": unpack_int8}


def values_of(m):
    codes, zeros, scales = UNPACKERS[m["type"]](m)
    size = m["cols"] if m["group_size"] == -1 else m["group_size"]
    group = np.arange(m["cols"]) // size if m["g_idx"] is None else m["g_idx"]
    difference = (codes - zeros[:, group]).astype(np.float32)
    return difference * scales.astype(np.float32)[:, group]  # one rounding


def random_scales(rng, kind, shape):
    """Mostly of the usual size; some tiny, large, negative, zero or subnormal."""
    s = np.exp2(rng.uniform(-9, -5, shape))
    odd = rng.random(shape) < 0.2
    s = np.where(odd, rng.choice([0.0, -0.003, 6e-8, 1e-6, 100.0, -1e-4], shape), s)
    s = s.astype(np.float32)
    if kind == "F16":
        return s.astype(np.float16)
    if kind == "BF16":
        return (s.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return s


def scale_bytes(kind, scales):
    if kind == "BF16":
        return (np.ascontiguousarray(scales).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return np.ascontiguousarray(scales).tobytes()


def words(rng, shape):
    return rng.integers(0, 2 ** 32, shape, dtype=np.uint32)


def make(rng, kind, rows, cols, group_size, scale="F16", zeros=True, symmetric=False, zero_offset=0,
         order=None):
    bits = 8 if kind in ("GPTQ8", "W8A16", "W8A8") else 4
    per_word = 32 // bits
    up = lambda a, b: -(-a // b)
    groups = 1 if group_size == -1 else up(cols, group_size)
    m = dict(type=kind, bits=bits, rows=rows, cols=cols, group_size=group_size, scale=scale,
             symmetric=int(symmetric), zero_offset=zero_offset, zeros=None, g_idx=None)
    if kind.startswith("GPTQ"):
        m["data"] = words(rng, (up(cols, per_word), rows))
        m["scales"] = random_scales(rng, scale, (groups, rows))
        zero_shape = (groups, up(rows, per_word))
    elif kind == "AWQ4":
        m["data"] = words(rng, (cols, up(rows, 8)))
        m["scales"] = random_scales(rng, scale, (groups, rows))
        zero_shape = (groups, up(rows, 8))
    elif kind == "W8A8":
        m["data"] = rng.integers(-128, 128, (rows, cols), dtype=np.int8)
        m["scales"] = random_scales(rng, scale, (rows, 1))
    else:
        m["data"] = words(rng, (rows, up(cols, per_word)))
        m["scales"] = random_scales(rng, scale, (rows, groups))
        zero_shape = (up(rows, per_word), groups)
    if zeros and kind != "W8A8":
        m["zeros"] = words(rng, zero_shape)
        if symmetric:  # as a v1 file writes 2^(bits - 1)
            m["zeros"][:] = 0x77777777 if bits == 4 else 0x7F7F7F7F
    natural = np.arange(cols) // (cols if group_size == -1 else group_size)
    if order == "natural":
        m["g_idx"] = natural.astype(np.int32)
    elif order == "shuffled":
        m["g_idx"] = rng.permutation(natural).astype(np.int32)
    elif order == "uneven":  # any group for any column, one group empty
        m["g_idx"] = rng.choice([g for g in range(groups) if g != 1], cols).astype(np.int32)
    return m


def grouped_cases(rng):
    for kind in ("GPTQ4", "GPTQ8"):
        yield make(rng, kind, 16, 64, 32, zeros=True, zero_offset=1)
        yield make(rng, kind, 24, 64, 32, zeros=True, zero_offset=0)
        yield make(rng, kind, 16, 96, 64, symmetric=True, zero_offset=1)
        yield make(rng, kind, 16, 64, -1, scale="BF16", zero_offset=1)
        yield make(rng, kind, 16, 96, 32, scale="F32", zero_offset=1)
        yield make(rng, kind, 16, 96, 32, order="natural", zero_offset=1)
        yield make(rng, kind, 16, 96, 32, order="shuffled", zero_offset=1)
        yield make(rng, kind, 16, 96, 32, order="shuffled", symmetric=True, zero_offset=1)
        yield make(rng, kind, 8, 96, 32, order="uneven")
        yield make(rng, kind, 8, 96, 16)
        yield make(rng, kind, 8, 104, 48)
        yield make(rng, kind, 12, 64, 1024, zeros=False)
    yield make(rng, "AWQ4", 16, 64, 32)
    yield make(rng, "AWQ4", 24, 96, 64)
    yield make(rng, "AWQ4", 16, 64, -1, scale="BF16")
    yield make(rng, "AWQ4", 16, 64, 32, zeros=False)
    for kind in ("W4A16", "W8A16"):
        yield make(rng, kind, 16, 64, 32)
        yield make(rng, kind, 17, 96, 32, scale="BF16")
        yield make(rng, kind, 13, 96, 64, zeros=False)
        yield make(rng, kind, 16, 64, -1, zeros=False, scale="F32")
        yield make(rng, kind, 11, 96, 32, order="shuffled")
        yield make(rng, kind, 5, 37, 16, zeros=False)
    yield make(rng, "W8A8", 17, 64, -1)
    yield make(rng, "W8A8", 5, 37, -1, scale="F32")
    yield make(rng, "W8A8", 16, 96, -1, scale="BF16")
    # A short last group, which GPTQ's packers write: 160 = 64 + 64 + 32, 576 = 4 * 128 + 64.
    for kind in ("GPTQ4", "GPTQ8"):
        for order in (None, "natural", "shuffled"):
            for zero_offset in (1, 0):  # v1, v2
                yield make(rng, kind, 8, 160, 64, order=order, zero_offset=zero_offset)
        yield make(rng, kind, 8, 168, 64, order="shuffled", symmetric=True, zero_offset=1)
    yield make(rng, "GPTQ4", 8, 576, 128, order="shuffled", zero_offset=1)


def grouped_lines(rng):
    for m in grouped_cases(rng):
        shown = {key: m[key] for key in ("type", "rows", "cols", "group_size", "scale", "symmetric",
                                         "zero_offset")}
        shown["data"] = m["data"].tobytes().hex()
        shown["scales"] = scale_bytes(m["scale"], m["scales"]).hex()
        shown["zeros"] = "" if m["zeros"] is None else m["zeros"].tobytes().hex()
        shown["g_idx"] = "" if m["g_idx"] is None else m["g_idx"].tobytes().hex()
        shown["values"] = hex_of(values_of(m))
        yield " ".join(f"{key}={value}" for key, value in shown.items())


def main():
    rng = np.random.default_rng(4)
    (HERE / "formats_gguf.txt").write_text("\n".join(gguf_lines(rng)) + "\n")
    (HERE / "formats_grouped.txt").write_text("\n".join(grouped_lines(rng)) + "\n")


if __name__ == "__main__":
    main()
