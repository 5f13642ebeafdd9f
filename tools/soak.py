#!/usr/bin/env python3
"""The long form of the tests: resumable, and its results are committed.

    ./dev soak                    every stage that the current commit has not passed yet
    ./dev soak --only fuzz,sim    some stages (or one fuzzer: fuzz/model/hf_fuzz)
    ./dev soak --minutes 10       minutes for each fuzz target (10 is what a release needs)

Each stage appends one line to bench/results/soak.jsonl: stage, commit, date, seconds, result. A stage
that passed at this commit is not run again, so an interrupted soak goes on where it stopped.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/soak.jsonl"
FUZZ = ["base/json_fuzz", "text/bpe_fuzz", "text/jinja_fuzz", "text/tokenizer_json_fuzz", "model/gguf_fuzz", "model/hf_fuzz",
        "model/packed_file_fuzz",
        "paged_kv/block_pool_fuzz", "scheduler/scheduler_fuzz", "server/openai_fuzz", "server/http1_fuzz"]

STAGES = {"fuzz", "sim", "checker", "exact", "exact_small", "speculation", "gemm", "load", "cores"}

def commit() -> str:
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    dirty = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", ":!bench/results"], cwd=ROOT, check=False)
    return head.stdout.strip() + ("-dirty" if dirty.returncode else "")


def passed(stage: str, at: str, minutes: float) -> bool:
    if not RESULTS.exists() or at.endswith("-dirty"):
        return False
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["stage"] == stage and record["commit"] == at and record["passed"] and record["minutes"] >= minutes:
            return True
    return False


def write(stage: str, at: str, begin: float, ok: bool, minutes: float, **facts) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    record = {"stage": stage, "commit": at, "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
              "seconds": round(time.time() - begin, 1), "minutes": minutes, "passed": ok, **facts}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(("passed " if ok else "FAILED ") + json.dumps(record), flush=True)


def shell(command: list, timeout: float) -> tuple:
    print("+ " + " ".join(map(str, command)), flush=True)
    try:
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
                              errors="replace")
    except subprocess.TimeoutExpired as error:
        return 124, str(error.stdout or "")
    return done.returncode, done.stdout + done.stderr


def fuzz(target: str, at: str, minutes: float) -> bool:
    folder, name = target.split("/")
    kind = name.removesuffix("_fuzz")
    found = ROOT / "build/fuzz-corpus" / name  # grows from soak to soak; the seeds are committed
    found.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    code, out = shell([ROOT / "build/fuzz" / target, found, ROOT / folder / "corpus" / kind,
                       f"-max_total_time={int(minutes * 60)}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
                       f"-artifact_prefix={ROOT}/build/fuzz-corpus/{name}-"], minutes * 60 + 300)
    runs = re.search(r"number_of_executed_units:\s*(\d+)", out)
    write(f"fuzz/{target}", at, begin, code == 0, minutes, runs=int(runs.group(1)) if runs else 0,
          **({} if code == 0 else {"tail": out[-1500:]}))
    return code == 0


def program(stage: str, command: list, at: str, timeout: float) -> bool:
    begin = time.time()
    code, out = shell(command, timeout)
    write(stage, at, begin, code == 0, 0, tail=out[-600:] if code == 0 else out[-3000:])
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", default=",".join(sorted(STAGES)))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    only, at, ok = arguments.only.split(","), commit(), True
    targets = [t for t in FUZZ if "fuzz" in only or f"fuzz/{t}" in only]
    if unknown := set(only) - STAGES - {f"fuzz/{t}" for t in FUZZ}:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    if any(not stage.startswith("fuzz") for stage in only):
        subprocess.run(["./dev", "build", "release"], cwd=ROOT, check=True)
    if due := [t for t in targets if not passed(f"fuzz/{t}", at, arguments.minutes)]:
        subprocess.run(["./dev", "build", "fuzz", *due], cwd=ROOT, check=True)
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            ok &= all(pool.map(lambda t: fuzz(t, at, arguments.minutes), due))
    release = ROOT / "build/release"
    programs = {
        "sim": [release / "tests/sim/sim_test", "--seeds", "1..100000"],
        "checker": [release / "tests/checker/scheduler_checker", "--full"],
        "exact": [release / "tests/exact/company_test", "--mixes", "1000", "--demo"],
        "exact_small": [release / "tests/exact/company_test", "--mixes", "1000"],  # windows and all tiers
        "speculation": [release / "tests/exact/company_test", "--mixes", "500", "--speculation"],
        "gemm": [release / "kernels/gemm_shapes_test", "--full"],
        "load": ["tools/e2e_python.sh", "tests/e2e/load_soak.py", "--only", "model,slow"],
        "cores": ["tools/e2e_python.sh", "tests/e2e/load_soak.py", "--only", "cores", "--seconds", "600"],
    }
    for stage, command in programs.items():
        if stage in only and not passed(stage, at, 0):
            ok &= program(stage, command, at, 4 * 3600)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
