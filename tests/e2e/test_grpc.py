"""A grpcio client generated from proto/, health and reflection clients."""
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from millrace.v1 import chat_pb2 as chat
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

from conftest import NAME, sample, wait_idle


@pytest.fixture(scope="module")
def channel(node):
    with grpc.insecure_channel(node.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return rpc.InferenceServiceStub(channel)


def chat_request(**stop):
    return pb.ChatRequest(model=NAME, messages=[chat.ChatMessage(role=chat.CHAT_ROLE_USER, text="What does HTTP stand for?")],
                          sampling=gen.SamplingOptions(temperature=0), stopping=gen.StopOptions(**stop))


def test_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "millrace.v1.InferenceService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1  # SERVING
    with pytest.raises(grpc.RpcError) as error:
        health.Check(health_pb2.HealthCheckRequest(service="none"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    reflection = ProtoReflectionDescriptorDatabase(channel)
    assert "millrace.v1.InferenceService" in reflection.get_services()
    chat_stream = reflection.FindFileContainingSymbol("millrace.v1.InferenceService")
    assert chat_stream.service[0].name == "InferenceService"


def test_stream_equals_unary_and_http(stub, client):
    unary = stub.Chat(chat_request(max_tokens=32))
    streamed = "".join(o.text for m in stub.ChatStream(pb.ChatStreamRequest(request=chat_request(max_tokens=32))) for o in m.outputs)
    http = client.chat.completions.create(model=NAME, max_tokens=32, temperature=0,
                                          messages=[{"role": "user", "content": "What does HTTP stand for?"}])
    assert unary.outputs[0].text == streamed == http.choices[0].message.content
    assert unary.usage.completion_tokens == http.usage.completion_tokens
    assert unary.usage.prompt_tokens == http.usage.prompt_tokens


def test_errors_equal_http(stub, client):
    import openai
    with pytest.raises(grpc.RpcError) as by_grpc:
        stub.Chat(pb.ChatRequest(model="nope", messages=[chat.ChatMessage(role=chat.CHAT_ROLE_USER, text="x")]))
    with pytest.raises(openai.NotFoundError) as by_http:
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    assert by_grpc.value.code() == grpc.StatusCode.NOT_FOUND
    assert by_grpc.value.details() == by_http.value.body["message"]
    assert any(k == "grpc-status-details-bin" for k, _ in by_grpc.value.trailing_metadata())


def test_cancel_frees_and_costs_nobody(stub, node):
    request = pb.GenerateRequest(model=NAME, text="Once upon a time",
                                 stopping=gen.StopOptions(max_tokens=2000, ignore_eos=True))
    stream = stub.GenerateStream(pb.GenerateStreamRequest(request=request))
    next(stream)
    stream.cancel()
    samples = wait_idle(node)
    assert sample(samples, "vllm:kv_cache_usage_perc") < 0.01


def test_deadline(stub, node):
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        stub.Generate(pb.GenerateRequest(model=NAME, text="Once",
                                         stopping=gen.StopOptions(max_tokens=4000, ignore_eos=True)), timeout=0.5)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - begin < 2
    wait_idle(node)


def test_deadline_is_the_same_over_http(stub, node):
    """grpc-timeout and x-request-timeout-ms: one validation, one end."""
    import httpx
    body = {"model": NAME, "prompt": "Once", "max_tokens": 4000, "ignore_eos": True}
    begin = time.monotonic()
    late = httpx.post(node.url + "/v1/completions", json=body, headers={"x-request-timeout-ms": "500"}, timeout=10)
    assert time.monotonic() - begin < 2
    with pytest.raises(grpc.RpcError) as error:
        stub.Generate(pb.GenerateRequest(model=NAME, text="Once", stopping=gen.StopOptions(max_tokens=4000, ignore_eos=True)),
                      timeout=0.5)
    assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # Already over when it comes: no work is begun.
    before = sample(wait_idle(node), "vllm:generation_tokens_total")
    over = httpx.post(node.url + "/v1/completions", json=body, headers={"x-request-timeout-ms": "0"})
    with pytest.raises(grpc.RpcError) as error:
        stub.Generate(pb.GenerateRequest(model=NAME, text="Once"), timeout=0)
    assert over.status_code == 504 and error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert sample(wait_idle(node), "vllm:generation_tokens_total") == before
    # In the middle of a stream: what there is, a typed error, the end.
    with httpx.stream("POST", node.url + "/v1/completions", json=dict(body, stream=True),
                      headers={"x-request-timeout-ms": "1000"}, timeout=10) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert reply.status_code == 200 and len(lines) > 3
    assert '"code":"timeout"' in lines[-2] and lines[-1] == "data: [DONE]"


def test_token_ids_in_and_out(stub):
    ids = list(stub.Tokenize(pb.TokenizeRequest(model=NAME, text="Hello world")).token_ids)
    assert stub.Detokenize(pb.DetokenizeRequest(model=NAME, token_ids=ids)).text == "Hello world"
    reply = stub.Generate(pb.GenerateRequest(model=NAME, token_ids=gen.TokenIds(ids=ids),
                                             sampling=gen.SamplingOptions(temperature=0),
                                             stopping=gen.StopOptions(max_tokens=4),
                                             response=gen.ResponseOptions(token_ids=True)))
    assert len(reply.outputs[0].token_ids) == 4
