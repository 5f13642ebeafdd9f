#!/usr/bin/env python3
"""Load: 200 streams for minutes, a fifth of them cut at random, some readers truly slow.

Part 1, the model: 200 streams on both doors; nothing leaks (blocks, descriptors, threads, RSS).
Part 2, scripted tokens: streams of over a megabyte; slow readers are paused and ended, and the gaps of the
others stay as they were without slow readers.

    tools/e2e_python.sh tests/e2e/load_soak.py [--seconds 120]

Prints one JSON line; exit code 1 when a promise is broken.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402
from conftest import NAME, Node, metrics, sample, wait_idle  # noqa: E402

BUILD = pathlib.Path(os.environ.get("MILLRACE_BINARY", conftest.BINARY)).parents[1]
broken = []


def promise(ok, what):
    if not ok:
        broken.append(what)
        print("BROKEN: " + what, file=sys.stderr)


def http(node, streams, seconds, *flags):
    command = [str(BUILD / "bench/load_client_http"), "--port", str(node.port), "--streams", str(streams), "--seconds",
               str(seconds), "--model", NAME, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def grpc(node, streams, seconds, *flags):
    command = [str(BUILD / "bench/load_client_grpc"), "--target", node.address, "--streams", str(streams), "--seconds",
               str(seconds), "--model", NAME, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate()
    promise(process.returncode == 0, f"a load client failed: {err.strip()[:400]}")
    return json.loads(out.strip().splitlines()[-1]) if out.strip() else {}


def part_model(seconds):
    node = Node("--kv-cache-bytes", "1GiB", "--max-num-seqs", "256")
    try:
        finish(http(node, 50, 5, "--max-tokens", 32))  # warm: every buffer and thread exists
        time.sleep(2)
        wait_idle(node)
        before = dict(threads=node.threads(), descriptors=node.descriptors())
        clients = [http(node, 100, seconds, "--max-tokens", 64, "--disconnect", 0.2),
                   grpc(node, 100, seconds, "--max-tokens", 64, "--disconnect", 0.2)]
        rss = []
        end = time.time() + seconds
        while time.time() < end:
            time.sleep(1)
            rss.append(node.rss_bytes())
        results = [finish(c) for c in clients]
        samples = wait_idle(node, 30)
        time.sleep(2)
        last_minute = rss[-60:] if len(rss) >= 90 else rss[-len(rss) // 3:]
        growth = (max(last_minute[-10:]) - max(last_minute[:10])) / 2**20
        promise(sample(samples, "vllm:kv_cache_usage_perc") == 0, "blocks are still held after the load")
        promise(node.descriptors() <= before["descriptors"] + 4, "descriptors leaked")
        promise(node.threads() <= before["threads"] + 8, "threads leaked")
        promise(growth <= 2, f"RSS grew by {growth:.1f} MiB over the last minute")
        promise(all(r.get("failed") == 0 for r in results), "requests failed")
        return dict(clients=results, rss_growth_mib=round(growth, 2), rss_mib=rss[-1] >> 20, **before,
                    threads_after=node.threads(), descriptors_after=node.descriptors())
    finally:
        node.stop()


def part_slow(seconds):
    conftest.BINARY = BUILD / "bench/scripted_node"
    node = Node("--kv-cache-bytes", "4GiB", "--max-num-seqs", "256")
    try:
        alone = finish(http(node, 64, seconds, "--max-tokens", 7000))
        both = finish(http(node, 72, seconds + 45, "--max-tokens", 7000, "--slow", 8))
        samples = wait_idle(node, 60)
        pauses = sample(samples, "millrace_stream_pauses_total")
        slow = sum(v for k, v in samples.items() if "slow_consumer" in k)
        promise(pauses > 0, "no stream was paused")
        promise(slow > 0 and both.get("slow_ended", 0) > 0, "no slow reader was ended")
        promise(both.get("gap_ms_p99", 0) <= 2 * alone.get("gap_ms_p99", 0) + 5, "the others' gaps changed")
        return dict(alone=alone, with_slow=both, pauses=pauses, slow_consumer=slow)
    finally:
        node.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=120)
    arguments = parser.parse_args()
    report = dict(model=part_model(arguments.seconds), slow=part_slow(max(10, arguments.seconds // 4)), broken=broken)
    print(json.dumps(report))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
