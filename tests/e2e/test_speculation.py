"""`--speculation ngram` changes what a step costs and no answer: the real model, on both doors, alone and in company."""
import concurrent.futures
import subprocess

import grpc
import httpx
import pytest
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc

from conftest import BINARY, DEMO, NAME, Node, metrics, sample, wait_idle

TEXT = "The keeper of the lighthouse wrote down the name of each ship that passed, and the hour of the day. "
ASKED = [dict(prompt=TEXT * 4, max_tokens=60, temperature=0), dict(prompt=TEXT * 4, max_tokens=60, temperature=0.7),
         dict(prompt=TEXT * 3, max_tokens=60, temperature=0, stop=["the hour"]),
         dict(prompt=TEXT * 3, max_tokens=40, temperature=0, frequency_penalty=0.5, logprobs=2),
         dict(prompt="Once upon a time", max_tokens=60, temperature=1)]


@pytest.fixture(scope="module")
def nodes():
    flags = ("--numerics", "batch-invariant", "--kv-cache-bytes", "256MiB")  # promises equal answers, on AMX too
    pair = [Node("--speculation", how, *flags) for how in ("none", "ngram")]
    yield pair
    for node in pair:
        node.stop()


def ask(node, fields):
    body = dict(model=NAME, seed=5, return_token_ids=True) | fields
    answer = httpx.post(node.url + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    choice, usage = answer.json()["choices"][0], answer.json()["usage"]
    return choice["text"], choice["token_ids"], choice["finish_reason"], choice["logprobs"], usage["completion_tokens"]


def ask_grpc(node, fields):
    with grpc.insecure_channel(node.address) as channel:
        answer = rpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(
            model=NAME, text=fields["prompt"], sampling=gen.SamplingOptions(temperature=fields["temperature"], seed=5),
            stopping=gen.StopOptions(max_tokens=fields["max_tokens"]), response=gen.ResponseOptions(token_ids=True)))
        return list(answer.outputs[0].token_ids)


def count(node, what):
    return sample(metrics(node.health_url), f"vllm:spec_decode_num_{what}_total")


def test_the_same_answers_in_fewer_steps(nodes):
    plain, guessing = nodes
    for fields in ASKED:
        assert ask(guessing, fields) == ask(plain, fields), fields
        assert ask_grpc(guessing, fields) == ask_grpc(plain, fields), fields
    accepted = count(guessing, "accepted_tokens")
    assert 20 < accepted <= count(guessing, "draft_tokens")  # it was on
    assert count(guessing, "drafts") <= count(guessing, "draft_tokens")
    wait_idle(guessing)


def test_the_same_answers_in_company(nodes):
    alone = [ask(nodes[0], fields) for fields in ASKED]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda fields: ask(nodes[1], fields), ASKED * 4))
    assert together == alone * 4
    wait_idle(nodes[1])


@pytest.mark.parametrize("flags", [("--speculation", "medusa"), ("--speculation-max-tokens", "0"),
                                   ("--speculation-max-tokens", "99"), ("--speculation-max-tokens", "many")])
def test_bad_flags(flags):
    done = subprocess.run([BINARY, "serve", DEMO, *flags], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2 and flags[0] in done.stderr and len(done.stderr.splitlines()) <= 3, done
