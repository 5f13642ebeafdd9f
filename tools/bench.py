#!/usr/bin/env python3
"""The figures of docs/performance.md.

    ./dev bench                    all of them but peers and serving
    ./dev bench NAME               limits | model | doors | first_token | scheduler
    ./dev bench peers [options]    this node against llama.cpp, ik_llama.cpp and OpenVINO: bench/peers/run.py --help
    ./dev bench serving [options]  `millrace serve` against the servers of the peers: bench/peers/serving.py --help

Run it on a quiet machine (uptime). Prints one JSON line per measurement and appends them, with commit, date
and CPU, to bench/results/bench.jsonl. The model is measured three times; medians are what the document quotes.
"""
import datetime
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/release"


def cpu() -> str:
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"model name\s*: (.*)", text).group(1)
    flags = re.search(r"flags\s*: (.*)", text).group(1).split()
    family = re.search(r"cpu family\s*: (.*)", text).group(1)
    return f"{name} family {family}, {os.cpu_count()} CPUs, " + " ".join(
        f for f in ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8") if f in flags)


def record(name: str, **facts) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    line = json.dumps({"bench": name, "commit": commit.stdout.strip(), "cpu": cpu(), "load": os.getloadavg()[0],
                       "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"), **facts})
    print(line, flush=True)
    with (ROOT / "bench/results/bench.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def run(command: list, **kwargs) -> str:
    print("+ " + " ".join(map(str, command)), file=sys.stderr, flush=True)
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True, **kwargs).stdout


def demo_model() -> str:
    return run(["tools/fetch_demo_model.py"]).strip()


def limits() -> None:
    """What the machine reads and multiplies at best."""
    record("limits", **json.loads(run([BUILD / "bench/machine_limits"])))


def model() -> None:
    """`millrace bench` measures the limits itself, before and after."""
    for repeat in range(3):
        record("model", repeat=repeat, **json.loads(run([BUILD / "cli/millrace", "bench", demo_model(), "--json"])))
    record("model_exact", **json.loads(run([BUILD / "cli/millrace", "bench", demo_model(), "--json", "--numerics", "exact",
                                            "--contexts", 128])))


def start_scripted(step_us: int, *flags) -> tuple:
    node = subprocess.Popen([str(BUILD / "bench/scripted_node"), "--step-us", str(step_us), "serve", demo_model(),
                             "--served-model-name", "m", "--port",
                             "0", "--grpc-port", "0", "--health-port", "0", "--log-format", "json", "--log-level", "info",
                             *flags], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in node.stderr:
        if '"serving"' in line:
            ports = json.loads(line)
            subprocess.Popen(["cat"], stdin=node.stderr, stdout=subprocess.DEVNULL)  # keeps the pipe empty
            return node, ports["http_port"], ports["grpc_port"]
    raise SystemExit("scripted_node did not start")


def load_doors(name: str, step_us: int, *client) -> None:
    """Both doors under the same load, three times in turn."""
    node, http, grpc = start_scripted(step_us, "--kv-cache-bytes", "8GiB", "--max-num-seqs", "256")
    try:
        for repeat in range(3):
            for streams in (1, 32, 256):
                common = ["--streams", streams, "--seconds", 8, "--model", "m", *client]
                facts = dict(repeat=repeat, step_us=step_us)
                record(name + "_grpc", **json.loads(run([BUILD / "bench/load_client_grpc", "--target", f"127.0.0.1:{grpc}",
                                                         *common]).splitlines()[-1]), **facts)
                record(name + "_http", **json.loads(run([BUILD / "bench/load_client_http", "--port", http,
                                                         *common]).splitlines()[-1]), **facts)
    finally:
        node.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        node.send_signal(signal.SIGTERM)
        node.wait(20)


def doors() -> None:
    """Tokens cost nothing here: what is left is the scheduler, the streams and the doors."""
    for step_us in (2500, 2000):  # 256 streams ask for 102,400 and 128,000 tokens/s
        load_doors("doors", step_us, "--max-tokens", 1000)


def first_token() -> None:
    """Steps take no time, so the time to the first token is all ours."""
    load_doors("first_token", 0, "--max-tokens", 1, "--think-ms", 20)


def scheduler() -> None:
    out = run([BUILD / "scheduler/scheduler_bench", "--benchmark_repetitions=5", "--benchmark_report_aggregates_only=true"])
    record("scheduler", output=[line for line in out.splitlines() if "median" in line])


BENCHES = {"limits": limits, "model": model, "doors": doors, "first_token": first_token, "scheduler": scheduler}


def main() -> int:
    with_options = {"peers": "run.py", "serving": "serving.py"}  # need something installed: not part of "all"
    if sys.argv[1:] and sys.argv[1] in with_options:
        return subprocess.run([ROOT / "bench/peers" / with_options[sys.argv[1]], *sys.argv[2:]], check=False).returncode
    names = sys.argv[1:] or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            print(__doc__, file=sys.stderr)
            return 2
    (ROOT / "bench/results").mkdir(exist_ok=True)
    for name in names:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
