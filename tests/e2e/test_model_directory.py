"""A Hugging Face directory, from `inspect` to an answer: small, random, written here byte by byte."""
import json
import random
import shutil
import struct
import subprocess
import time

import httpx
import pytest

import conftest
from conftest import NAME, Node

WIDTH, LAYERS, HEADS, KV_HEADS, FFN, VOCABULARY = 64, 2, 4, 2, 128, 259
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


def byte_tokens():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)]


def tokenizer():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(special + byte_tokens())}
    added = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, t in enumerate(special)]
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                pre_tokenizer=byte_level, post_processor=None, decoder=byte_level,
                model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                           end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False,
                           vocab=vocabulary, merges=[]))


def tensors():
    """Name -> shape, in Hugging Face's names for Qwen2 (whose projections have biases)."""
    kv = KV_HEADS * WIDTH // HEADS
    out = {"model.embed_tokens.weight": [VOCABULARY, WIDTH], "model.norm.weight": [WIDTH]}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        out |= {layer + "input_layernorm.weight": [WIDTH], layer + "post_attention_layernorm.weight": [WIDTH],
                layer + "self_attn.q_proj.weight": [WIDTH, WIDTH], layer + "self_attn.q_proj.bias": [WIDTH],
                layer + "self_attn.k_proj.weight": [kv, WIDTH], layer + "self_attn.k_proj.bias": [kv],
                layer + "self_attn.v_proj.weight": [kv, WIDTH], layer + "self_attn.v_proj.bias": [kv],
                layer + "self_attn.o_proj.weight": [WIDTH, WIDTH], layer + "mlp.gate_proj.weight": [FFN, WIDTH],
                layer + "mlp.up_proj.weight": [FFN, WIDTH], layer + "mlp.down_proj.weight": [WIDTH, FFN]}
    return out


def write_safetensors(path):
    draw, header, data = random.Random(1), {}, b""
    for name, shape in tensors().items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * count if "norm" in name else [draw.gauss(0, 0.3) for _ in range(count)]
        begin, data = len(data), data + struct.pack(f"<{count}f", *values)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[begin, len(data)])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    path.mkdir()
    write_safetensors(path / "model.safetensors")
    config = dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", vocab_size=VOCABULARY, hidden_size=WIDTH,
                  intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                  num_key_value_heads=KV_HEADS, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=10000.0,
                  tie_word_embeddings=True, hidden_act="silu", use_sliding_window=False, torch_dtype="float32")
    for name, value in {"config.json": config, "tokenizer.json": tokenizer(),
                        "tokenizer_config.json": dict(eos_token="<|endoftext|>", chat_template=TEMPLATE),
                        "generation_config.json": dict(eos_token_id=[0, 2])}.items():
        (path / name).write_text(json.dumps(value))
    return path


def complete(node, **fields):
    body = dict(model=NAME, prompt="Hello", temperature=0, max_tokens=8, return_token_ids=True) | fields
    answer = httpx.post(node.url + "/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_inspect_and_plan(directory):
    facts = json.loads(subprocess.check_output([conftest.BINARY, "inspect", "--json", directory]))
    assert facts["architecture"] == "qwen2" and "safetensors" in json.dumps(facts)
    plan = json.loads(subprocess.check_output([conftest.BINARY, "plan", "--json", directory]))
    assert plan["fits"] and plan["max_model_len"] == 256


def test_serves_and_ends_at_any_end_token(directory, tmp_path):
    node = Node("--compute-mode", "exact", "--kv-cache-bytes", "8MiB", model=directory)
    try:
        ids = complete(node, ignore_eos=True)["token_ids"]
        assert len(ids) == 8
        chat = httpx.post(node.url + "/v1/chat/completions", json=dict(
            model=NAME, max_tokens=2, messages=[dict(role="user", content="Hi")])).json()
        # Two of <|im_start|>, one <|im_end|>, and the bytes between: the directory's own template, whose last
        # newline Jinja drops.
        assert chat["usage"]["prompt_tokens"] == 3 + len("user\nHi\nassistant")
    finally:
        node.stop()
    # The same model, whose generation_config.json now names the third token of that answer as an end.
    third = ids[2]
    assert third not in ids[:2]
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    (other / "generation_config.json").write_text(json.dumps(dict(eos_token_id=[0, third])))
    node = Node("--compute-mode", "exact", "--kv-cache-bytes", "8MiB", model=other)
    try:
        ended = complete(node)
        assert ended["token_ids"] == ids[:2] and ended["finish_reason"] == "stop"
    finally:
        node.stop()


def cut_short(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return "model.safetensors"


def other_shape(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | dict(intermediate_size=FFN * 2)))
    return "mlp."


def link_outside(path):
    (path.parent / "secret").write_bytes((path / "model.safetensors").read_bytes())
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to("../secret")
    return "model.safetensors"


def unknown_step(path):
    spec = tokenizer() | dict(normalizer=dict(type="Unheard"))
    (path / "tokenizer.json").write_text(json.dumps(spec))
    return "tokenizer.json"


@pytest.mark.parametrize("spoil", [cut_short, other_shape, link_outside, unknown_step])
def test_a_bad_directory_is_one_line(directory, tmp_path, spoil):
    bad = tmp_path / "bad"
    shutil.copytree(directory, bad)
    named = spoil(bad)
    begin = time.monotonic()
    done = subprocess.run([conftest.BINARY, "serve", bad, "--port", "0", "--grpc-port", "0", "--health-port", "0"],
                          capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1 and time.monotonic() - begin < 5
    said = (done.stdout + done.stderr).strip().splitlines()
    assert named in said[-1] and str(bad) in said[-1], said
