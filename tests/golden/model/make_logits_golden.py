#!/usr/bin/env python3
"""Makes the logits goldens with an implementation not written here: transformers, fp32, eager.

  smollm2.golden   the demo model: at every chosen position the norm, the 32 largest logits, 512
                   logits at fixed ids and 64 random +-1 projections of the whole row (the mean of
                   their squared differences is an unbiased estimate of the squared 2-norm of ours
                   minus theirs), so that whole rows are judged from 2.5 kB a position
  smollm2.greedy   30 prompts and the 64 tokens that greedy decoding continues each with
  tiny_*.gguf      two random llamas of 100 to 200 kB with every weight type, and
  tiny_*.golden    their whole logits

Run through `./dev golden logits`; MILLRACE_DEMO_MODEL is the path of the GGUF. The layout of a
.golden file is that of `Writer` below, little-endian; tests/golden/model/golden_file.h reads it.
"""
import os
import struct
import sys

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
TOP, SUBSET, PROJECTIONS = 32, 512, 64
SIGN_SEED = 0x4D494C4C52414345  # "MILLRACE"

LOGIT_PROMPTS = [
    "What does HTTP stand for?",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "The Danube flows through ten countries, more than any other river; it rises in the",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "1, 1, 2, 3, 5, 8, 13, 21,",
]
GREEDY_PROMPTS = [
    "What does HTTP stand for?", "Write a haiku about rivers.", "Explain gravity to a child.",
    "Name three primary colors.", "How do I boil an egg?", "What is the capital of Japan?",
    "List the planets of the solar system.", "Who wrote Hamlet?", "What is 12 plus 30?",
    "Describe a rainy day in one paragraph.", "Give me a tip for learning to cook.",
    "Why is the sky blue?", "What is photosynthesis?", "Tell me a short story about a fox.",
    "How does a bicycle stay upright?", "What is the largest ocean?",
    "Summarize the water cycle.", "What do bees do?", "How are mountains formed?",
    "Write a polite email asking for a day off.", "What is an algorithm?",
    "Give an example of a metaphor.", "What is the boiling point of water?",
    "Explain what a prime number is.",
]
RAW_PROMPTS = [
    "Once upon a time, in a village by the sea,", "The quick brown fox", "import numpy as np\n\ndef",
    "In 1969, astronauts", "The recipe calls for two cups of", "Dear Sir or Madam,\n",
]


def splitmix64(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def projection_signs(vocab: int) -> np.ndarray:
    """[PROJECTIONS, vocab] of +-1: bit p of the hash of (seed ^ id)."""
    hashes = splitmix64(np.arange(vocab, dtype=np.uint64) ^ np.uint64(SIGN_SEED))
    bits = (hashes[None, :] >> np.arange(PROJECTIONS, dtype=np.uint64)[:, None]) & np.uint64(1)
    return bits.astype(np.float64) * 2.0 - 1.0


class Writer:
    """Little-endian: magic, version, vocabulary, counts, subset ids; then the prompts."""

    def __init__(self, path: str, vocab: int, full: bool):
        self.file = open(path, "wb")
        self.full = full
        rng = np.random.default_rng(7)
        self.subset = np.sort(rng.choice(vocab, min(SUBSET, vocab), replace=False)).astype(np.int32)
        if full:
            self.subset = np.arange(vocab, dtype=np.int32)
        self.top = min(TOP, vocab)
        self.signs = projection_signs(vocab)
        self.file.write(b"MRLG" + struct.pack("<5I", 1, vocab, len(self.subset), self.top, PROJECTIONS))
        self.file.write(struct.pack("<Q", SIGN_SEED) + self.subset.tobytes())

    def prompt(self, ids: list, positions: list, logits: np.ndarray) -> None:
        self.file.write(struct.pack("<2I", len(ids), len(positions)))
        self.file.write(np.array(ids, np.int32).tobytes() + np.array(positions, np.int32).tobytes())
        for position in positions:
            row = logits[position].astype(np.float64)
            peak = row.max()
            lse = peak + np.log(np.exp(row - peak).sum())
            order = np.argsort(-row, kind="stable")[: self.top].astype(np.int32)
            self.file.write(struct.pack("<3d", np.linalg.norm(row), np.abs(row).max(), lse))
            self.file.write(order.tobytes() + row[order].astype(np.float32).tobytes())
            self.file.write(row[self.subset].astype(np.float32).tobytes())
            self.file.write((self.signs @ row).astype(np.float32).tobytes())

    def close(self) -> None:
        self.file.close()


@torch.no_grad()
def all_logits(model, ids: list) -> np.ndarray:
    return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


@torch.no_grad()
def greedy(model, ids: list, count: int) -> tuple:
    """The tokens, and the least gap between the best and the second logit on the way."""
    out, cache, step, gap = [], None, torch.tensor([ids]), float("inf")
    for _ in range(count):
        result = model(step, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        best = torch.topk(result.logits[0, -1].float(), 2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        out.append(int(result.logits[0, -1].argmax()))
        step = torch.tensor([[out[-1]]])
    return out, gap


def demo_goldens(path: str) -> None:
    folder, name = os.path.split(path)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    vocab = model.config.vocab_size
    writer = Writer(os.path.join(HERE, "smollm2.golden"), vocab, full=False)
    for text in LOGIT_PROMPTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        writer.prompt(ids, list(range(len(ids))), all_logits(model, ids))
    # A long one: what position does to the angles, and attention over many blocks.
    ids = tokenizer(" ".join(GREEDY_PROMPTS * 6), add_special_tokens=False)["input_ids"][:1200]
    writer.prompt(ids, list(range(31, len(ids), 73)) + [len(ids) - 1], all_logits(model, ids))
    writer.close()
    lines = []
    prompts = [f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in GREEDY_PROMPTS] + RAW_PROMPTS
    for text in prompts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens, gap = greedy(model, ids, 64)
        lines.append(" ".join(map(str, ids)) + " : " + " ".join(map(str, tokens)))
        print(f"gap {gap:9.6f}  {text[-60:]!r} -> {tokenizer.decode(tokens)[:70]!r}", flush=True)
    with open(os.path.join(HERE, "smollm2.greedy"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter orders them: row i of a head = row (i % 2) * hd/2 + i/2 before."""
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def unpermute(weights: np.ndarray, heads: int) -> np.ndarray:
    rows, cols = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def tiny_model(name: str, seed: int, tied: bool, llama3: bool) -> None:
    """Random weights, rounded through the file's types, so that both sides hold the same numbers."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16} if llama3 else {"rope_type": "default"}
    config = LlamaConfig(
        vocab_size=160, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 10000.0, **scaling}, tie_word_embeddings=tied,
        attn_implementation="eager")
    model = LlamaForCausalLM(config).float().eval()
    writer = gguf.GGUFWriter(os.path.join(HERE, f"{name}.gguf"), "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(96)
    writer.add_feed_forward_length(160)
    writer.add_head_count(3)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(160)
    types = gguf.GGMLQuantizationType
    table = {"q": types.Q4_1, "k": types.Q8_0, "v": types.Q4_0, "o": types.BF16, "gate": types.F16,
             "up": types.Q4_1, "down": types.Q8_0}
    state = model.state_dict()

    def put(hf_name: str, gguf_name: str, kind, heads: int = 0) -> None:
        shape = tuple(state[hf_name].shape)
        values = rng.standard_normal(shape).astype(np.float32)
        values = 1.0 + 0.3 * values if len(shape) == 1 else values * (1.6 / np.sqrt(shape[1]))
        values = values.astype(np.float32)
        if heads:
            values = permute(values, heads)
        raw = quantize(values, kind)
        writer.add_tensor(gguf_name, raw, raw_dtype=kind)
        values = dequantize(raw, kind).astype(np.float32)
        state[hf_name].copy_(torch.from_numpy(unpermute(values, heads) if heads else values))

    put("model.embed_tokens.weight", "token_embd.weight", types.Q8_0)
    for i in range(2):
        hf, out = f"model.layers.{i}.", f"blk.{i}."
        put(hf + "input_layernorm.weight", out + "attn_norm.weight", types.F32)
        put(hf + "self_attn.q_proj.weight", out + "attn_q.weight", table["q"], 3)
        put(hf + "self_attn.k_proj.weight", out + "attn_k.weight", table["k"], 1)
        put(hf + "self_attn.v_proj.weight", out + "attn_v.weight", table["v"])
        put(hf + "self_attn.o_proj.weight", out + "attn_output.weight", table["o"])
        put(hf + "post_attention_layernorm.weight", out + "ffn_norm.weight", types.F32)
        put(hf + "mlp.gate_proj.weight", out + "ffn_gate.weight", table["gate"])
        put(hf + "mlp.up_proj.weight", out + "ffn_up.weight", table["up"])
        put(hf + "mlp.down_proj.weight", out + "ffn_down.weight", table["down"])
    put("model.norm.weight", "output_norm.weight", types.F32)
    if not tied:
        put("lm_head.weight", "output.weight", types.F32)
    if llama3:
        plain = 1.0 / 10000.0 ** (np.arange(0, 32, 2, dtype=np.float32) / 32)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(state)
    ids = [int(i) for i in rng.integers(0, 160, 70)]
    logits = all_logits(model, ids)
    if not llama3:  # transformers reads the file itself: a second opinion on the permutation
        again = AutoModelForCausalLM.from_pretrained(
            HERE, gguf_file=f"{name}.gguf", dtype=torch.float32, attn_implementation="eager").eval()
        assert np.abs(all_logits(again, ids) - logits).max() < 1e-4 * np.abs(logits).max()
    golden = Writer(os.path.join(HERE, f"{name}.golden"), 160, full=True)
    golden.prompt(ids, list(range(0, len(ids), 2)), logits)
    golden.close()


def main() -> None:
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, gguf-py", file=sys.stderr)
    torch.set_grad_enabled(False)
    tiny_model("tiny_tied", 11, tied=True, llama3=False)
    tiny_model("tiny_llama3", 12, tied=False, llama3=True)
    if "--tiny" not in sys.argv:
        demo_goldens(os.environ["MILLRACE_DEMO_MODEL"])


if __name__ == "__main__":
    main()
