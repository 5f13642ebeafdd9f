"""Two hundred streams at once through all kinds of clients; one of them goes away."""
import asyncio
import json

import grpc
import httpx
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

from conftest import NAME, sample, wait_idle

PROMPTS = [f"Number {i}: the next word is" for i in range(8)]


async def by_http(session, node, prompt, leave_after=None):
    body = {"model": NAME, "prompt": prompt, "max_tokens": 24, "temperature": 0, "stream": True, "ignore_eos": True}
    text, seen = "", 0
    async with session.stream("POST", node.url + "/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                text += chunk["choices"][0]["text"] if chunk["choices"] else ""
                seen += 1
                if leave_after and seen >= leave_after:
                    return None
    return text


async def by_grpc(stub, prompt, leave_after=None):
    request = pb.GenerateRequest(model=NAME, text=prompt, sampling=gen.SamplingOptions(temperature=0),
                                 stopping=gen.StopOptions(max_tokens=24, ignore_eos=True))
    call = stub.GenerateStream(pb.GenerateStreamRequest(request=request))
    text, seen = "", 0
    async for message in call:
        text += "".join(o.text for o in message.outputs)
        seen += 1
        if leave_after and seen >= leave_after:
            call.cancel()
            return None
    return text


async def all_at_once(node):
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits) as session, grpc.aio.insecure_channel(node.address) as chan:
        stub = rpc.InferenceServiceStub(chan)
        jobs = []
        for i in range(200):
            leave = 3 if i == 77 or i == 78 else None
            prompt = PROMPTS[i % len(PROMPTS)]
            jobs.append(by_http(session, node, prompt, leave) if i % 2 else by_grpc(stub, prompt, leave))
        return await asyncio.gather(*jobs)


def test_two_hundred_streams_and_two_leave(exact_node):
    """In exact mode the company cannot matter: every answer equals the answer alone."""
    alone = {}
    with httpx.Client(timeout=60) as session:
        for prompt in PROMPTS:
            body = {"model": NAME, "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
            alone[prompt] = session.post(exact_node.url + "/v1/completions", json=body).json()["choices"][0]["text"]
    before = wait_idle(exact_node)
    answers = asyncio.run(all_at_once(exact_node))
    assert answers[77] is None and answers[78] is None
    for i, answer in enumerate(answers):
        if i not in (77, 78):
            assert answer == alone[PROMPTS[i % len(PROMPTS)]], f"stream {i}"
    after = wait_idle(exact_node)
    ended = sum(v - before.get(k, 0) for k, v in after.items() if k.startswith("vllm:request_success_total"))
    assert ended >= 198
    assert sample(after, "vllm:kv_cache_usage_perc") < 0.05
