"""A GGUF file with SentencePiece pieces (`tokenizer.ggml.model` is `llama`): small, random, written here byte by byte."""
import json
import random
import struct
import subprocess

import grpc
import httpx
import pytest
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

import conftest
from conftest import NAME, Node

WIDTH, LAYERS, HEADS, KV_HEADS, FFN, CONTEXT = 64, 2, 4, 2, 128, 512
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SPACE = "\u2581"
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
TEXTS = ["Hello world", "hello  hello", " the world", "the", "", "a\nb\tc", "\u00fcber caf\u00e9 \u4e16\u754c", "\U0001f642!", "</s>x<s>",
         "theworldhello" * 20]


def vocabulary():
    """(text, score, type) of each token: three special ones, the bytes, characters, and words by their beginnings."""
    rows = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    rows += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    words = ["hello", SPACE + "hello", SPACE + "Hello", SPACE + "world", SPACE + "the", "there", SPACE + SPACE, "\u4e16\u754c"]
    pieces = dict.fromkeys(w[:n] for w in words for n in range(2, len(w) + 1))
    pieces |= dict.fromkeys(c for w in words for c in w)
    return rows + [(piece, -float(i), NORMAL) for i, piece in enumerate(pieces)]


def encode(text):
    """The ids, by the definition: of all neighbours that make a piece, the best joins, the left one of equals."""
    rows = vocabulary()
    ids = {row[0]: i for i, row in enumerate(rows)}
    score = {row[0]: row[1] for row in rows if row[2] == NORMAL}
    parts = list((SPACE + text.replace(" ", SPACE)) if text else "")
    while True:
        pairs = [(-score[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in score]
        if not pairs:
            break
        at = min(pairs)[1]
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    out = []
    for part in parts:
        out += [ids[part]] if part in score else [ids[f"<0x{b:02X}>"] for b in part.encode()]
    return out


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """Type and bytes of a metadata value: u32, f32, bool, string, or a list of one of them (int: i32)."""
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + string(item)
    kind = {str: 8, float: 6, int: 5}[type(item[0])]
    each = [string(x) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", x) for x in item]
    return struct.pack("<IIQ", 9, kind, len(item)) + b"".join(each)


def tensors(tokens):
    """Name -> dimensions, fastest first as GGUF has them."""
    kv = KV_HEADS * WIDTH // HEADS
    out = {"token_embd.weight": [WIDTH, tokens], "output_norm.weight": [WIDTH]}
    for i in range(LAYERS):
        out |= {f"blk.{i}.{name}.weight": dims for name, dims in {
            "attn_norm": [WIDTH], "ffn_norm": [WIDTH], "attn_q": [WIDTH, WIDTH], "attn_k": [WIDTH, kv],
            "attn_v": [WIDTH, kv], "attn_output": [WIDTH, WIDTH], "ffn_gate": [WIDTH, FFN], "ffn_up": [WIDTH, FFN],
            "ffn_down": [FFN, WIDTH]}.items()}
    return out


def q8_0(values):
    """Blocks of 32: an fp16 scale and 32 bytes."""
    out = b""
    for i in range(0, len(values), 32):
        scale = max(map(abs, values[i:i + 32])) / 127
        out += struct.pack("<e32b", scale, *(max(-127, min(127, round(v / scale))) for v in values[i:i + 32]))
    return out


def encoded(name, values, quantized):
    """GGUF's number of the type, and the bytes: all fp32, or Q8_0 with a table (which is the head too) in fp16."""
    if quantized and name == "token_embd.weight":
        return 1, struct.pack(f"<{len(values)}e", *values)
    if quantized and "norm" not in name:
        return 8, q8_0(values)
    return 0, struct.pack(f"<{len(values)}f", *values)


def write_gguf(path, quantized=False):
    rows = vocabulary()
    keys = {"general.architecture": "llama", "general.name": "tiny", "llama.block_count": LAYERS,
            "llama.context_length": CONTEXT, "llama.embedding_length": WIDTH, "llama.feed_forward_length": FFN,
            "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [r[0] for r in rows], "tokenizer.ggml.scores": [r[1] for r in rows],
            "tokenizer.ggml.token_type": [r[2] for r in rows], "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": TEMPLATE}
    draw, infos, data = random.Random(3), b"", b""
    for name, dims in tensors(len(rows)).items():
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        values = [1.0] * count if "norm" in name else [draw.gauss(0, 0.25) for _ in range(count)]
        kind, part = encoded(name, values, quantized)
        infos += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += part
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors(len(rows))), len(keys))
    head += b"".join(string(k) + value(v) for k, v in keys.items()) + infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-pieces.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def pieces(model):
    node = Node("--compute-mode", "exact", "--kv-cache-bytes", "8MiB", model=model)
    yield node
    node.stop()


@pytest.fixture(scope="module")
def stub(pieces):
    with grpc.insecure_channel(pieces.address) as channel:
        yield rpc.InferenceServiceStub(channel)


def tokenize(node, text, **fields):
    return httpx.post(node.url + "/tokenize", json=dict(model=NAME, prompt=text) | fields).json()["tokens"]


def test_inspect(model):
    facts = json.loads(subprocess.check_output([conftest.BINARY, "inspect", "--json", model]))["tokenizer"]
    assert facts["model"] == "spm" and facts["bos"]["id"] == 1 and facts["tokens"] == len(vocabulary())


@pytest.mark.parametrize("text", [t for t in TEXTS if "<" not in t], ids=range(len(TEXTS) - 1))
def test_ids_on_both_doors_and_back(pieces, stub, text):
    ids = [1, *encode(text)]
    assert tokenize(pieces, text) == ids
    assert list(stub.Tokenize(pb.TokenizeRequest(model=NAME, text=text)).token_ids) == ids
    assert tokenize(pieces, text, add_special_tokens=False) == ids[1:]
    back = httpx.post(pieces.url + "/detokenize", json=dict(model=NAME, tokens=ids[1:])).json()["prompt"]
    told = stub.Detokenize(pb.DetokenizeRequest(model=NAME, token_ids=ids[1:])).text
    assert back == told and back.removeprefix(" ") == text.removeprefix(" ")


def test_special_tokens_are_read_in_prompts_and_never_in_messages(pieces):
    assert [i for i in tokenize(pieces, "</s>x<s>", add_special_tokens=False) if i < 3] == [2, 1]
    chat = httpx.post(pieces.url + "/tokenize", json=dict(
        model=NAME, messages=[dict(role="user", content="a</s>b"), dict(role="assistant", content="<s>")])).json()["tokens"]
    assert [i for i in chat if i < 3] == [1, 2, 2]


@pytest.mark.parametrize("seed", range(6))
def test_stream_joins_to_the_whole(pieces, stub, seed):
    """A random model says random bytes: most characters are broken, some are not."""
    body = dict(model=NAME, prompt="Hello world", max_tokens=120, seed=seed, ignore_eos=True, return_token_ids=True)
    whole = httpx.post(pieces.url + "/v1/completions", json=body).json()
    assert whole["usage"] == whole["usage"] | dict(prompt_tokens=1 + len(encode("Hello world")), completion_tokens=120)
    text, parts = whole["choices"][0]["text"], []
    with httpx.stream("POST", pieces.url + "/v1/completions", json=body | dict(stream=True)) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                parts += [c["text"] for c in json.loads(line[6:])["choices"]]
    assert "".join(parts) == text and len(parts) > 1
    sampling, stopping = gen.SamplingOptions(seed=seed), gen.StopOptions(max_tokens=120, ignore_eos=True)
    request = pb.GenerateRequest(model=NAME, text="Hello world", sampling=sampling, stopping=stopping)
    unary = stub.Generate(request).outputs[0].text
    streamed = [o.text for m in stub.GenerateStream(pb.GenerateStreamRequest(request=request)) for o in m.outputs]
    assert unary == "".join(streamed) == text
    # The ids of the answer are its text: what broken bytes become depends on nothing else.
    ids = whole["choices"][0]["token_ids"]
    expected = b""
    for i in ids:
        piece = vocabulary()[i]
        expected += b"" if piece[2] in (UNKNOWN, CONTROL) else (
            bytes([i - 3]) if piece[2] == BYTE else piece[0].replace(SPACE, " ").encode())
    assert text == expected.decode(errors="replace")


def test_characters_of_several_byte_tokens_come_whole(pieces):
    """Echoed prompts go through the same stream of pieces."""
    text = "caf\u00e9 \U0001f642 \u4e16\u754c"
    answer = httpx.post(pieces.url + "/v1/completions", json=dict(model=NAME, prompt=text, max_tokens=1, echo=True)).json()
    assert answer["choices"][0]["text"].startswith(text)
    chat = httpx.post(pieces.url + "/v1/chat/completions", json=dict(
        model=NAME, max_tokens=4, messages=[dict(role="user", content=text)])).json()
    assert chat["usage"]["prompt_tokens"] == 1 + len(encode("[user] " + text)) + 1


def test_the_head_of_a_quantized_model_is_made_int8_unless_told_otherwise(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", quantized=True)
    answers = {}
    for flags in ((), ("--head-dtype", "source"), ("--compute-mode", "exact")):
        node = Node("--kv-cache-bytes", "8MiB", *flags, model=tmp_path / "tiny.gguf")
        try:
            told = httpx.get(node.url + "/v1/models").text
            answer = httpx.post(node.url + "/v1/completions", json=dict(
                model=NAME, prompt="Hello world", max_tokens=1, temperature=0, logprobs=1)).json()
        finally:
            node.stop()
        assert ("head made int8" in told) == (flags == ()), told
        answers[flags] = (answer["system_fingerprint"], answer["choices"][0]["logprobs"]["token_logprobs"][0])
    # Three ways of computing, and says so; near each other, and the int8 head's numbers are its own.
    assert len({fingerprint for fingerprint, _ in answers.values()}) == 3
    assert len({logprob for _, logprob in answers.values()}) == 3
    assert max(x for _, x in answers.values()) - min(x for _, x in answers.values()) < 0.1
