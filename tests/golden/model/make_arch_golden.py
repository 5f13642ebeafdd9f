#!/usr/bin/env python3
"""Makes the goldens of the architectures with transformers (fp32, eager): one arch_<name>.golden each.

A golden holds config.json, the list of tensors, and whole logits at some positions of one or two
prompts. The weights are in no file: value i of a tensor is

    mean + scale * u,   u = (splitmix64(seed + i) >> 40) * 2^-23 - 1,   seed = fnv1a64(name) ^ the model's

in fp32, so that golden and test make the same ones (tests/golden/model/arch_golden.h). Scales are
chosen so that the goldens see errors: scores of a head spread by 2 or more, logits by 3 or more, soft
caps bite; `check` refuses to write a golden that does not.

    make_arch_golden.py [NAME ...]
"""
import json
import os
import struct
import sys

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MASK = (1 << 64) - 1


def fnv1a64(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def uniform(seed: int, count: int) -> np.ndarray:
    """fp32 in [-1, 1), exact."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


COMMON = dict(vocab_size=96, rms_norm_eps=1e-5, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
              pad_token_id=0, attention_dropout=0.0)


def longrope(pairs: int) -> dict:
    rng = np.random.default_rng(3)
    return dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                original_max_position_embeddings=64,
                short_factor=[round(float(v), 3) for v in 1 + rng.random(pairs)],
                long_factor=[round(float(v), 3) for v in 1 + 8 * rng.random(pairs)])


# name: config, then lengths of the prompts and the context each is served with, and gains.
CASES = {
    "llama_linear": (dict(
        COMMON, model_type="llama", hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, head_dim=64, attention_bias=True, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)), [(150, 512)], {}),
    "llama_llama3": (dict(
        COMMON, model_type="llama", hidden_size=80, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=5, num_key_value_heads=5, head_dim=80, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=128)), [(150, 512)], {}),
    "llama_yarn": (dict(
        COMMON, model_type="llama", hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=1, head_dim=64, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=4.0,
                             original_max_position_embeddings=128)), [(170, 512)], {}),
    "mistral": (dict(
        COMMON, model_type="mistral", hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=9, num_key_value_heads=3, head_dim=96, tie_word_embeddings=False, sliding_window=37,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0)), [(150, 512)], {}),
    "qwen2": (dict(
        COMMON, model_type="qwen2", hidden_size=192, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, use_sliding_window=True,
        sliding_window=21, max_window_layers=1, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
        [(150, 512)], {}),
    "qwen3": (dict(
        COMMON, model_type="qwen3", hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=1, head_dim=128, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), [(150, 512)], {}),
    "phi3": (dict(
        COMMON, model_type="phi3", hidden_size=288, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=False, sliding_window=33,
        original_max_position_embeddings=64, partial_rotary_factor=0.75, rope_parameters=longrope(36)),
        [(60, 64), (150, 512)], {}),
    "gemma2": (dict(
        COMMON | dict(rms_norm_eps=1e-3),  # large: what is normed here is too
        model_type="gemma2", hidden_size=96, intermediate_size=160, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=100, sliding_window=21,
        attn_logit_softcapping=4.0, final_logit_softcapping=6.0, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0)), [(150, 512)], {"qk": 1.9, "head": 8.0}),
    "gemma3": (dict(
        COMMON | dict(rms_norm_eps=1e-3),  # large: what is normed here is too
        model_type="gemma3_text", hidden_size=96, intermediate_size=160, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=3, head_dim=80, query_pre_attn_scalar=60, sliding_window=21,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        tie_word_embeddings=True, rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
            sliding_attention=dict(rope_type="default", rope_theta=10000.0))), [(150, 512)], {}),
}


def shape_of(name: str, shape: tuple, config: dict, gains: dict) -> tuple:
    """Mean and scale of a tensor: scale / sqrt(3) is the standard deviation."""
    gemma = config["model_type"].startswith("gemma")
    root = np.sqrt(3.0)
    if name.endswith("bias"):
        return 0.0, 0.8 * root
    if len(shape) == 1:
        mean = 1.0
        if "q_norm" in name or "k_norm" in name:  # scores spread by the product of these two
            mean = 1.6
        if "post_" in name and gemma:
            mean = 0.7
        return mean - 1.0 if gemma else mean, 0.3 * root
    cols = shape[1]
    gain = 1.0
    if "q_proj" in name or "k_proj" in name or "qkv_proj" in name:
        gain = gains.get("qk", 1.6)
    elif "embed_tokens" in name or "lm_head" in name:
        gain = gains.get("head", 4.0)
    elif "gate" in name or "up" in name:
        gain = 1.5
    return 0.0, gain * root / np.sqrt(cols)


def build(case: str):
    config_dict, prompts, gains = CASES[case]
    kind = config_dict["model_type"]
    config = AutoConfig.for_model(kind, **{k: v for k, v in config_dict.items() if k != "model_type"})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    seed = fnv1a64("millrace " + case)
    tensors, state = [], {}
    for name, parameter in sorted(model.named_parameters()):  # a tied head is there once
        shape = tuple(parameter.shape)
        mean, scale = (np.float32(v) for v in shape_of(name, shape, config_dict, gains))
        values = mean + scale * uniform(seed ^ fnv1a64(name), int(np.prod(shape)))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values.reshape(shape)))
        tensors.append([name, list(shape), float(mean), float(scale)])
    text = json.loads(config.to_json_string(use_diff=False))
    keep = {k: v for k, v in text.items() if k in config_dict or k in (
        "architectures", "layer_types", "head_dim", "rope_parameters", "hidden_act", "hidden_activation")}
    keep["model_type"] = kind
    return model, config, dict(config=keep, seed=f"{seed:016x}", tensors=tensors), prompts


@torch.no_grad()
def check(case: str, model, ids: list) -> np.ndarray:
    """Logits; refuses what could not see errors."""
    captured = []
    softmax = torch.nn.functional.softmax

    def spy(x, *args, **kwargs):
        if x.dim() == 4:
            captured.append(x)
        return softmax(x, *args, **kwargs)

    torch.nn.functional.softmax = spy
    try:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    finally:
        torch.nn.functional.softmax = softmax
    spreads = []
    for scores in captured:
        seen = scores > -1e30
        rows = seen.sum(-1) > 8
        count = seen.sum(-1).clamp(min=1)
        mean = torch.where(seen, scores, 0).sum(-1) / count
        var = torch.where(seen, (scores - mean[..., None]) ** 2, 0).sum(-1) / count
        spreads.append(float(var[rows].mean().sqrt()))
    print(f"{case}: scores spread by {', '.join(f'{s:.2f}' for s in spreads)}; "
          f"logits by {float(logits.std()):.2f}, largest {float(logits.abs().max()):.2f}")
    assert len(spreads) == model.config.num_hidden_layers and min(spreads) >= 2.0, case
    assert float(logits.std()) >= 3.0, case
    return logits.numpy()


def make(case: str) -> None:
    model, _, header, prompts = build(case)
    rng = np.random.default_rng(17)
    header["made_with"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    header["prompts"], rows = [], []
    for length, context in prompts:
        ids = [int(i) for i in rng.integers(3, 96, length)]
        # A run of one token and a repeated phrase: attention has something to find.
        ids[20:26] = [ids[20]] * 6
        ids[-20:-10] = ids[10:20]
        positions = sorted(set(range(0, length, 4)) | {length - 1})
        logits = check(case, model, ids)
        header["prompts"].append(dict(ids=ids, positions=positions, max_model_len=context))
        rows.append(logits[positions].astype("<f4"))
    text = json.dumps(header, separators=(",", ":")).encode()
    path = os.path.join(HERE, f"arch_{case}.golden")
    with open(path, "wb") as file:
        file.write(b"MRLA" + struct.pack("<I", len(text)) + text)
        for block in rows:
            file.write(block.tobytes())
    print(f"  {path}: {os.path.getsize(path)} bytes")


def main() -> None:
    torch.set_grad_enabled(False)
    for case in sys.argv[1:] or CASES:
        make(case)


if __name__ == "__main__":
    main()
