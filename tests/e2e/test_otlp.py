"""Spans of the real binary, decoded by the official OTLP package in a grpcio collector."""
import concurrent.futures
import threading
import time

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

from conftest import NAME, Node

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets; refuses the first call, which the exporter must repeat."""

    def __init__(self):
        self.lock, self.requests, self.calls = threading.Lock(), [], 0
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request, context):
        with self.lock:
            self.calls += 1
            if self.calls == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
            self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self):
        with self.lock:
            return [(rs.resource, span) for request in self.requests for rs in request.resource_spans
                    for scope in rs.scope_spans for span in scope.spans]

    def wait(self, count, seconds=20):
        end = time.monotonic() + seconds
        while len(self.spans()) < count and time.monotonic() < end:
            time.sleep(0.05)
        return self.spans()


@pytest.fixture(scope="module")
def traced():
    collector = Collector()
    node = Node("--otlp-traces-endpoint", f"http://127.0.0.1:{collector.port}", "--kv-cache-bytes", "512MiB")
    yield node, collector
    node.stop()
    collector.server.stop(0)


def value(any_value):
    kind = any_value.WhichOneof("value")
    found = getattr(any_value, kind)
    return [value(v) for v in found.values] if kind == "array_value" else found


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def unknown_fields(message):
    """Field numbers that the official messages do not have, at any depth."""
    from google.protobuf import unknown_fields as uf
    found = [field.field_number for field in uf.UnknownFieldSet(message)]
    for descriptor, content in message.ListFields():
        if descriptor.message_type is not None:
            for item in (content if isinstance(content, (list, tuple)) or hasattr(content, "add") else [content]):
                found += unknown_fields(item)
    return found


def test_spans_of_both_doors(traced):
    node, collector = traced
    body = {"model": NAME, "prompt": "Hello", "max_tokens": 4}
    assert httpx.post(node.url + "/v1/completions", json=body, headers={"traceparent": TRACEPARENT},
                      timeout=60).status_code == 200
    with grpc.insecure_channel(node.address) as channel:
        rpc.InferenceServiceStub(channel).Generate(
            pb.GenerateRequest(model=NAME, text="Hello", stopping=gen.StopOptions(max_tokens=4)),
            metadata=[("traceparent", TRACEPARENT)])
    spans = collector.wait(8)
    assert collector.calls >= 2, "the refused call was not repeated"
    for request in collector.requests:
        assert unknown_fields(request) == []
    resource = attributes(spans[0][0].attributes)
    assert resource["service.name"] == "millrace" and resource["service.version"]
    requests = [s for _, s in spans if s.parent_span_id.hex() == PARENT]
    assert len(requests) == 2, [s.name for _, s in spans]
    for root in requests:
        assert root.trace_id.hex() == TRACE and len(root.span_id) == 8
        assert root.kind == root.SPAN_KIND_SERVER and root.end_time_unix_nano > root.start_time_unix_nano
        assert abs(root.end_time_unix_nano / 1e9 - time.time()) < 120
        children = {s.name: s for _, s in spans if s.parent_span_id == root.span_id}
        names = {s.name for _, s in spans if s.trace_id == root.trace_id}
        assert {"queue", "prefill", "decode"} <= names, names
        for child in children.values():
            assert child.start_time_unix_nano >= root.start_time_unix_nano
            assert child.end_time_unix_nano <= root.end_time_unix_nano
    merged = {}
    for _, span in spans:
        merged.update(attributes(span.attributes))
    assert merged["gen_ai.usage.output_tokens"] == 4 and merged["gen_ai.request.model"] == NAME
    assert not any("Hello" in str(v) for v in merged.values()), "a prompt is in a span"


def test_a_caller_that_does_not_sample_is_obeyed(traced):
    node, collector = traced
    before = len(collector.wait(1))
    other = "1" * 32
    body = {"model": NAME, "prompt": "Hello", "max_tokens": 1}
    for flags in ("00", "01"):
        httpx.post(node.url + "/v1/completions", json=body,
                   headers={"traceparent": f"00-{other}-{PARENT}-{flags}"}, timeout=60)
    spans = [s for _, s in collector.wait(before + 4) if s.trace_id.hex() == other]
    assert len({s.span_id for s in spans if s.parent_span_id.hex() == PARENT}) == 1


def test_a_collector_that_is_gone_costs_nothing():
    node = Node("--otlp-traces-endpoint", "http://127.0.0.1:9", "--kv-cache-bytes", "512MiB")
    body = {"model": NAME, "prompt": "Hello", "max_tokens": 1}
    for _ in range(3):
        assert httpx.post(node.url + "/v1/completions", json=body, timeout=60).status_code == 200
    begin = time.monotonic()
    node.stop()
    assert time.monotonic() - begin < 8
