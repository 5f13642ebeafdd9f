#!/usr/bin/env python3
"""Load: 200 streams for minutes, a fifth of them cut at random, some readers truly slow.

Part 1, the model: 200 streams on both doors; nothing leaks (blocks, descriptors, threads, RSS).
Part 2, scripted tokens: streams of over a megabyte; slow readers are paused and ended, and the gaps of the
others stay as they were without slow readers.
Part 3, cores: 32 streams while the node has two kernel threads for each CPU and another program takes a CPU
away, five seconds of ten: no step stalls, gaps stay bounded.

    tools/e2e_python.sh tests/e2e/load_soak.py [--only model,slow,cores] [--seconds 120]

Prints one JSON line; exit code 1 when a promise is broken.
"""
import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402
from conftest import NAME, Node, sample, wait_idle  # noqa: E402
from millrace.v1 import generation_pb2 as gen  # noqa: E402
from millrace.v1 import inference_service_pb2 as pb  # noqa: E402
from millrace.v1 import inference_service_pb2_grpc as rpc  # noqa: E402

BUILD = pathlib.Path(os.environ.get("MILLRACE_BINARY", conftest.BINARY)).parents[1]
SLOW_SECONDS = 40  # the engine ends a request that was paused for 30
broken = []


def promise(ok, what):
    if not ok:
        broken.append(what)
        print("BROKEN: " + what, file=sys.stderr)


def http(node, streams, seconds, *flags):
    command = [str(BUILD / "bench/load_client_http"), "--port", str(node.port), "--streams", str(streams), "--seconds",
               str(seconds), "--model", NAME, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def grpc_client(node, streams, seconds, *flags):
    command = [str(BUILD / "bench/load_client_grpc"), "--target", node.address, "--streams", str(streams), "--seconds",
               str(seconds), "--model", NAME, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate()
    promise(process.returncode == 0, f"a load client failed: {err.strip()[:400]}")
    return json.loads(out.strip().splitlines()[-1]) if out.strip() else {}


def part_model(seconds):
    flags = ["--kv-cache-bytes", "512MiB", "--max-num-seqs", "256"]  # small: all of it is touched in the first minute
    plan = json.loads(subprocess.check_output([conftest.BINARY, "plan", conftest.DEMO, "--json", *flags]))
    node = Node(*flags)
    try:
        finish(http(node, 50, 5, "--max-tokens", 32))  # warm: every buffer and thread exists
        time.sleep(2)
        wait_idle(node)
        before = dict(threads=node.threads(), descriptors=node.descriptors())
        clients = [http(node, 100, seconds, "--max-tokens", 64, "--disconnect", 0.2),
                   grpc_client(node, 100, seconds, "--max-tokens", 64, "--disconnect", 0.2)]
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
        promise(max(rss) <= plan["total_bytes"], "RSS went over the memory plan")
        promise(all(r.get("failed") == 0 for r in results), "requests failed")
        return dict(plan_mib=plan["total_bytes"] >> 20, clients=results, rss_growth_mib=round(growth, 2), rss_mib=rss[-1] >> 20, **before,
                    threads_after=node.threads(), descriptors_after=node.descriptors())
    finally:
        node.stop()


def slow_http(port, end, ends):
    """Reads 4 KiB a second of a stream of some 10 MB, through the smallest receive buffer; then sees how it ended.

    Either the error event came, or the connection was closed in the middle of the chunked body: an answer that
    is not whole never looks whole."""
    body = json.dumps(dict(model=NAME, prompt="Hi", max_tokens=7000, ignore_eos=True, stream=True, logprobs=20)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    while time.time() + SLOW_SECONDS < end:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", port))
            reader.sendall(head.encode() + body)
            hurry, tail = time.time() + SLOW_SECONDS, b""
            while got := reader.recv(4096):
                tail = (tail + got)[-8192:]
                if time.time() < hurry:
                    time.sleep(1)
                if tail.endswith(b"0\r\n\r\n"):
                    break
            whole = tail.endswith(b"0\r\n\r\n") and b'"slow_consumer"' not in tail
            ends.append("whole" if whole else "cut")


def slow_grpc(address, end, ends):
    """Reads one message, then stops, with the smallest HTTP/2 windows; then sees how the call ended.

    One message a second would not be slow: what waits is joined, so that a message grows to 256 KiB."""
    with grpc.insecure_channel(address, options=[("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0),
                                                 ("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = pb.GenerateRequest(model=NAME, text="Hi", stopping=gen.StopOptions(max_tokens=7000, ignore_eos=True),
                                     response=gen.ResponseOptions(logprobs=20))
        while time.time() + SLOW_SECONDS < end:
            call = rpc.InferenceServiceStub(channel).GenerateStream(pb.GenerateStreamRequest(request=request))
            try:
                next(call)
                time.sleep(SLOW_SECONDS)
                for _ in call:
                    pass
                ends.append("OK")
            except grpc.RpcError as error:
                ends.append(error.code().name)


def part_slow(seconds):
    """184 ordinary streams, first alone and then beside 16 readers that are truly slow."""
    conftest.BINARY = BUILD / "bench/scripted_node"
    node = Node("--kv-cache-bytes", "6GiB", "--max-num-seqs", "256")

    def ordinary(duration):
        return [http(node, 92, duration, "--max-tokens", 256), grpc_client(node, 92, duration, "--max-tokens", 256)]

    try:
        [finish(c) for c in ordinary(5)]
        wait_idle(node)
        before = dict(threads=node.threads(), descriptors=node.descriptors())
        alone = [finish(c) for c in ordinary(seconds)]
        end, ends = time.time() + seconds + 45, []
        readers = [threading.Thread(target=slow_http, args=(node.port, end, ends)) for _ in range(8)]
        readers += [threading.Thread(target=slow_grpc, args=(node.address, end, ends)) for _ in range(8)]
        for reader in readers:
            reader.start()
        both = [finish(c) for c in ordinary(seconds + 45)]
        for reader in readers:
            reader.join()
        samples = wait_idle(node, 60)
        pauses = sample(samples, "millrace_stream_pauses_total")
        slow = sum(v for k, v in samples.items() if k.startswith("millrace_choices_finished_total") and "slow_consumer" in k)
        promise(pauses > 0, "no stream was paused")
        promise(slow > 0, "no slow reader was ended")
        for told in ("cut", "RESOURCE_EXHAUSTED"):
            promise(told in ends, f"no slow reader ended with {told}")
        promise("whole" not in ends, "an answer to a slow reader looks whole")
        for was, now in zip(alone, both):
            promise(now["gap_ms_p99"] <= 1.5 * was["gap_ms_p99"] + 5, "the others' gaps changed")
        promise(all(r.get("failed") == 0 for r in alone + both), "requests failed")
        promise(sample(samples, "vllm:kv_cache_usage_perc") == 0, "blocks are still held after the slow readers")
        promise(node.descriptors() <= before["descriptors"] + 4, "descriptors leaked by slow readers")
        return dict(alone=alone, beside_slow=both, pauses=pauses, slow_consumer=slow, slow_ends=ends, **before,
                    threads_after=node.threads(), descriptors_after=node.descriptors())
    finally:
        node.stop()


class Thief:
    """A program that spins on one CPU, five seconds of ten."""

    SPIN = ("import os, sys, time; os.sched_setaffinity(0, {int(sys.argv[1])})\n"
            "while True:\n  end = time.monotonic() + 5\n  while time.monotonic() < end: pass\n  time.sleep(5)")

    def __init__(self, cpu):
        self.process = subprocess.Popen([sys.executable, "-c", self.SPIN, str(cpu)])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def part_cores(seconds):
    cpus = sorted(os.sched_getaffinity(0))
    flags = ["--kv-cache-bytes", "512MiB", "--max-num-seqs", "64"]
    work = ("--max-tokens", 128)

    def run(duration, *more):
        node = Node(*flags, *more)
        try:
            finish(http(node, 32, 5, *work))
            result = finish(http(node, 32, duration, *work))
            samples = wait_idle(node, 30)
            promise(sample(samples, "vllm:kv_cache_usage_perc") == 0, "blocks are still held")
            return result
        finally:
            node.stop()

    plain = run(min(30, seconds))
    with Thief(cpus[0]) as thief:
        pressed = run(seconds, "--threads", str(2 * len(cpus)))
        stolen = thief.cpu_seconds()
    promise(stolen > 0.2 * seconds, f"control: only {stolen:.0f} s of a CPU were taken")
    promise(plain.get("failed") == 0 and pressed.get("failed") == 0, "requests failed")
    promise(pressed["gap_ms_max"] <= 2000, f"a stream stood still for {pressed['gap_ms_max']:.0f} ms")
    promise(pressed["gap_ms_p99"] <= 5 * plain["gap_ms_p99"], "gaps grew to more than five times")
    return dict(plain=plain, pressed=pressed, stolen_seconds=stolen)


def main():
    parts = dict(model=part_model, slow=lambda seconds: part_slow(max(10, seconds // 4)), cores=part_cores)
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(parts))
    parser.add_argument("--seconds", type=int, default=120)
    arguments = parser.parse_args()
    if unknown := set(arguments.only.split(",")) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    report = {name: part(arguments.seconds) for name, part in parts.items() if name in arguments.only.split(",")}
    report["broken"] = broken
    print(json.dumps(report))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
