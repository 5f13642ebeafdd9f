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
    assert "millrace.v1.InferenceService" in ProtoReflectionDescriptorDatabase(channel).get_services()


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


def test_token_ids_in_and_out(stub):
    ids = list(stub.Tokenize(pb.TokenizeRequest(model=NAME, text="Hello world")).token_ids)
    assert stub.Detokenize(pb.DetokenizeRequest(model=NAME, token_ids=ids)).text == "Hello world"
    reply = stub.Generate(pb.GenerateRequest(model=NAME, token_ids=gen.TokenIds(ids=ids),
                                             sampling=gen.SamplingOptions(temperature=0),
                                             stopping=gen.StopOptions(max_tokens=4),
                                             response=gen.ResponseOptions(token_ids=True)))
    assert len(reply.outputs[0].token_ids) == 4
