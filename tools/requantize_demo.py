#!/usr/bin/env python3
"""The demo model re-quantized, from its own weights (dequantized Q4_1, embedding Q8_0), into

    q8_0.gguf q5_1.gguf q4_0.gguf               round to nearest, block by block
    gptq_g128_sym/ gptq_g128_asym_order/        GPTQ (arXiv:2210.17323) with the Hessians of a calibration text,
                                                the second in descending order of the Hessian's diagonal
    awq_g64/                                    AWQ's scale search (arXiv:2306.00978) on the same Hessians, then
                                                round to nearest; no search for clipping
    w4a16_g64/                                  compressed-tensors pack-quantized, symmetric, round to nearest

The model is 576 wide, which is no multiple of 128: GPTQ's writers round the number of groups up (the last one
has 64 inputs), AutoAWQ and llm-compressor refuse, so those two have groups of 64. The embedding (tied to the
head) stays as in the source in GGUF and becomes F16 in directories, norms stay F32; nothing else is dense.
The Hessians are of the source's own activations, not of those of the layers quantized before.

    tools/requantize_demo.py OUT_FOLDER [NAME ...]        in the oracle environment (torch, transformers, gguf)
"""
import json
import os
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[1]
Q = gguf.GGMLQuantizationType
CALIBRATION_TOKENS, CHUNK = 6144, 512
LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
           "mlp.up_proj", "mlp.down_proj"]


# ---- GGUF: blocks of 32, written from the formats' descriptions

def q8_0(w):
    blocks = w.reshape(-1, 32)
    d = (np.abs(blocks).max(1) / 127).astype(np.float16)
    step = np.where(d == 0, 1, d.astype(np.float32))[:, None]
    codes = np.clip(np.rint(blocks / step), -127, 127).astype(np.int8)
    return np.concatenate([d.view(np.uint8).reshape(-1, 2), codes.view(np.uint8)], 1).reshape(w.shape[0], -1)


def nibbles(codes):
    """Value i in the low, i + 16 in the high half of byte i."""
    return (codes[:, :16] & 15 | (codes[:, 16:] & 15) << 4).astype(np.uint8)


def q4_0(w):
    blocks = w.reshape(-1, 32)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]
    d = (extreme / -8).astype(np.float16)
    step = np.where(d == 0, 1, d.astype(np.float32))[:, None]
    codes = np.clip(np.rint(blocks / step) + 8, 0, 15).astype(np.int64)
    return np.concatenate([d.view(np.uint8).reshape(-1, 2), nibbles(codes)], 1).reshape(w.shape[0], -1)


def q5_1(w):
    blocks = w.reshape(-1, 32)
    low = blocks.min(1)
    d, m = ((blocks.max(1) - low) / 31).astype(np.float16), low.astype(np.float16)
    step = np.where(d == 0, 1, d.astype(np.float32))[:, None]
    codes = np.clip(np.rint((blocks - m.astype(np.float32)[:, None]) / step), 0, 31).astype(np.int64)
    high = ((codes >> 4) << np.arange(32)).sum(1).astype(np.uint32)
    parts = [x.view(np.uint8).reshape(len(blocks), -1) for x in (d, m, high)]
    return np.concatenate(parts + [nibbles(codes)], 1).reshape(w.shape[0], -1)


def write_gguf(source, path, kind, quantizer):
    """The source's keys and tensors; the layers' matrices in another type."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value_type = field.types[0]
        sub_type = field.types[-1] if value_type == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), value_type, sub_type=sub_type)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, quantizer(values), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- Calibration

def hessians(model, tokenizer):
    """X^T X / n of the inputs of each group of matrices, and the mean |x|: by module."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").rglob("*.md")))
    text += "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "tools").glob("*.py")))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:CALIBRATION_TOKENS]
    sums, means, hooks = {}, {}, []

    def watch(name):
        def hook(_, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + x.T @ x
            means[name] = means.get(name, 0) + x.abs().sum(0)
        return hook

    for i, layer in enumerate(model.model.layers):
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            hooks.append(layer.get_submodule(name).register_forward_pre_hook(watch(f"{i}.{name}")))
    for begin in range(0, len(ids) - CHUNK + 1, CHUNK):
        model(torch.tensor([ids[begin:begin + CHUNK]]), use_cache=False, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    count = len(ids) // CHUNK * CHUNK
    print(f"calibrated on {count} tokens of docs/ and tools/", flush=True)
    return {k: v / count for k, v in sums.items()}, {k: v / count for k, v in means.items()}


def input_of(name):
    shares = {"self_attn.k_proj": "self_attn.q_proj", "self_attn.v_proj": "self_attn.q_proj",
              "mlp.up_proj": "mlp.gate_proj"}
    return shares.get(name, name)


# ---- Quantizers of groups: codes [N, K], scales and zero points [N, G], group of each column [K]

def grid(w, symmetric, scale_type=torch.float16, bits=4):
    """Scale and zero point of the groups w [N, g] for codes 0 .. 15, as GPTQ has them."""
    top = 2**bits - 1
    low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
    if symmetric:
        scale = 2 * torch.maximum(-low, high) / top
    else:
        scale = (high - low) / top
    scale = torch.where(scale == 0, torch.ones_like(scale), scale).to(scale_type).float()
    zero = torch.full_like(scale, 2**(bits - 1)) if symmetric else (-low / scale).round().clamp(1, top)
    return scale, zero  # zero points from 1: GPTQ v1 stores them less one


def encode(w, scale, zero):
    return (w / scale[:, None] + zero[:, None]).round().clamp(0, 15)


def round_to_nearest(w, size, symmetric, scale_type=torch.float16):
    group = torch.arange(w.shape[1]) // size
    scales, zeros, codes = [], [], []
    for begin in range(0, w.shape[1], size):
        part = w[:, begin:begin + size]
        scale, zero = grid(part, symmetric, scale_type)
        scales.append(scale), zeros.append(zero), codes.append(encode(part, scale, zero))
    return torch.cat(codes, 1), torch.stack(scales, 1), torch.stack(zeros, 1), group


def dequantized(codes, scales, zeros, group):
    return (codes - zeros[:, group]) * scales[:, group]


def gptq(w, hessian, size, symmetric, order):
    """Columns one after the other, each one's error made good in those to come."""
    cols = w.shape[1]
    w, h = w.clone(), hessian.clone().double()
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    perm = torch.argsort(h.diagonal(), descending=True) if order else torch.arange(cols)
    w, h = w[:, perm], h[perm][:, perm]
    h += 0.01 * h.diagonal().mean() * torch.eye(cols, dtype=h.dtype)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True).float()
    codes, scales, zeros = torch.zeros_like(w), [], []
    for begin in range(0, cols, size):
        end = min(begin + size, cols)
        scale, zero = grid(w[:, begin:end], symmetric)
        scales.append(scale), zeros.append(zero)
        part, factor = w[:, begin:end].clone(), upper[begin:end, begin:end]
        errors = torch.zeros_like(part)
        for i in range(end - begin):
            code = encode(part[:, i:i + 1], scale, zero)
            error = (part[:, i] - (code[:, 0] - zero) * scale) / factor[i, i]
            part[:, i + 1:] -= error[:, None] * factor[i, i + 1:]
            codes[:, begin + i], errors[:, i] = code[:, 0], error
        w[:, end:] -= errors @ upper[begin:end, end:]
    inverse = torch.argsort(perm)
    group = (torch.arange(cols) // size)[inverse]
    return codes[:, inverse], torch.stack(scales, 1), torch.stack(zeros, 1), group


def awq_scales(weights, hessian, mean, size):
    """One factor an input column: the power of mean |x| with the least error of the outputs."""
    w = torch.cat(weights)
    best, best_loss = None, float("inf")
    for step in range(11):
        s = mean.clamp(min=1e-4) ** (step / 10)
        s = s / (s.max() * s.min()).sqrt()
        error = dequantized(*round_to_nearest(w * s, size, False)) / s - w
        loss = float(((error @ hessian) * error).sum())
        if loss < best_loss:
            best, best_loss = s, loss
    return best


# ---- Directories

def words(codes, order=range(8)):
    """Eight 4-bit codes along the last dimension to an int32, `order[i]` is the column of nibble i."""
    parts = codes.reshape(*codes.shape[:-1], -1, 8).to(torch.int64)
    packed = sum(parts[..., column] << (4 * i) for i, column in enumerate(order))
    return torch.from_numpy(packed.numpy().astype(np.uint32).view(np.int32).copy())


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def gptq_tensors(codes, scales, zeros, group):
    return {"qweight": words(codes).T.contiguous(),
            "qzeros": words(zeros.T - 1), "scales": scales.T.half().contiguous(), "g_idx": group.to(torch.int32)}


def awq_tensors(codes, scales, zeros, _):
    return {"qweight": words(codes.T, AWQ_ORDER), "qzeros": words(zeros.T, AWQ_ORDER),
            "scales": scales.T.half().contiguous()}


def compressed_tensors(codes, scales, _, __):
    return {"weight_packed": words(codes), "weight_scale": scales.bfloat16(),
            "weight_shape": torch.tensor([codes.shape[0], codes.shape[1]], dtype=torch.int64)}


def write_directory(path, model, tokenizer, tensors, quantization):
    path.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    out = {}
    for name, value in state.items():
        if name.rsplit(".", 1)[0].endswith(tuple(LINEARS)):
            continue
        out[name] = value.half() if value.dim() == 2 else value
    out |= tensors
    save_file({k: v.contiguous() for k, v in out.items()}, str(path / "model.safetensors"), {"format": "pt"})
    tokenizer.save_pretrained(path)
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_parameters",
            "tie_word_embeddings", "hidden_act", "bos_token_id", "eos_token_id", "model_type", "attention_bias"]
    config = {k: config[k] for k in keep if k in config}
    config |= dict(architectures=["LlamaForCausalLM"], quantization_config=quantization)
    (path / "config.json").write_text(json.dumps(config, indent=1))


def fold_awq(model, h, means, size):
    """Scales inputs up in the weights and down in what makes the inputs, in place."""
    for i, layer in enumerate(model.model.layers):
        def scale(norm, names, source):
            modules = [layer.get_submodule(n) for n in names]
            s = awq_scales([m.weight for m in modules], h[source], means[source], size)
            for module in modules:
                module.weight.mul_(s)
            norm.weight.div_(s if norm.weight.dim() == 1 else s[:, None])
        scale(layer.input_layernorm, LINEARS[:3], f"{i}.self_attn.q_proj")
        scale(layer.post_attention_layernorm, LINEARS[4:6], f"{i}.mlp.gate_proj")
        scale(layer.mlp.up_proj, LINEARS[6:], f"{i}.mlp.down_proj")


def make_directory(name, out, model, tokenizer, h, means):
    g = 128 if name.startswith("gptq") else 64
    if name == "awq_g64":
        fold_awq(model, h, means, g)
    tensors = {}
    for i, layer in enumerate(model.model.layers):
        for linear in LINEARS:
            w = layer.get_submodule(linear).weight
            if name.startswith("gptq"):
                order = name.endswith("order")
                made = gptq_tensors(*gptq(w, h[f"{i}.{input_of(linear)}"], g, not order, order))
            elif name == "awq_g64":
                made = awq_tensors(*round_to_nearest(w, g, False))
            else:
                made = compressed_tensors(*round_to_nearest(w, g, True, torch.bfloat16))
            tensors |= {f"model.layers.{i}.{linear}.{k}": v for k, v in made.items()}
    weights = dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=g, dynamic=False)
    configs = {
        "gptq_g128_sym": dict(quant_method="gptq", bits=4, group_size=g, sym=True, desc_act=False,
                              checkpoint_format="gptq"),
        "gptq_g128_asym_order": dict(quant_method="gptq", bits=4, group_size=g, sym=False, desc_act=True,
                                     checkpoint_format="gptq"),
        "awq_g64": dict(quant_method="awq", bits=4, group_size=g, zero_point=True, version="gemm"),
        "w4a16_g64": dict(quant_method="compressed-tensors", format="pack-quantized", ignore=["lm_head"],
                          config_groups=dict(group_0=dict(targets=["Linear"], weights=weights)))}
    write_directory(out / name, model, tokenizer, tensors, configs[name])


GGUFS = {"q8_0.gguf": (Q.Q8_0, q8_0), "q5_1.gguf": (Q.Q5_1, q5_1), "q4_0.gguf": (Q.Q4_0, q4_0)}
DIRECTORIES = ["gptq_g128_sym", "gptq_g128_asym_order", "w4a16_g64", "awq_g64"]  # the last one folds in place


def main():
    torch.set_grad_enabled(False)
    source = os.environ.get("MILLRACE_DEMO_MODEL") or os.path.expanduser(
        "~/.cache/millrace/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[2:] or [*GGUFS, *DIRECTORIES]
    for name, (kind, quantizer) in GGUFS.items():
        if name in wanted:
            write_gguf(source, out / name, kind, quantizer)
            print(out / name, flush=True)
    directories = [name for name in DIRECTORIES if name in wanted]
    if not directories:
        return
    folder, file = os.path.split(source)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    h, means = hessians(model, tokenizer)
    for name in directories:
        make_directory(name, out, model, tokenizer, h, means)
        print(out / name, flush=True)


if __name__ == "__main__":
    main()
