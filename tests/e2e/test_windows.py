"""A model with a layer that sees all and one with a window, through the whole node: memory divided between two KV
groups, so tight that sequences wait and are preempted, and the answers are those that each gets alone.
"""
import concurrent.futures
import json
import subprocess

import pytest

import conftest
from conftest import Node, metrics, sample, wait_idle
from test_model_directory import LAYERS, complete, directory  # noqa: F401: a fixture

WINDOW, LENGTH, BLOCK, STEP = 16, 1024, 16, 64
FLAGS = ["--compute-mode", "exact", "--block-size", str(BLOCK), "--max-num-batched-tokens", str(STEP)]
# All begin alike; the requests of the second round find it in the prefix cache.
SHARED = "In the beginning there was a very long prompt. " * 8
PROMPTS = [SHARED + f"The {i}th of them goes on in its own way: " + chr(97 + i) * (20 + 37 * i) for i in range(10)]


@pytest.fixture(scope="module")
def windowed(directory):  # noqa: F811
    assert LAYERS == 2
    config = json.loads((directory / "config.json").read_text())
    config |= dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, max_position_embeddings=LENGTH)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def plan(directory, *flags):  # noqa: F811
    return json.loads(subprocess.check_output([conftest.BINARY, "plan", "--json", directory, *FLAGS, *flags]))


def answers(node):
    def ask(prompt):
        return complete(node, prompt=prompt, max_tokens=160, ignore_eos=True)["token_ids"]
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(ask, PROMPTS))


def test_the_plan_divides(windowed):
    groups = plan(windowed)["kv_groups"]
    assert [g["window"] for g in groups] == [0, WINDOW] and [g["layers"] for g in groups] == [1, 1]
    # A window and one step's tokens, at any offset in its first block.
    assert groups[1]["blocks_per_sequence_max"] == -(-(WINDOW + STEP - 2) // BLOCK) + 1 == 6
    assert groups[0]["blocks_per_sequence_max"] == LENGTH // BLOCK
    # The smallest cache that holds one sequence; one group for all layers would need 1.8 times as much.
    block = groups[0]["bytes"] // (groups[0]["blocks"] + 1)
    assert plan(windowed, "--kv-cache-bytes", str(72 * block))["fits"]
    refused = subprocess.run([conftest.BINARY, "plan", "--json", windowed, *FLAGS, "--kv-cache-bytes", str(71 * block)],
                             capture_output=True, text=True)
    assert not json.loads(refused.stdout)["fits"]
    assert f"--kv-cache-bytes {72 * block}" in json.loads(refused.stdout)["remedies"]


def test_tight_memory_gives_the_same_answers(windowed):
    node = Node(*FLAGS, "--kv-cache-bytes", "64MiB", "--no-enable-prefix-caching", model=windowed)
    try:
        alone = [complete(node, prompt=p, max_tokens=160, ignore_eos=True)["token_ids"] for p in PROMPTS]
        assert len({tuple(a) for a in alone}) > 1
    finally:
        node.stop()
    groups = plan(windowed)["kv_groups"]
    block = groups[0]["bytes"] // (groups[0]["blocks"] + 1)
    node = Node(*FLAGS, "--kv-cache-bytes", str(90 * block), model=windowed)
    try:
        assert answers(node) == alone
        assert answers(node) == alone
        seen = wait_idle(node)
        assert sample(seen, "vllm:prefix_cache_hits_total") > len(SHARED) // 2
        assert sample(seen, "vllm:num_preemptions_total") > 0, "not tight enough to prove anything"
        assert sample(metrics(node.health_url), "vllm:kv_cache_usage_perc") == 0
    finally:
        node.stop()
