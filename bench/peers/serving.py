#!/usr/bin/env python3
"""Serving, this node against llama-server: 256 tokens in, 64 out, 1, 8 and 32 streams, through the OpenAI completions door.

    ./dev bench serving [--model NAME] [--streams 1,8,32] [--pairs 3] [--requests 3]

Prompts are random token ids, no two alike, so that no prefix cache helps; end tokens are ignored. Each stream makes
`--requests` requests one after the other. A token is one event of the stream: all servers send one for each. Servers run
one at a time, in turns, started anew. Reported: output tokens/s of the whole run, time to the first token and gaps
between tokens, p50 and p99; peak memory of the server's process (VmHWM), for this node also as a share of
1.10 x (file + KV) + 64 MB, the KV cache being just what the streams fill; medians over pairs.

Peers, each left out and named where it is not there (`./dev bench peers --help` says how to get them):
  llama-server   MILLRACE_LLAMA_SERVER=PATH. Its source is in the source package of llama-cpp-python: pip download --no-deps
                 --no-binary llama-cpp-python llama-cpp-python, then in vendor/llama.cpp: cmake -B build -DGGML_NATIVE=ON
                 && cmake --build build --target llama-server
  ik_llama.cpp   MILLRACE_IK_LLAMA=FOLDER, where its llama-server is as well; weights repacked at load
  OpenVINO       MILLRACE_OPENVINO_PYTHON=PYTHON: its continuous batching in one process, without a door
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import run  # noqa: E402


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def shape_flags(o) -> list:
    """Room for all streams and no more."""
    return ["--max-num-seqs", o.most, "--max-model-len", o.tokens_in + o.tokens_out + 16]


def millrace_command(model: str, port: int, o) -> list:
    return [run.MILLRACE, "serve", model, "--served-model-name", "m", "--port", port, "--grpc-port", 0, "--health-port", 0,
            "--threads", o.threads, *shape_flags(o)]


def llama_command(program: str, *flags):
    return lambda model, port, o: [program, "-m", model, "--port", port, "-t", o.threads, "-np", o.most, "-c",
                                   o.most * (o.tokens_in + o.tokens_out + 16), "-cb", *flags]


def openvino_command(python: str):
    return lambda model, port, o: [python, run.HERE / "openvino_server.py", model, "--port", port, "--threads", o.threads,
                                   "--tokens", o.most * (o.tokens_in + o.tokens_out + 16)]


def find_servers() -> tuple:
    """({name: command}, the names of those that are not here)."""
    llama, openvino = os.environ.get("MILLRACE_LLAMA_SERVER", ""), os.environ.get("MILLRACE_OPENVINO_PYTHON", "")
    ik = os.environ.get("MILLRACE_IK_LLAMA", "") and os.environ["MILLRACE_IK_LLAMA"] + "/llama-server"
    here, missing = {"Millrace": millrace_command}, []
    for name, program, command in (("llama-server", llama, llama_command(llama, "--no-webui")),
                                   ("ik_llama.cpp", ik, llama_command(ik, "-rtr")),
                                   ("OpenVINO", openvino, openvino_command(openvino))):
        if program and os.access(program, os.X_OK):
            here[name] = command
        else:
            missing.append(name)
    return here, missing


def memory_bound(model: str, o) -> float:
    """Bytes: 1.10 x (file + KV) + 64 MB, the KV that `millrace plan` computes for the same flags."""
    out, why = run.run([run.MILLRACE, "plan", model, "--json", *shape_flags(o)])
    if out is None:
        raise SystemExit(f"serving: millrace plan: {why}")
    plan = json.loads(out)
    return 1.1 * (plan["weights_file_bytes"] + plan["kv_bytes"]) + 64e6


class Server:
    """A server from its command, ready when /health answers 200."""

    def __init__(self, command: list, port: int):
        self.log = open(os.devnull, "wb")
        print("+ " + " ".join(map(str, command)), file=sys.stderr, flush=True)
        self.process = subprocess.Popen([str(part) for part in command], stdout=self.log, stderr=self.log,
                                        cwd=tempfile.gettempdir())  # ik_llama.cpp writes a llama.log there
        end = time.monotonic() + 300
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"serving: {command[0]} ended with {self.process.returncode}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > end:
                self.stop()
                raise SystemExit(f"serving: {command[0]} is not ready after 300 s")
            time.sleep(0.2)

    def peak_bytes(self) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def one_request(port: int, prompt: list, tokens: int) -> list:
    """Times: when it was sent, then of each event with text."""
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    times = [time.monotonic()]
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read(300)!r}")
    for line in response:
        if line.startswith(b"data: {") and b'"choices":[{' in line:
            times.append(time.monotonic())
    connection.close()
    return times


def load(port: int, streams: int, o, seed: int) -> dict:
    """What `streams` clients saw."""
    runs, failures = [], []

    def client(number: int):
        numbers = random.Random(seed * 1000 + number)
        for _ in range(o.requests):
            try:
                runs.append(one_request(port, [numbers.randrange(300, 40000) for _ in range(o.tokens_in)], o.tokens_out))
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(str(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(streams)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not runs:
        raise SystemExit(f"serving: {len(failures)} requests failed; the first: {failures[:1]}")
    return summary(runs, time.monotonic() - begin, o.tokens_out)


def summary(runs: list, seconds: float, tokens_out: int) -> dict:
    first = sorted(times[1] - times[0] for times in runs)
    gaps = sorted(b - a for times in runs for a, b in zip(times[1:], times[2:]))
    at = lambda values, share: values[min(len(values) - 1, int(share * len(values)))] * 1e3 if values else 0.0  # noqa: E731
    # Tokens, not events: a server may join two tokens in one, and the last event may have no text.
    return {"tokens_per_s": len(runs) * tokens_out / seconds, "first_ms_p50": at(first, 0.5), "first_ms_p99": at(first, 0.99),
            "gap_ms_p50": at(gaps, 0.5), "gap_ms_p99": at(gaps, 0.99)}


def table(found: dict) -> str:
    lines = ["| streams | server | output tokens/s | first token p50 / p99, ms | gap p50 / p99, ms | p99 gap / median |"
             " peak memory, MiB |", "|" + "---|" * 7]
    for (streams, server), runs in found.items():
        m = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        share = f" ({m['memory_share']:.0%} of the bound)" if "memory_share" in m else ""
        lines.append(f"| {streams} | {server} | {m['tokens_per_s']:,.0f} | {m['first_ms_p50']:,.0f} / {m['first_ms_p99']:,.0f} | "
                     f"{m['gap_ms_p50']:,.1f} / {m['gap_ms_p99']:,.1f} | {m['gap_ms_p99'] / max(m['gap_ms_p50'], 1e-3):.1f} | "
                     f"{m['peak_bytes'] / 2**20:,.0f}{share} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-1b-q4_0", help="as in ./dev bench peers --files")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3)
    parser.add_argument("--tokens-in", type=int, default=256)
    parser.add_argument("--tokens-out", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    o = parser.parse_args()
    if o.model not in run.FILES:
        parser.error(f"no such file: {o.model}; there are {', '.join(run.FILES)}")
    paths = run.model_paths(set(run.FILES[o.model]))
    ours, theirs = (paths[key] for key in run.FILES[o.model])
    o.most = max(map(int, o.streams.split(",")))
    servers, missing = find_servers()
    if missing:
        print(f"serving: not here: {', '.join(missing)}; --help says how to get them", file=sys.stderr)
    bound = memory_bound(ours, o)
    found, ticks = {}, run.cpu_ticks()
    for pair in range(o.pairs):
        for name, command in servers.items():
            port = free_port()
            server = Server(command(ours if name == "Millrace" else theirs, port, o), port)
            try:
                for streams in map(int, o.streams.split(",")):
                    facts = load(port, streams, o, pair * 100 + streams)
                    facts["peak_bytes"] = server.peak_bytes()
                    if name == "Millrace":
                        facts["memory_share"] = facts["peak_bytes"] / bound
                    found.setdefault((streams, name), []).append(facts)
                    run.record("serving", pair=pair, server=name, model=o.model, streams=streams, **facts)
            finally:
                server.stop()
    spent = [b - a for a, b in zip(ticks, run.cpu_ticks())]
    print(f"{o.model}, {o.tokens_in} tokens in, {o.tokens_out} out; stolen by the host {spent[7] / max(1, sum(spent)):.1%}, "
          f"load {os.getloadavg()[0]:.1f}\n\n" + table(dict(sorted(found.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
