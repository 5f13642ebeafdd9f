"""The official `openai` client against the demo model."""
import json
import pathlib
import subprocess

import httpx
import openai
import pytest

from conftest import NAME

QUESTION = [{"role": "user", "content": "What does HTTP stand for?"}]


def test_models(client):
    models = client.models.list().data
    assert models[0].id == NAME and models[0].object == "model"
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("org/none")
    assert error.value.code == "model_not_found" and error.value.request_id


def test_chat_answers_rightly(client):
    answer = client.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=60)
    assert "hypertext transfer protocol" in answer.choices[0].message.content.lower()
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_chat_stream_equals_whole(client):
    whole = client.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=40)
    stream = client.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=40, stream=True,
                                            stream_options={"include_usage": True})
    text, usage, roles, finish = "", None, 0, None
    for chunk in stream:
        if chunk.usage:
            usage = chunk.usage
            assert chunk.choices == []
        for choice in chunk.choices:
            roles += choice.delta.role == "assistant"
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert roles == 1 and finish == whole.choices[0].finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_stream_accumulator_with_choices(client):
    with client.chat.completions.stream(model=NAME, messages=QUESTION, max_tokens=12, n=3, seed=7) as stream:
        for _ in stream:
            pass
        final = stream.current_completion_snapshot  # get_final_completion raises on "length"
    assert [c.index for c in final.choices] == [0, 1, 2]


def test_content_parts_and_nulls(client):
    body = {"model": NAME, "max_completion_tokens": 8, "temperature": 0, "stop": None, "logprobs": None, "n": None,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "What does HTTP stand for?"}]}]}
    reply = httpx.post(str(client.base_url) + "chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 8


def test_logprobs(client):
    answer = client.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=5, logprobs=True,
                                            top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)  # greedy: the most likely
    assert b"".join(bytes(t.bytes) for t in content).decode() == answer.choices[0].message.content


def test_echo_loglikelihood(client):
    """The shape that lm-evaluation-harness needs, and the two ways to ask agree."""
    text = "The capital of France is Paris."
    scored = client.completions.create(model=NAME, prompt=text, max_tokens=0, echo=True, logprobs=1)
    logprobs = scored.choices[0].logprobs
    assert scored.choices[0].text == text and "".join(logprobs.tokens) == text
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(v <= 0 for v in logprobs.token_logprobs[1:])
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset)
    one = client.completions.create(model=NAME, prompt=text, max_tokens=1, echo=True, logprobs=1, temperature=0)
    count = len(logprobs.tokens)
    assert one.choices[0].logprobs.token_logprobs[1:count] == pytest.approx(logprobs.token_logprobs[1:], abs=2e-2)


def test_stop_string_across_tokens(client):
    free = client.completions.create(model=NAME, prompt="Count: one, two, three,", max_tokens=24, temperature=0)
    text = free.choices[0].text
    stop = text[5:9]
    answer = client.completions.create(model=NAME, prompt="Count: one, two, three,", max_tokens=24, temperature=0,
                                       stop=[stop])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].text == text[: text.index(stop)]
    streamed = client.completions.create(model=NAME, prompt="Count: one, two, three,", max_tokens=24, temperature=0,
                                         stop=[stop], stream=True, stream_options={"include_usage": True})
    parts, usage = "", None
    for chunk in streamed:
        usage = chunk.usage or usage
        parts += chunk.choices[0].text if chunk.choices else ""
    assert parts == answer.choices[0].text and usage.completion_tokens == answer.usage.completion_tokens


def test_prompt_arrays_and_ids(client):
    tokens = httpx.post(str(client.base_url).replace("/v1/", "/tokenize"),
                        json={"model": NAME, "prompt": "Hello world"}).json()["tokens"]
    texts = client.completions.create(model=NAME, prompt=["Hello world", "The sky is"], max_tokens=4, temperature=0)
    ids = client.completions.create(model=NAME, prompt=tokens, max_tokens=4, temperature=0)
    assert [c.index for c in texts.choices] == [0, 1]
    assert texts.choices[0].text == ids.choices[0].text


def test_curl_streams(node):
    body = json.dumps({"model": NAME, "messages": QUESTION, "max_tokens": 8, "stream": True, "temperature": 0})
    out = subprocess.run(["curl", "-sN", "-i", node.url + "/v1/chat/completions", "-H", "content-type: application/json",
                          "-d", body], capture_output=True, text=True, check=True, timeout=20).stdout
    head, _, events = out.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200") and "text/event-stream" in head.lower() and "x-request-id" in head.lower()
    lines = [e for e in events.split("\n\n") if e.strip()]
    assert all(e.startswith("data: ") for e in lines), lines
    assert lines[-1] == "data: [DONE]"
    first = json.loads(lines[0][6:])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("extra", [{"tools": [{"type": "function", "function": {"name": "f"}}]},
                                   {"response_format": {"type": "json_object"}}, {"guided_json": {}},
                                   {"logits_processors": ["x"]}])
def test_fails_closed_by_name(client, extra):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=NAME, messages=QUESTION, max_tokens=1, extra_body=extra)
    assert error.value.code == "unsupported_parameter"
    assert error.value.param == next(iter(extra))


def test_overlong_prompt_names_both_counts(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=NAME, prompt=[5] * 9000, max_tokens=1)
    assert error.value.code == "context_length_exceeded"
    assert "9000" in str(error.value) and "8192" in str(error.value)
    cut = client.completions.create(model=NAME, prompt=[5] * 9000, max_tokens=1,
                                    extra_body={"truncate_prompt_tokens": 16})
    assert cut.usage.prompt_tokens == 16


@pytest.mark.parametrize("fixture", sorted((pathlib.Path(__file__).parent / "fixtures").glob("*.json")), ids=lambda p: p.stem)
def test_bodies_of_load_generators(node, fixture):
    """The request bodies of vllm bench serve, guidellm, inference-perf, aiperf, lm-eval and openai-python, as they are sent."""
    body = json.loads(fixture.read_text(encoding="utf-8")) | dict(model=NAME)
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    answer = httpx.post(node.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        whole = answer.json()
        prompts = body.get("prompt")
        several = isinstance(prompts, list) and not isinstance(prompts[0], int)
        choices = len(prompts) if several else 1
        assert len(whole["choices"]) == choices * body.get("n", 1) and whole["usage"]["completion_tokens"] > 0
        return
    # As these clients read it: events parted by an empty line, "data: " and one JSON value, [DONE] at the end.
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert all("error" not in chunk for chunk in chunks)
    if body.get("stream_options", {}).get("include_usage"):
        assert chunks[-1]["choices"] == []
        wanted = body.get("max_completion_tokens") or body["max_tokens"]
        if body.get("ignore_eos"):
            assert chunks[-1]["usage"]["completion_tokens"] == wanted
    text = [c["choices"][0].get("text") or c["choices"][0].get("delta", {}).get("content") for c in chunks if c["choices"]]
    assert any(text)
