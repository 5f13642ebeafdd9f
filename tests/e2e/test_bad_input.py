"""Every class of hostile input on every door: a typed 4xx within a second, the others undisturbed, and
nothing left behind (reference: reliability.md section 1.0, O1-O7).

A canary streams a fixed greedy answer all the while; it must get every token and end normally.
"""
import http.client
import json
import socket
import threading
import time

import grpc
import httpx
import pytest
from millrace.v1 import chat_pb2 as chat
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

from conftest import NAME, wait_idle

INT32, INT64, UINT64 = 2**31, 2**63, 2**64


class Canary(threading.Thread):
    """Streams the same greedy answer again and again; every answer must equal the first."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.stop_now, self.failed, self.rounds = node, False, None, 0

    def answer(self):
        body = {"model": NAME, "prompt": "The canary sings:", "max_tokens": 24, "temperature": 0, "stream": True,
                "ignore_eos": True}
        count, done = 0, False
        with httpx.stream("POST", self.node.url + "/v1/completions", json=body, timeout=30) as reply:
            for line in reply.iter_lines():
                assert '"error"' not in line, line
                count += line.startswith("data: {")
                done = done or line == "data: [DONE]"
        return count, done

    def run(self):
        try:
            while not self.stop_now:
                count, done = self.answer()
                assert done and count >= 12, (count, done)
                self.rounds += 1
        except Exception as error:  # noqa: BLE001: reported by the fixture
            self.failed = error


@pytest.fixture(scope="module")
def watched(node):
    wait_idle(node)
    process, threads, descriptors = node.process.pid, node.threads(), node.descriptors()
    canary = Canary(node)
    canary.start()
    yield node
    canary.stop_now = True
    canary.join(30)
    assert canary.failed is None, canary.failed
    assert canary.rounds > 0
    wait_idle(node)
    time.sleep(1)
    assert node.process.poll() is None and node.process.pid == process
    assert node.threads() <= threads + 8  # gRPC keeps a few pollers
    assert node.descriptors() <= descriptors + 4


def chat_body(**fields):
    return {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}


def completion_body(**fields):
    return {"model": NAME, "prompt": "Hi", "max_tokens": 1, **fields}


BAD_FIELDS = [
    ("temperature", v) for v in (-1, 2.01, 1e30, "1", [], {}, True)
] + [("top_p", v) for v in (-0.1, 1.0001, "x", [])] + [
    ("min_p", v) for v in (-0.1, 2, "x")] + [
    ("top_k", v) for v in (-2, 1.5, INT64, "5", {})] + [
    ("repetition_penalty", v) for v in (0, -1, 1e9, "1")] + [
    (name, v) for name in ("presence_penalty", "frequency_penalty") for v in (-2.1, 2.1, 1e9, "0")] + [
    ("n", v) for v in (0, -1, 129, 5_000_000, 1.5, "2", INT32, UINT64)] + [
    ("max_tokens", v) for v in (-1, INT32, INT64, UINT64, "7", 1.5, [], {})] + [
    ("min_tokens", v) for v in (-1, 2, INT32, "1")] + [
    ("seed", v) for v in (UINT64, "1", 1.5, [])] + [
    ("stop", v) for v in ("", [""], ["a"] * 5, ["x" * 257], 5, {}, [1])] + [
    ("stop_token_ids", v) for v in ([-1], [49152], [INT32], ["a"], 5, [1] * 129)] + [
    ("logit_bias", v) for v in ({"-1": 1}, {"49152": 1}, {"abc": 1}, {"1.5": 1}, {"1": 101}, {"1": "x"}, [], 5,
                                {str(i): 0 for i in range(1025)})] + [
    ("stream", v) for v in ("yes", 1, [])] + [("stream_options", v) for v in (5, "x", {"include_usage": 3})] + [
    ("ignore_eos", v) for v in ("x", 2)] + [("truncate_prompt_tokens", v) for v in (-2, 0, "x", 1.5)] + [
    ("cache_salt", v) for v in ("a@b", "x" * 129, 5)] + [("priority", v) for v in (1, "x")] + [
    ("use_beam_search", True), ("allowed_token_ids", [1]), ("bad_words", ["x"]), ("logits_processors", ["x"]),
    ("structured_outputs", {"json": {}}), ("guided_regex", "a*"), ("chat_template", "{{ 1 }}"), ("suffix", "x"),
    ("best_of", 3)]


@pytest.mark.parametrize("name,value", BAD_FIELDS, ids=lambda v: str(v)[:30])
@pytest.mark.parametrize("door", ["chat", "completion"])
@pytest.mark.parametrize("stream", [False, True])
def test_bad_field(watched, door, name, value, stream):
    if (door, name) in (("chat", "suffix"), ("chat", "best_of"), ("completion", "chat_template")):
        return  # no parameter of this door: unknown fields are ignored by design
    body = (chat_body if door == "chat" else completion_body)(**{"stream": stream, name: value})
    if stream and name == "stream":
        return
    path = "/v1/chat/completions" if door == "chat" else "/v1/completions"
    for _ in range(2):  # every row twice: some peers died at the second
        begin = time.monotonic()
        reply = httpx.post(watched.url + path, content=json.dumps(body), headers={"content-type": "application/json"})
        assert time.monotonic() - begin < 1
        assert reply.status_code == 400, reply.text[:300]
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and isinstance(error["message"], str)
        named = [name, *value] if isinstance(value, dict) else [name]  # a nested field is named itself
        assert error["param"] is not None and any(n in error["param"] for n in named), error
        assert len(reply.content) < 4096 and reply.headers["x-request-id"]


BAD_BODIES = [b"", b"{", b"[]", b"5", b'"x"', b"null", b"nul", b"[" * 100_000, b'{"a":' * 100_000,
              b'{"model":"smollm2","model":"smollm2","prompt":"x"}', b'{"model":"smollm2","prompt":"\\ud800"}',
              b'{"model":"smollm2","prompt":"\xff"}', b'{"model":"smollm2","prompt":"x","max_tokens":NaN}',
              b'{"model":"smollm2","prompt":"x","max_tokens":01}', b'{"model":"smollm2","prompt":"x","temperature":1e400}',
              b'{"model":"smollm2","prompt":"x"} {}', b'\xef\xbb\xbf{"model":"smollm2","prompt":"x"}',
              b'{"prompt":"x","model":"smollm2","ignored":' + b"[" * 70 + b"]" * 70 + b"}",
              b'{"prompt":"x","model":"smollm2","ignored":[' + b"0," * 300_000 + b"0]}"]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda b: repr(b[:24]))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
def test_bad_body(watched, path, body):
    if b"1e400" in body and "tokenize" in path:
        return  # no parameter of these: unknown fields are ignored by design
    begin = time.monotonic()
    reply = httpx.post(watched.url + path, content=body, headers={"content-type": "application/json"}, timeout=5)
    assert time.monotonic() - begin < 1.5
    assert reply.status_code == 400, (reply.status_code, reply.text[:200])
    assert isinstance(reply.json()["error"]["message"], str)


BAD_PROMPTS = [("", 400), ([], 400), ([""], 400), ([[]], 400), ([-1], 400), ([49152], 400), ([INT32], 400),
               ([1.5], 400), ([True], 400), ([None], 400), (5, 400), ({}, 400), (None, 400), ([1, "a"], 400),
               ([["a"]], 400), ([5] * 8193, 400), (["x"] * 129, 400)]


@pytest.mark.parametrize("prompt,status", BAD_PROMPTS, ids=lambda v: str(v)[:20])
def test_bad_prompt(watched, prompt, status):
    reply = httpx.post(watched.url + "/v1/completions", json=completion_body(prompt=prompt))
    assert reply.status_code == status, reply.text[:200]


BAD_MESSAGES = [[], {}, "x", None, [5], [{}], [{"role": "user"}], [{"role": "king", "content": "x"}],
                [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "image_url",
                 "image_url": {"url": "http://169.254.169.254/"}}]}], [{"role": "user", "content": [{"type": "text"}]}],
                [{"role": "user", "content": "x"}] * 2049,
                [{"role": "user", "content": [{"type": "text", "text": "x"}] * 4097}],
                [{"role": "tool", "content": "x"}]]


@pytest.mark.parametrize("messages", BAD_MESSAGES, ids=lambda v: str(v)[:40])
def test_bad_messages(watched, messages):
    reply = httpx.post(watched.url + "/v1/chat/completions", json=chat_body(messages=messages))
    assert reply.status_code == 400, reply.text[:200]
    assert "messages" in reply.json()["error"]["param"]


def raw(node, data, wait=2.0):
    """Sends bytes as they are; returns what comes back until close or silence."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=wait) as sock:
        sock.sendall(data)
        out = b""
        try:
            while chunk := sock.recv(65536):
                out += chunk
        except (TimeoutError, ConnectionResetError):
            pass
    return out


def post(headers, body=b"{}"):
    return b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n" + body


RAW = [
    (post(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), 400),
    (post(b"Content-Length: 2\r\nContent-Length: 3\r\n"), 400),
    (post(b"Content-Length: +2\r\n"), 400), (post(b"Content-Length: 0x2\r\n"), 400),
    (post(b"Transfer-Encoding: chunked, identity\r\n"), 400), (post(b"Transfer-Encoding: gzip\r\nContent-Length: 2\r\n"), 400),
    (post(b"Transfer-Encoding : chunked\r\n"), 400), (post(b"Transfer-Encoding: chunked\r\n", b"-2\r\nab\r\n"), 400),
    (post(b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFFF\r\nab\r\n"), (400, 413)),
    (b"GET /version HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),  # DNS rebinding
    (b"GET /health HTTP/1.1\r\n\r\n", 400), (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\nHost: a\n\n", 400), (b"GARBAGE\r\n\r\n", 400), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (414, 431, 400)),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20000 + b"\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(200)) + b"\r\n", 431),
    (post(b"Content-Type: application/json\r\nContent-Length: 9000000\r\n", b""), 413),
    (post(b"Content-Type: text/plain\r\nContent-Length: 2\r\n"), 415),
    (post(b"Content-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"), 415),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nFolded: a\r\n b\r\n\r\n", 400),
]


@pytest.mark.parametrize("data,status", RAW, ids=lambda v: repr(v)[:50])
def test_raw_http(watched, data, status):
    out = raw(watched, data)
    assert out.startswith(b"HTTP/1.1 "), out[:100]
    allowed = status if isinstance(status, tuple) else (status,)
    assert int(out[9:12]) in allowed, out[:200]


@pytest.mark.parametrize("path", ["//v1/models", "/v1/../v1/models", "/%76%31/models", "/V1/models", "/v1/models/;x",
                                  "/v1/models.", "/v1/none", "/"])
def test_odd_paths_are_404(watched, path):
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=5)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 404, path
    assert json.loads(reply.read())["error"]["type"] == "invalid_request_error"


def test_wrong_method_is_405(watched):
    assert httpx.get(watched.url + "/v1/completions").status_code == 405
    assert httpx.post(watched.url + "/v1/models", json={}).status_code == 405


def test_pipelined_and_body_on_get(watched):
    two = b"GET /version HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde" \
          b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    out = raw(watched, two)
    assert out.count(b"HTTP/1.1 200") == 2 or (out.count(b"HTTP/1.1 4") == 1 and out.count(b"HTTP/1.1 200") == 0)


def test_disconnect_at_every_point(watched):
    body = json.dumps(completion_body(max_tokens=4000, ignore_eos=True, stream=True)).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    whole = head + body
    for cut in (1, len(head) // 2, len(head), len(head) + 5, len(whole)):
        with socket.create_connection(("127.0.0.1", watched.port)) as sock:
            sock.sendall(whole[:cut])
            if cut == len(whole):
                sock.recv(10)
    with socket.create_connection(("127.0.0.1", watched.port)) as sock:  # and with a reset
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sock.sendall(whole)
        sock.recv(10)


@pytest.fixture(scope="module")
def stub(node):
    with grpc.insecure_channel(node.address) as channel:
        yield rpc.InferenceServiceStub(channel)


def generate(**fields):
    return pb.GenerateRequest(**{"model": NAME, "text": "Hi", "stopping": gen.StopOptions(max_tokens=1), **fields})


BAD_GRPC = [
    generate(text=""), generate(sampling=gen.SamplingOptions(temperature=-1)),
    generate(sampling=gen.SamplingOptions(temperature=float("nan"))), generate(sampling=gen.SamplingOptions(top_p=2)),
    generate(sampling=gen.SamplingOptions(n=0)), generate(sampling=gen.SamplingOptions(n=129)),
    generate(sampling=gen.SamplingOptions(top_k=-2)), generate(sampling=gen.SamplingOptions(logit_bias={49152: 1})),
    generate(sampling=gen.SamplingOptions(logit_bias={1: float("inf")})),
    generate(stopping=gen.StopOptions(max_tokens=-1)), generate(stopping=gen.StopOptions(max_tokens=0)),
    generate(stopping=gen.StopOptions(max_tokens=1, stop_strings=[""])),
    generate(stopping=gen.StopOptions(max_tokens=1, stop_token_ids=[49152])),
    pb.GenerateRequest(model=NAME), pb.GenerateRequest(model=NAME, token_ids=gen.TokenIds(ids=[])),
    pb.GenerateRequest(model=NAME, token_ids=gen.TokenIds(ids=[4_000_000_000])),
    pb.GenerateRequest(model=NAME, token_ids=gen.TokenIds(ids=[5] * 8193)),
    generate(response=gen.ResponseOptions(logprobs=21)), generate(response=gen.ResponseOptions(logprobs=-2)),
]


@pytest.mark.parametrize("request_", BAD_GRPC, ids=range(len(BAD_GRPC)))
@pytest.mark.parametrize("stream", [False, True])
def test_bad_grpc(watched, stub, request_, stream):
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as error:
            if stream:
                list(stub.GenerateStream(pb.GenerateStreamRequest(request=request_), timeout=1))
            else:
                stub.Generate(request_, timeout=1)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, error.value
        details = dict(error.value.trailing_metadata()).get("grpc-status-details-bin")
        assert details and b"millrace" in details


UNSUPPORTED_GRPC = [
    generate(structured_outputs=gen.StructuredOutput(regex="a*")), generate(suffix="x"),
    generate(sampling=gen.SamplingOptions(allowed_token_ids=[1])), generate(sampling=gen.SamplingOptions(bad_words=["x"])),
    generate(sampling=gen.SamplingOptions(use_beam_search=True)),
]


@pytest.mark.parametrize("request_", UNSUPPORTED_GRPC, ids=range(len(UNSUPPORTED_GRPC)))
def test_unsupported_grpc(watched, stub, request_):
    with pytest.raises(grpc.RpcError) as error:
        stub.Generate(request_, timeout=1)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_unsupported_grpc_tools(watched, stub):
    message = chat.ChatMessage(role=chat.CHAT_ROLE_USER, text="Hi")
    with pytest.raises(grpc.RpcError) as error:
        stub.Chat(pb.ChatRequest(model=NAME, messages=[message], tools=[chat.Tool(name="f")]), timeout=1)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_grpc_garbage_and_oversize(watched, node):
    with grpc.insecure_channel(node.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary("/millrace.v1.InferenceService/Generate", request_serializer=lambda b: b,
                                   response_deserializer=lambda b: b)
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x7f", b"\x12" + b"\x80" * 20, bytes(9 << 20)):
            with pytest.raises(grpc.RpcError) as error:
                call(data, timeout=5)
            assert error.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT,
                                          grpc.StatusCode.RESOURCE_EXHAUSTED), error.value
        none = channel.unary_unary("/millrace.v1.InferenceService/None", request_serializer=lambda b: b,
                                   response_deserializer=lambda b: b)
        with pytest.raises(grpc.RpcError) as error:
            none(b"", timeout=5)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
