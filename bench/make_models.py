#!/usr/bin/env python3
"""Model files of real shapes with random weights, for speed comparisons: every program can load them.

    ./dev bench peers calls it; by hand: PYTHON bench/make_models.py NAME... [--out DIR] [--tokenizer DEMO.gguf]

NAME is SHAPE-FORMAT: llama-1b (Llama-3.2-1B) or qwen-0.5b (Qwen2.5-0.5B); q4_0, q4_k_m, q8_0, or gptq (a Hugging
Face directory, 4 bits, groups of 128, symmetric, no act-order). Prints a path a line; what is there already is not
made again. PYTHON needs tools/requirements-bench.txt.

Nothing is quantized: codes are uniformly random and scales such that weights have a standard deviation of about
0.02 and a mean near 0, which keeps logits finite. The mix of types is what llama.cpp's quantizer would choose: Q6_K
for the (tied) head and, in Q4_K_M, for attn_v and ffn_down of some layers; where rows are no multiple of 256, Q5_0
for Q4_K and Q8_0 for Q6_K. The tokenizer is the demo model's, filled up with unused tokens.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter

VERSION = 1  # of the files: part of their names
SPREAD = 0.02  # standard deviation of a weight


@dataclasses.dataclass(frozen=True)
class Shape:
    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int
    theta: float
    bias: bool = False  # of q, k and v
    llama3_rope: bool = False
    head_dim: int = 64

    def layer_tensors(self):
        """GGUF name -> (rows, columns)."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"attn_q": (q, self.hidden), "attn_k": (kv, self.hidden), "attn_v": (kv, self.hidden),
                "attn_output": (self.hidden, q), "ffn_gate": (self.ffn, self.hidden), "ffn_up": (self.ffn, self.hidden),
                "ffn_down": (self.hidden, self.ffn)}


SHAPES = {
    "llama-1b": Shape("llama", 16, 2048, 32, 8, 8192, 128256, 131072, 500000.0, llama3_rope=True),
    "qwen-0.5b": Shape("qwen2", 24, 896, 14, 2, 4864, 151936, 32768, 1000000.0, bias=True),
}
FORMATS = ("q4_0", "q4_k_m", "q8_0", "gptq")
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}  # general.file_type, gguf.LlamaFileType
HF_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj"}


def half_bytes(values) -> np.ndarray:
    """[n] -> [n, 2] bytes of fp16."""
    return np.asarray(values, np.float16).view(np.uint8).reshape(-1, 2)


def random_bytes(random, rows: int, count: int) -> np.ndarray:
    return np.frombuffer(random.bytes(rows * count), np.uint8).reshape(rows, count)


def scales(random, blocks: int, spread_of_codes: float) -> np.ndarray:
    """fp16 scales around SPREAD / spread_of_codes, within 10 %: [blocks, 2] bytes."""
    return half_bytes(SPREAD / spread_of_codes * (0.9 + 0.2 * random.random(blocks, np.float32)))


def q4_k(random, blocks: int) -> np.ndarray:
    """d, dmin, 12 bytes of 6-bit scales and minima, 128 of codes. With minimum = scale and dmin = 7.5 d the mean is 0."""
    sub = random.integers(16, 32, (blocks, 8), np.uint8)
    packed = np.empty((blocks, 12), np.uint8)  # bit layout of ggml's block_q4_K, with scales equal to minima
    packed[:, 0:4] = packed[:, 4:8] = sub[:, :4] | (sub[:, 4:] >> 4 << 6)
    packed[:, 8:12] = (sub[:, 4:] & 15) | (sub[:, 4:] & 15) << 4
    d = np.full(blocks, SPREAD / (23.5 * 4.61), np.float32)
    return np.hstack([half_bytes(d), half_bytes(7.5 * d), packed, random_bytes(random, blocks, 128)])


def q6_k(random, blocks: int) -> np.ndarray:
    """128 + 64 bytes of codes, 16 of int8 scales, d."""
    sub = random.integers(4, 13, (blocks, 16), np.uint8)
    d = np.full(blocks, SPREAD / (8 * 18.5), np.float32)
    return np.hstack([random_bytes(random, blocks, 192), sub, half_bytes(d)])


# Type -> (values of a block, its bytes from a generator). Spreads are those of uniform codes: sqrt((levels^2 - 1) / 12).
BLOCKS = {
    Type.Q4_0: (32, lambda r, n: np.hstack([scales(r, n, 4.61), random_bytes(r, n, 16)])),
    Type.Q5_0: (32, lambda r, n: np.hstack([scales(r, n, 9.23), random_bytes(r, n, 20)])),
    Type.Q8_0: (32, lambda r, n: np.hstack([scales(r, n, 73.9), random_bytes(r, n, 32)])),
    Type.Q4_K: (256, q4_k),
    Type.Q6_K: (256, q6_k),
}


def more_bits(layer: int, layers: int) -> bool:
    """The layers where Q4_K_M spends Q6_K on attn_v and ffn_down: the first and last eighth and a third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensor_type(form: str, name: str, layer: int, shape: Shape, columns: int) -> Type:
    if form == "q8_0":
        return Type.Q8_0
    if name == "token_embd":
        wanted = Type.Q6_K
    elif form == "q4_0":
        wanted = Type.Q4_0
    else:
        wanted = Type.Q6_K if name in ("attn_v", "ffn_down") and more_bits(layer, shape.layers) else Type.Q4_K
    if columns % 256 and wanted in (Type.Q4_K, Type.Q6_K):
        return Type.Q5_0 if wanted == Type.Q4_K else Type.Q8_0
    return wanted


def matrix(random, kind: Type, rows: int, columns: int) -> np.ndarray:
    values, make = BLOCKS[kind]
    return make(random, rows * columns // values).reshape(rows, -1)


def read_tokenizer(path: str) -> dict:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items() if key.startswith("tokenizer.")}


def filled_up(tokenizer: dict, vocab: int):
    tokens, types = list(tokenizer["tokenizer.ggml.tokens"]), list(tokenizer["tokenizer.ggml.token_type"])
    for i in range(len(tokens), vocab):
        tokens.append(f"[PAD{i}]")
        types.append(5)  # unused
    return tokens[:vocab], types[:vocab]


def llama3_factors(shape: Shape) -> np.ndarray:
    """rope_freqs of Llama 3.2: factor 32, low 1, high 4, 8192 positions (its config.json's rope_scaling)."""
    wave = 2 * np.pi * shape.theta ** (np.arange(0, shape.head_dim, 2) / shape.head_dim)
    smooth = np.clip((8192 / wave - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)


def write_gguf(path: pathlib.Path, shape: Shape, form: str, tokenizer: dict) -> None:
    random = np.random.Generator(np.random.SFC64(1))
    w = GGUFWriter(path, shape.arch)
    w.add_name(path.stem)
    w.add_file_type(FILE_TYPES[form])
    w.add_block_count(shape.layers)
    w.add_context_length(shape.context)
    w.add_embedding_length(shape.hidden)
    w.add_feed_forward_length(shape.ffn)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.kv_heads)
    w.add_rope_dimension_count(shape.head_dim)
    w.add_rope_freq_base(shape.theta)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(shape.vocab)
    w.add_quantization_version(2)
    tokens, types = filled_up(tokenizer, shape.vocab)
    w.add_tokenizer_model(tokenizer["tokenizer.ggml.model"])
    w.add_tokenizer_pre(tokenizer["tokenizer.ggml.pre"])
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(tokenizer["tokenizer.ggml.merges"])
    w.add_bos_token_id(tokenizer["tokenizer.ggml.bos_token_id"])
    w.add_eos_token_id(tokenizer["tokenizer.ggml.eos_token_id"])
    w.add_add_bos_token(False)
    w.add_chat_template(tokenizer["tokenizer.chat_template"])

    def add(name, key, layer, rows, columns):
        kind = tensor_type(form, key, layer, shape, columns)
        w.add_tensor(name, matrix(random, kind, rows, columns), raw_dtype=kind)

    add("token_embd.weight", "token_embd", 0, shape.vocab, shape.hidden)
    if shape.llama3_rope:
        w.add_tensor("rope_freqs.weight", llama3_factors(shape))
    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(shape.hidden, np.float32))
        for key, (rows, columns) in shape.layer_tensors().items():
            add(f"blk.{layer}.{key}.weight", key, layer, rows, columns)
            if shape.bias and key in ("attn_q", "attn_k", "attn_v"):
                w.add_tensor(f"blk.{layer}.{key}.bias", SPREAD * random.standard_normal(rows, np.float32))
    w.add_tensor("output_norm.weight", np.ones(shape.hidden, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gptq_tensors(shape: Shape):
    """(name, array) of the checkpoint, made one at a time: AutoGPTQ's layout, whose stored zero points are one less."""
    random = np.random.Generator(np.random.SFC64(2))
    embedding = (SPREAD * random.standard_normal((shape.vocab, shape.hidden), np.float32)).astype(np.float16)
    yield "model.embed_tokens.weight", embedding
    yield "model.norm.weight", np.ones(shape.hidden, np.float16)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{norm}.weight", np.ones(shape.hidden, np.float16)
        for key, (rows, columns) in shape.layer_tensors().items():
            name = prefix + HF_NAMES[key]
            groups = columns // 128
            yield name + ".qweight", np.frombuffer(random.bytes(columns * rows // 2), np.int32).reshape(columns // 8, rows)
            yield name + ".qzeros", np.full((groups, rows // 8), 0x77777777, np.int32)
            yield name + ".scales", scales(random, groups * rows, 4.61).view(np.float16).reshape(groups, rows)
            yield name + ".g_idx", (np.arange(columns) // 128).astype(np.int32)
            if shape.bias and key in ("attn_q", "attn_k", "attn_v"):
                yield name + ".bias", (SPREAD * random.standard_normal(rows, np.float32)).astype(np.float16)


def hf_tokenizer(tokenizer: dict, vocab: int) -> dict:
    tokens, types = filled_up(tokenizer, vocab)
    merges = tokenizer["tokenizer.ggml.merges"]
    added = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, (t, kind) in enumerate(zip(tokens, types)) if kind == 3]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    split = dict(type="Sequence", pretokenizers=[dict(type="Digits", individual_digits=True), level])
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                 fuse_unk=False, byte_fallback=False, ignore_merges=False,
                 vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None, pre_tokenizer=split,
                post_processor=None, decoder=level, model=model)


def hf_config(shape: Shape, tokenizer: dict) -> dict:
    config = dict(architectures=["LlamaForCausalLM" if shape.arch == "llama" else "Qwen2ForCausalLM"],
                  model_type=shape.arch, hidden_size=shape.hidden, intermediate_size=shape.ffn,
                  num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
                  head_dim=shape.head_dim, vocab_size=shape.vocab, max_position_embeddings=shape.context,
                  rope_theta=shape.theta, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=True,
                  torch_dtype="float16", bos_token_id=tokenizer["tokenizer.ggml.bos_token_id"],
                  eos_token_id=tokenizer["tokenizer.ggml.eos_token_id"],
                  quantization_config=dict(quant_method="gptq", bits=4, group_size=128, desc_act=False, sym=True))
    if shape.llama3_rope:
        config["rope_scaling"] = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                      original_max_position_embeddings=8192)
    if shape.arch == "qwen2":
        del config["head_dim"]  # a key that Qwen2's configuration does not have
    return config


def write_gptq(path: pathlib.Path, shape: Shape, tokenizer: dict) -> None:
    path.mkdir()
    names = {np.dtype(np.float16): "F16", np.dtype(np.int32): "I32"}
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, array in gptq_tensors(shape):  # once for the sizes, once for the bytes: less memory, and fast
        header[name] = dict(dtype=names[array.dtype], shape=list(array.shape), data_offsets=[begin, begin + array.nbytes])
        begin += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in gptq_tensors(shape):
            file.write(np.ascontiguousarray(array))
    texts = {"config.json": hf_config(shape, tokenizer), "tokenizer.json": hf_tokenizer(tokenizer, shape.vocab),
             "tokenizer_config.json": dict(eos_token="<|im_end|>", bos_token="<|im_start|>",
                                           chat_template=tokenizer["tokenizer.chat_template"])}
    for name, value in texts.items():
        (path / name).write_text(json.dumps(value), encoding="utf-8")


def make(name: str, out: pathlib.Path, demo: str) -> pathlib.Path:
    shape_name, _, form = name.rpartition("-")
    if shape_name not in SHAPES or form not in FORMATS:
        raise SystemExit(f"make_models: no model '{name}': {', '.join(SHAPES)} with -{', -'.join(FORMATS)}")
    shape = SHAPES[shape_name]
    path = out / (f"{name}-v{VERSION}" + ("" if form == "gptq" else ".gguf"))
    if path.exists():
        return path
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{os.getpid()}-{path.name}"  # renamed when whole
    try:
        if form == "gptq":
            write_gptq(part, shape, read_tokenizer(demo))
        else:
            write_gguf(part, shape, form, read_tokenizer(demo))
        part.rename(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        elif part.exists():
            part.unlink()
    return path


def main() -> int:
    cache = pathlib.Path(os.environ.get("MILLRACE_CACHE", pathlib.Path.home() / ".cache/millrace"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--out", type=pathlib.Path, default=cache / "bench")
    parser.add_argument("--tokenizer", default=str(cache / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    arguments = parser.parse_args()
    for name in arguments.names:
        print(make(name, arguments.out, arguments.tokenizer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
