#!/usr/bin/env python3
"""Makes the goldens of architecture x format: one format_<architecture>.golden each, with transformers.

A golden holds, for one small model and every weight format, the logits that transformers (fp32, eager) gives
on the dequantized weights. No weight is in a file: the codes are random bits, the scales random numbers of a
fitting size, both made again by the test (tests/golden/model/format_golden.h) from the same seeds. So every
code, scale and zero point that a format has comes up, and nothing depends on a quantizer.

  bytes    word i, little-endian = splitmix64(seed + i), seed = fnv1a64("FORMAT/TENSOR/PART") ^ the model's
  scales   base * (3/4 + |u| / 2) with u's sign in fp32, u in [-1, 1) as in make_arch_golden.py, rounded to the
           file's type: both signs, so that no format's lopsided codes (-8 .. 7) make every weight lean one way

The weights that transformers gets are unpacked by code that the node does not share: the `gguf` package, and
the unpackers of tests/golden/kernels/make_formats_golden.py. GGUF's names come from the `gguf` package.

For the default mode the golden also says what its number formats cost in transformers itself: activations
rounded to 8 bits for 32 values before every quantized matrix; keys and values, queries and weights of attention to bf16
(`simulated`).

    make_format_golden.py [ARCHITECTURE ...]
"""
import json
import os
import struct
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "kernels")]
import make_arch_golden as arch  # noqa: E402
import make_formats_golden as unpackers  # noqa: E402

F32 = np.float32
LENGTH, POSITIONS = 72, [*range(5, 72, 6)]

COMMON = arch.COMMON | dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2)
DEFAULT_ROPE = dict(rope_type="default", rope_theta=10000.0)
GEMMA = dict(COMMON, rms_norm_eps=1e-3, tie_word_embeddings=True, query_pre_attn_scalar=256, head_dim=256,
             sliding_window=21, layer_types=["sliding_attention", "full_attention"])
GAINS = {"qk": 2.0}
# As in make_arch_golden.py. Widths are multiples of 256, so that K-quants fit.
CASES = {
    "llama": (dict(COMMON, model_type="llama", hidden_size=768, num_attention_heads=6, num_key_value_heads=2, head_dim=128,
                   tie_word_embeddings=False,
                   rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                                        high_freq_factor=4.0, original_max_position_embeddings=64)),
              [(LENGTH, 512)], GAINS),
    "mistral": (dict(COMMON, model_type="mistral", num_attention_heads=8, num_key_value_heads=1, head_dim=64,
                     tie_word_embeddings=False, sliding_window=21, rope_parameters=DEFAULT_ROPE),
                [(LENGTH, 512)], GAINS),
    "qwen2": (dict(COMMON, model_type="qwen2", num_attention_heads=4, num_key_value_heads=4,
                   tie_word_embeddings=True, use_sliding_window=False, rope_parameters=DEFAULT_ROPE),
              [(LENGTH, 512)], GAINS),
    "qwen3": (dict(COMMON, model_type="qwen3", num_attention_heads=6, num_key_value_heads=2, head_dim=128,
                   tie_word_embeddings=True, use_sliding_window=False, rope_parameters=DEFAULT_ROPE),
              [(LENGTH, 512)], GAINS),
    "phi3": (dict(COMMON, model_type="phi3", hidden_size=768, num_attention_heads=8, num_key_value_heads=4,
                  tie_word_embeddings=False, sliding_window=33, original_max_position_embeddings=64,
                  partial_rotary_factor=0.75, rope_parameters=arch.longrope(36)), [(LENGTH, 512)], GAINS),
    "gemma2": (dict(GEMMA, model_type="gemma2", num_attention_heads=2, num_key_value_heads=1,
                    attn_logit_softcapping=4.0, final_logit_softcapping=6.0, rope_parameters=DEFAULT_ROPE),
               [(LENGTH, 512)], {"qk": 2.4, "head": 8.0}),
    "gemma3": (dict(GEMMA, model_type="gemma3_text", num_attention_heads=2, num_key_value_heads=2,
                    rope_parameters=dict(
                        full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
                        sliding_attention=DEFAULT_ROPE)), [(LENGTH, 512)], {"qk": 2.0, "head": 3.0}),
}
plain_shape_of = arch.shape_of


def shape_of(name, shape, config, gains):
    """Gemma's layers speak up: or its tied head would find the token itself and KL see nothing."""
    if config["model_type"].startswith("gemma") and "post_" in name:
        return 8.0, 0.9 * np.sqrt(3.0)
    return plain_shape_of(name, shape, config, gains)


arch.shape_of = shape_of

# ---- Formats

Q = gguf.GGMLQuantizationType


def block(kind, halves=(0,), ratio=0.0):
    """`halves`: where the fp16 scale and minimum lie; minimum = ratio * scale."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    return dict(name=kind.name, carrier="gguf", method="blocks", type=int(kind), values=values, bytes=size,
                halves=list(halves), ratio=ratio)


def grouped(name, method, quantization, bits=4, group=-1, zeros="", order=False, scale="F16", zero_offset=0):
    """`zeros`: "" none, "random", or a word that is repeated."""
    return dict(name=name, carrier="safetensors", method=method, bits=bits, group=group, zeros=zeros, order=order,
                scale=scale, zero_offset=zero_offset, quantization=quantization)


def plain(name, carrier):
    return dict(name=name, carrier=carrier, method="plain", scale=name, type=int(Q[name]))


def gptq(bits, group, sym, order, second=False):
    return dict(quant_method="gptq", bits=bits, group_size=group, sym=sym, desc_act=order,
                checkpoint_format="gptq_v2" if second else "gptq")


def compressed(bits, group, symmetric, activations=False):
    weights = dict(num_bits=bits, type="int", symmetric=symmetric, dynamic=False,
                   **(dict(strategy="group", group_size=group) if group > 0 else dict(strategy="channel")))
    scheme = dict(targets=["Linear"], weights=weights)
    if activations:
        scheme["input_activations"] = dict(num_bits=8, type="int", symmetric=True, dynamic=True, strategy="token")
    return dict(quant_method="compressed-tensors", format="int-quantized" if activations else "pack-quantized",
                ignore=["lm_head"], config_groups=dict(group_0=scheme))


FORMATS = [
    plain("F32", "gguf"), plain("F16", "gguf"), plain("BF16", "gguf"),
    block(Q.Q4_0), block(Q.Q4_1, (0, 2), -7.5), block(Q.Q5_0), block(Q.Q5_1, (0, 2), -15.5), block(Q.Q8_0),
    block(Q.Q3_K, (108,)), block(Q.Q4_K, (0, 2), 7.5), block(Q.Q5_K, (0, 2), 15.5), block(Q.Q6_K, (208,)),
    block(Q.IQ4_NL), block(Q.IQ4_XS),
    plain("F32", "safetensors"), plain("F16", "safetensors"), plain("BF16", "safetensors"),
    grouped("GPTQ 4-bit g64", "gptq", gptq(4, 64, True, False), group=64, zeros="77777777", zero_offset=1),
    grouped("GPTQ 4-bit g96 asymmetric", "gptq", gptq(4, 96, False, False), group=96, zeros="random",
            zero_offset=1),  # 256 = 2.7 x 96: a short last group
    grouped("GPTQ 4-bit g32 asymmetric act-order", "gptq", gptq(4, 32, False, True), group=32, zeros="random",
            order=True, zero_offset=1),
    grouped("GPTQ 8-bit channel v2", "gptq", gptq(8, -1, False, False, True), bits=8, zeros="random"),
    grouped("AWQ 4-bit g64", "awq", dict(quant_method="awq", bits=4, group_size=64, zero_point=True,
                                         version="gemm"), group=64, zeros="random"),
    grouped("W4A16 g64", "packed", compressed(4, 64, True), group=64, scale="BF16"),
    grouped("W4A16 g32 asymmetric", "packed", compressed(4, 32, False), group=32, zeros="random", scale="BF16"),
    grouped("W8A16 channel", "packed", compressed(8, -1, True), bits=8, scale="BF16"),
    grouped("W8A8", "int8", compressed(8, -1, True, True), bits=8, scale="BF16"),
]


class Source:
    """Random bytes and numbers of one model and format."""

    def __init__(self, seed, spec):
        self.seed, self.spec, self.prefix = seed, spec, f"{spec['carrier']} {spec['name']}"

    def _seed(self, tensor, part):
        return self.seed ^ arch.fnv1a64(f"{self.prefix}/{tensor}/{part}")

    def words(self, tensor, part, count):
        with np.errstate(over="ignore"):
            z = np.uint64(self._seed(tensor, part)) + np.arange(count, dtype=np.uint64)
            z = z + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))

    def bytes(self, tensor, part, count):
        return self.words(tensor, part, (count + 7) // 8).view(np.uint8)[:count].copy()

    def values(self, tensor, count, mean, scale):
        return F32(mean) + F32(scale) * arch.uniform(self._seed(tensor, "values"), count)

    def scales(self, tensor, count, base):
        u = arch.uniform(self._seed(tensor, "scales"), count)
        return F32(base) * (F32(0.75) + F32(0.5) * np.abs(u)) * np.where(u < 0, F32(-1), F32(1))

    def int32(self, tensor, part, shape):
        return self.bytes(tensor, part, 4 * int(np.prod(shape))).view(np.uint32).reshape(shape)


def rounded(values, kind):
    """To the file's type and back."""
    if kind == "F32":
        return values
    if kind == "F16":
        return values.astype(np.float16).astype(F32)
    bits = values.view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(F32)


def blocks_matrix(source, tensor, shape, base):
    """The bytes of a GGUF matrix."""
    spec = source.spec
    rows, cols = shape
    count = rows * cols // spec["values"]
    raw = source.bytes(tensor, "codes", count * spec["bytes"]).reshape(count, spec["bytes"])
    scale = source.scales(tensor, count, base).astype(np.float16)
    for i, at in enumerate(spec["halves"]):
        half = scale if i == 0 else (scale.astype(F32) * F32(spec["ratio"])).astype(np.float16)
        raw[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
    if spec["name"] in ("Q4_K", "Q5_K"):  # minimums near the scales, or whole blocks would lean
        packed = raw[:, 4:16]
        packed[:, 4:8] = packed[:, 4:8] & 7 | packed[:, :4] & 0xF8
        packed[:, 8:] = packed[:, 8:] & 0x7F | (packed[:, 8:] & 8) << 4
    return raw.reshape(rows, -1)


def grouped_matrix(source, tensor, shape, base):
    """fp32 values of a grouped matrix, as the independent unpackers see its tensors."""
    spec = source.spec
    n, k = shape
    bits, per_word, method = spec["bits"], 32 // spec["bits"], spec["method"]
    size = spec["group"] if spec["group"] > 0 else k
    groups = -(-k // size)
    m = dict(bits=bits, rows=n, cols=k, zeros=None, symmetric=spec["zeros"] != "random",
             zero_offset=spec["zero_offset"])
    zero_shape = (groups, n // per_word)
    if method == "gptq":
        m["data"] = source.int32(tensor, "codes", (k // per_word, n))
    elif method == "awq":
        m["data"] = source.int32(tensor, "codes", (k, n // 8))
    elif method == "packed":
        m["data"], zero_shape = source.int32(tensor, "codes", (n, k // per_word)), (n // per_word, groups)
    else:
        m["data"] = source.bytes(tensor, "codes", n * k).view(np.int8).reshape(n, k)
    if spec["zeros"] == "random":
        m["zeros"] = source.int32(tensor, "zeros", zero_shape)
    m["scales"] = rounded(source.scales(tensor, groups * n, base), spec["scale"])
    m["scales"] = m["scales"].reshape((groups, n) if method in ("gptq", "awq") else (n, groups))
    name = {"gptq": f"GPTQ{bits}", "awq": "AWQ4", "packed": f"W{bits}A16", "int8": "W8A8"}[method]
    codes, zeros, scales = unpackers.UNPACKERS[name](m)
    group_of = np.arange(k) // size
    if spec["order"]:
        keys = source.words(tensor, "order", k)
        order = np.argsort(keys, kind="stable")
        shuffled = np.empty_like(group_of)
        shuffled[order] = group_of
        group_of = shuffled
    return ((codes - zeros[:, group_of]).astype(F32) * scales[:, group_of]).astype(F32)


def factor_of(spec):
    """What makes a matrix spread as one of make_arch_golden.py does: base = scale * factor."""
    if spec["method"] == "plain":
        return 1.0
    source = Source(1, spec)
    if spec["method"] == "blocks":
        values = gguf.dequantize(blocks_matrix(source, "unit", (256, 1024), 1 / 4096), Q(spec["type"])) * 4096
    else:
        values = grouped_matrix(source, "unit", (256, 768), 1.0)
    return float(F32(1 / (values.std() * np.sqrt(3))))


# ---- GGUF

GGUF_NAMES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3",
              "gemma2": "gemma2", "gemma3_text": "gemma3"}


def gguf_keys(config):
    """The key section of a file, and the vectors that stand for keys: what the converter writes."""
    name, literal = GGUF_NAMES[config.model_type], {}
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "keys.gguf")
        w = gguf.GGUFWriter(path, name)
        w.add_context_length(config.max_position_embeddings)
        w.add_embedding_length(config.hidden_size)
        w.add_block_count(config.num_hidden_layers)
        w.add_feed_forward_length(config.intermediate_size)
        w.add_head_count(config.num_attention_heads)
        w.add_head_count_kv(config.num_key_value_heads)
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
        w.add_layer_norm_rms_eps(config.rms_norm_eps)
        w.add_vocab_size(config.vocab_size)
        w.add_rope_freq_base(rope["rope_theta"])
        w.add_rope_dimension_count(rotary)
        if name in ("llama", "phi3", "gemma2", "gemma3") and getattr(config, "sliding_window", None):
            w.add_sliding_window(config.sliding_window)
        if name == "gemma3":
            w.add_uint32("gemma3.attention.sliding_window_pattern", 2)
            w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            w.add_rope_scaling_factor(rope["factor"])
        if name == "gemma2":
            w.add_attn_logit_softcapping(config.attn_logit_softcapping)
            w.add_final_logit_softcapping(config.final_logit_softcapping)
        if rope["rope_type"] == "llama3":
            scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
            straight = 1.0 / rope["rope_theta"] ** (torch.arange(0, rotary, 2).float() / rotary)
            literal["rope_freqs.weight"] = (straight / scaled).numpy()
        if rope["rope_type"] == "longrope":
            original = rope["original_max_position_embeddings"]
            w.add_rope_scaling_orig_ctx_len(original)
            scale = config.max_position_embeddings / original
            w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))
            literal["rope_factors_long.weight"] = np.array(rope["long_factor"], F32)
            literal["rope_factors_short.weight"] = np.array(rope["short_factor"], F32)
        w.write_header_to_file(path)
        w.write_kv_data_to_file()
        w.close()
        with open(path, "rb") as file:
            data = file.read()
    return struct.unpack("<Q", data[16:24])[0], data[24:], literal


def gguf_name(config, hf_name):
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == GGUF_NAMES[config.model_type])
    stem, suffix = hf_name.rsplit(".", 1)
    renamed = {}
    if config.model_type.startswith("gemma"):  # as the converter does: the plain table takes it for ffn_norm
        renamed = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                   "post_feedforward_layernorm": "post_ffw_norm"}
    if (last := stem.rsplit(".", 1)[-1]) in renamed:
        return f"blk.{stem.split('.')[2]}.{renamed[last]}.{suffix}"
    found = gguf.get_tensor_name_map(kind, config.num_hidden_layers).get_name(stem)
    assert found, hf_name
    return f"{found}.{suffix}"


def unpermuted(config, hf_name, values):
    """Rows of Llama's q and k from the converter's order (pairs side by side) to transformers'."""
    if GGUF_NAMES[config.model_type] != "llama" or not ("q_proj" in hf_name or "k_proj" in hf_name):
        return values
    heads = config.num_attention_heads if "q_proj" in hf_name else config.num_key_value_heads
    rows, cols = values.shape
    return values.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


# ---- Running

def weights_of(config, tensors, seed, spec):
    """Every parameter's values in this format."""
    source, out = Source(seed, spec), {}
    for name, shape, mean, scale in tensors:
        key = gguf_name(config, name) if spec["carrier"] == "gguf" else name
        # What a quantizer leaves alone.
        dense = len(shape) == 1 or spec["method"] not in ("plain", "blocks") and not name.startswith("model.layers.")
        if dense or spec["method"] == "plain":
            kind = spec["scale"] if spec["method"] == "plain" and not (len(shape) == 1 and key != name) else "F32"
            values = rounded(source.values(key, int(np.prod(shape)), mean, scale), kind).reshape(shape)
        elif spec["method"] == "blocks":
            raw = blocks_matrix(source, key, shape, F32(scale) * F32(spec["factor"]))
            values = gguf.dequantize(raw, Q(spec["type"]))
        else:
            values = grouped_matrix(source, key, shape, F32(scale) * F32(spec["factor"]))
        if spec["carrier"] == "gguf" and len(shape) == 2:
            values = unpermuted(config, name, values)
        out[name] = np.ascontiguousarray(values)
    return out


def round_activations(per_token):
    def hook(_, inputs):
        x = inputs[0]
        blocks = x if per_token else x.unflatten(-1, (-1, 32))
        step = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
        return ((blocks / step).round() * step).reshape(x.shape)
    return hook


def kl(p_logits, q_logits):
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (p_logits, q_logits))
    return (p.exp() * (p - q)).sum(-1)


def attention_of_bf16(module, query, key, value, mask, scaling=None, softcap=None, **_):
    """In the place of eager_attention_forward. The weights' sum is that of the rounded ones."""
    key, value = (x.bfloat16().float().repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    query = query * (module.head_dim**-0.5 if scaling is None else scaling)
    scores = query.bfloat16().float() @ key.transpose(2, 3)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask[..., :key.shape[-2]]
    weights = torch.exp(scores - scores.amax(-1, keepdim=True)).bfloat16().float()
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def simulate(model, spec, ids):
    """Logits with the default mode's number formats."""
    quantized = spec["method"] != "plain"
    hooks = []
    for name, module in model.named_modules():
        inside = "layers" in name or spec["method"] == "blocks"
        if quantized and inside and isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(round_activations(spec["method"] == "int8")))
    architecture = sys.modules[type(model).__module__]
    eager = architecture.eager_attention_forward
    architecture.eager_attention_forward = attention_of_bf16
    try:
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
    finally:
        architecture.eager_attention_forward = eager
        for hook in hooks:
            hook.remove()


def make(case):
    arch.CASES["format_" + case] = CASES[case]
    model, config, header, prompts = arch.build("format_" + case)
    seed = int(header["seed"], 16)
    ids = [int(i) for i in np.random.default_rng(18).integers(3, 96, prompts[0][0])]
    ids[-20:-10] = ids[10:20]  # attention has something to find
    keys, kv, literal = gguf_keys(config)
    header |= dict(made_with=f"torch {torch.__version__}, transformers {transformers.__version__}, gguf 0.19",
                   ids=ids, positions=POSITIONS, max_model_len=prompts[0][1], formats=[],
                   gguf=dict(keys=keys, kv=kv.hex(), literal={k: v.tobytes().hex() for k, v in literal.items()},
                             names={t[0]: gguf_name(config, t[0]) for t in header["tensors"]}))
    rows = []
    for spec in FORMATS:
        spec = spec | dict(factor=factor_of(spec))
        for name, values in weights_of(config, header["tensors"], seed, spec).items():
            model.get_parameter(name).copy_(torch.from_numpy(values))
        logits = arch.check(f"{case} {spec['carrier']} {spec['name']}", model, ids)[POSITIONS]
        certain = float(torch.softmax(torch.from_numpy(logits), -1).amax(-1).mean())
        assert certain < 0.95, f"{case}: the best token has {certain:.2f}: KL would see little"
        spec["simulated"] = [float(f"{float(x):.3e}") for x in kl(logits, simulate(model, spec, ids)[POSITIONS])]
        header["formats"].append(spec)
        rows.append(logits.astype("<f4"))
        print(f"   simulated default mode: mean KL {np.mean(spec['simulated']):.1e}; best token {certain:.2f}")
    text = json.dumps(header, separators=(",", ":")).encode()
    path = os.path.join(HERE, f"format_{case}.golden")
    with open(path, "wb") as file:
        file.write(b"MRLF" + struct.pack("<I", len(text)) + text)
        for part in rows:
            file.write(part.tobytes())
    print(f"  {path}: {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    for chosen in sys.argv[1:] or CASES:
        make(chosen)
