"""What a request leaves out comes from the model's generation_config.json: the same on every door."""
import json
import shutil
import subprocess

import grpc
import httpx
import pytest
from millrace.v1 import chat_pb2 as chat
from millrace.v1 import generation_pb2 as gen
from millrace.v1 import inference_service_pb2 as pb
from millrace.v1 import inference_service_pb2_grpc as rpc
from millrace.v1 import model_service_pb2 as models
from millrace.v1 import model_service_pb2_grpc as model_rpc

import conftest
from conftest import NAME, Node
from test_model_directory import directory  # noqa: F401 (a fixture)

SAYS = dict(do_sample=True, temperature=0.8, top_p=0.9, top_k=7, min_p=0.01, repetition_penalty=1.3, max_new_tokens=9)
GIVEN = {k: v for k, v in SAYS.items() if k not in ("do_sample", "max_new_tokens")}
NEUTRAL = dict(temperature=1, top_p=1, top_k=0, min_p=0, repetition_penalty=1)
FLAGS = ("--compute-mode", "exact", "--kv-cache-bytes", "8MiB")


def model_that_says(directory, tmp_path, **config):
    path = tmp_path / "model"
    shutil.copytree(directory, path)
    (path / "generation_config.json").write_text(json.dumps(dict(eos_token_id=[0, 2]) | config))
    return path


def by_http(node, **fields):
    body = dict(model=NAME, prompt="Hello", seed=11, max_tokens=24, ignore_eos=True, return_token_ids=True) | fields
    answer = httpx.post(node.url + "/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


def by_grpc(node, **sampling):
    with grpc.insecure_channel(node.address) as channel:
        answer = rpc.InferenceServiceStub(channel).Generate(pb.GenerateRequest(
            model=NAME, text="Hello", sampling=gen.SamplingOptions(**(dict(seed=11) | sampling)),
            stopping=gen.StopOptions(max_tokens=24, ignore_eos=True), response=gen.ResponseOptions(token_ids=True)))
        return list(answer.outputs[0].token_ids)


def chat_by_http(node, **fields):
    body = dict(model=NAME, messages=[dict(role="user", content="Hi")], ignore_eos=True) | fields
    return httpx.post(node.url + "/v1/chat/completions", json=body).json()


def chat_by_grpc(node, **stopping):
    with grpc.insecure_channel(node.address) as channel:
        return rpc.InferenceServiceStub(channel).Chat(pb.ChatRequest(
            model=NAME, messages=[chat.ChatMessage(role=chat.CHAT_ROLE_USER, text="Hi")],
            stopping=gen.StopOptions(ignore_eos=True, **stopping)))


def defaults_of(node):
    """As both doors tell them; they must say the same."""
    http = httpx.get(node.url + "/v1/models").json()["data"][0]
    with grpc.insecure_channel(node.address) as channel:
        stub = model_rpc.ModelServiceStub(channel)
        model = stub.GetModel(models.GetModelRequest(name=NAME)).model
        assert model == stub.ListModels(models.ListModelsRequest()).models[0]
    told, grpc_told = http["sampling_defaults"], model.sampling_defaults
    assert http["format"] == model.format and http["architecture"] == model.architecture == "qwen2"
    for name in NEUTRAL:
        assert getattr(grpc_told, name) == pytest.approx(told[name], rel=1e-6)
    assert grpc_told.from_model == told["from_model"]
    assert grpc_told.HasField("chat_max_tokens") == (told["chat_max_tokens"] is not None)
    assert grpc_told.chat_max_tokens == (told["chat_max_tokens"] or 0)
    return told


def ask(node, *flags):
    """The command line's chat."""
    return subprocess.run([conftest.BINARY, "chat", "--address", node.address, *flags, "Hi"], capture_output=True,
                          check=True, timeout=60).stdout


def test_what_a_request_leaves_out_is_the_models(directory, tmp_path):  # noqa: F811
    node = Node(*FLAGS, model=model_that_says(directory, tmp_path, **SAYS))
    try:
        assert defaults_of(node) == GIVEN | dict(chat_max_tokens=9, from_model=True)
        left_out, given, neutral = by_http(node), by_http(node, **GIVEN), by_http(node, **NEUTRAL)
        assert left_out == given == by_http(node, temperature=None, top_k=None) != neutral
        assert by_grpc(node) == left_out and by_grpc(node, **NEUTRAL) == neutral
        # One number of the request's own leaves the others to the model.
        hot = GIVEN | dict(temperature=2)
        assert by_http(node, temperature=2) == by_http(node, **hot) == by_grpc(node, temperature=2) != left_out
        greedy = by_http(node, temperature=0, repetition_penalty=1)
        assert greedy == by_http(node, temperature=0, repetition_penalty=1, seed=5) != left_out
        # max_new_tokens is a chat's default and nobody's limit.
        assert chat_by_http(node)["usage"]["completion_tokens"] == 9
        assert chat_by_grpc(node).usage.completion_tokens == 9
        assert chat_by_http(node, max_tokens=20)["usage"]["completion_tokens"] == 20
        assert chat_by_grpc(node, max_tokens=20).usage.completion_tokens == 20
        # The command line leaves out what it was not given: sampled, and no longer than 9 tokens.
        assert len({ask(node) for _ in range(5)}) > 1
        assert ask(node, "--temperature", "0", "--model", NAME) == ask(node, "--temperature", "0")
    finally:
        node.stop()


def test_none_leaves_the_models_defaults_out(directory, tmp_path):  # noqa: F811
    node = Node(*FLAGS, "--generation-config", "none", model=model_that_says(directory, tmp_path, **SAYS))
    try:
        assert defaults_of(node) == NEUTRAL | dict(chat_max_tokens=None, from_model=False)
        assert by_http(node) == by_http(node, **NEUTRAL) == by_grpc(node) != by_http(node, **GIVEN)
        assert chat_by_http(node)["usage"]["completion_tokens"] > 100  # what the context leaves
        assert ask(node) == ask(node)  # greedy, as with every model that recommends nothing
    finally:
        node.stop()


def test_do_sample_false_is_greedy(directory, tmp_path):  # noqa: F811
    node = Node(*FLAGS, model=model_that_says(directory, tmp_path, do_sample=False, top_k=7, temperature=0.8))
    try:
        assert defaults_of(node) == NEUTRAL | dict(temperature=0, chat_max_tokens=None, from_model=True)
        greedy = by_http(node, temperature=0)
        assert by_http(node) == by_http(node, seed=12) == by_grpc(node) == greedy
        # The file's filters were for a sampling that it turned off.
        assert by_http(node, temperature=1) == by_http(node, **NEUTRAL) != greedy
    finally:
        node.stop()


def test_a_default_that_no_request_may_have_is_one_line(directory, tmp_path):  # noqa: F811
    bad = model_that_says(directory, tmp_path, temperature=5.0)
    command = [conftest.BINARY, "serve", bad, "--port", "0", "--grpc-port", "0", "--health-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "generation_config.json" in last and "'temperature'" in last and "--generation-config none" in last
    node = Node(*FLAGS, "--generation-config", "none", model=bad)
    node.stop()
