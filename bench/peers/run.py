#!/usr/bin/env python3
"""This node against llama.cpp, ik_llama.cpp and OpenVINO GenAI: same files, same work, in turns, one table.

    ./dev bench peers                     the whole table (hours on 2 cores): 5 pairs of every file
    ./dev bench peers --quick             two files, short contexts, at most 8 minutes
    ./dev bench peers --files demo-q4_1,llama-1b-q4_0 --pairs 3 --contexts 128
    ./dev bench peers --list              which peers are here, and how to get the others

A pair is one run of `millrace bench` and one of each peer, one after the other. The first pair tries every setting of
a peer; the others use, for each case, the one that won. Figures are medians over pairs; a ratio is ours over the best
peer of the same pair, then the median with the least and the greatest. Limits of the machine (memory reads, int8
products) are probed beside each of our runs; time stolen by the host and the load are in the table's head.

Peers are never part of this repository. How each is had:
  llama.cpp      python3 -m venv V && V/bin/pip install -r bench/peers/requirements.txt   (builds from source, 15 minutes)
                 MILLRACE_PEERS_PYTHON=V/bin/python, or --llama-cpp V/bin/python
  ik_llama.cpp   git clone https://github.com/ikawrakow/ik_llama.cpp && cd ik_llama.cpp
                 cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
                 cmake --build build --target llama-bench llama-batched-bench
                 MILLRACE_IK_LLAMA=ik_llama.cpp/build/bin, or --ik-llama build/bin
  OpenVINO       python3 -m venv W && W/bin/pip install openvino-genai
                 MILLRACE_OPENVINO_PYTHON=W/bin/python, or --openvino W/bin/python
One that is missing is named in the report and left out.
"""
import argparse
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "bench/peers"
MILLRACE = ROOT / "build/release/cli/millrace"
# Name -> (what we read, what peers read). GPTQ is ours alone: peers run the 4-bit format of the same size.
FILES = {
    "demo-q4_1": ("demo", "demo"),
    **{f"{shape}-{form}": (f"{shape}-{form}", f"{shape}-{form}")
       for shape in ("llama-1b", "qwen-0.5b") for form in ("q4_0", "q4_k_m", "q8_0")},
    **{f"{shape}-gptq": (f"{shape}-gptq", f"{shape}-q4_0") for shape in ("llama-1b", "qwen-0.5b")},
}
QUICK = dict(files="demo-q4_1,llama-1b-q4_0", pairs=2, contexts="128", steps=16, repeats=2, minutes=8)
WHOLE = dict(files=",".join(FILES), pairs=5, contexts="128,1024", steps=32, repeats=3, minutes=0)


class Peer:
    def __init__(self, name: str, script: str, settings: tuple, python: str, environment: dict):
        self.name, self.script, self.settings = name, script, settings
        self.python, self.environment = python, environment
        self.version, self.failures = "", {}  # by file

    def measure(self, path: str, cases: list, setting: str, o) -> dict:
        command = [self.python, HERE / self.script, path, "--threads", o.threads, "--steps", o.steps, "--repeats", o.repeats,
                   "--setting", setting]
        for case in cases:
            command += ["--case", case]
        done, why = run(command, self.environment)
        if done is None:
            self.failures[pathlib.Path(path).name] = why
            return {}
        answer = json.loads(done.splitlines()[-1])
        self.version = answer["version"]
        return answer["cases"]


DEADLINE = float("inf")  # of time.monotonic(): with --minutes, what runs longer is ended


def run(command: list, environment: dict | None = None) -> tuple:
    """(standard output, "") or (None, why not): a peer that fails costs its figures only."""
    command = [str(part) for part in command]
    print("+ " + " ".join(command), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | (environment or {}), start_new_session=True)
    try:
        out, errors = process.communicate(timeout=max(0.1, min(3600.0, DEADLINE - time.monotonic())))
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
        os.killpg(process.pid, signal.SIGKILL)  # a peer's script may have started its own programs
        process.communicate()
        if isinstance(stop, KeyboardInterrupt):
            raise
        return None, "no time left"
    if process.returncode != 0 or not out.strip():
        why = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        print("  failed: " + why, file=sys.stderr)
        return None, why
    return out, ""


def find_peers(o) -> tuple:
    """(those that are here, the names of the others)."""
    llama = o.llama_cpp or os.environ.get("MILLRACE_PEERS_PYTHON", "")
    ik = o.ik_llama or os.environ.get("MILLRACE_IK_LLAMA", "")
    openvino = o.openvino or os.environ.get("MILLRACE_OPENVINO_PYTHON", "")
    ik_settings = ("rtr", "plain") if o.quick else ("rtr", "plain", "rtr-nofa", "plain-nofa")
    candidates = [
        (Peer("llama.cpp", "llama_cpp_bench.py", ("fa", "no-fa"), llama, {}), [llama], "import llama_cpp"),
        (Peer("ik_llama.cpp", "ik_llama_bench.py", ik_settings, sys.executable, {"MILLRACE_IK_LLAMA": ik}),
         [ik and f"{ik}/llama-bench", ik and f"{ik}/llama-batched-bench"], None),
        (Peer("OpenVINO", "openvino_bench.py", ("",), openvino, {}), [openvino], "import openvino_genai"),
    ]
    here, missing = [], []
    for peer, programs, check in candidates:
        found = all(program and os.access(program, os.X_OK) for program in programs)
        if found and check:
            found = subprocess.run([peer.python, "-c", check], capture_output=True, check=False).returncode == 0
        (here if found else missing).append(peer if found else peer.name)
    return here, missing


def cpu_ticks() -> list:
    """user nice system idle iowait irq softirq steal of all CPUs."""
    return [int(x) for x in pathlib.Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]


def model_paths(names: set) -> dict:
    """Name -> path; makes what is not there."""
    out, why = run([ROOT / "tools/fetch_demo_model.py"])
    if out is None:
        raise SystemExit(f"peers: no demo model: {why}")
    paths = {"demo": out.strip().splitlines()[-1]}
    wanted = sorted(names - {"demo"})
    if wanted:
        python = os.environ.get("MILLRACE_BENCH_PYTHON")
        if not python:
            raise SystemExit("peers: call it as `./dev bench peers`, which makes the Python environment that makes the models")
        made, why = run([python, ROOT / "bench/make_models.py", "--tokenizer", paths["demo"], *wanted])
        if made is None:
            raise SystemExit(f"peers: could not make the models: {why}")
        paths |= dict(zip(wanted, made.split()))
    return paths


class OurFailure(Exception):
    """`millrace bench` gave no figures."""


def measure_ours(path: str, o) -> dict:
    """Figures and shares of the limits by case, and the whole report."""
    command = [MILLRACE, "bench", path, "--json", "--threads", o.threads, "--batches", o.batches, "--contexts", o.contexts,
               "--prefill", o.prefill, "--steps", o.steps, "--repeats", o.repeats]
    out, why = run(command + (["--numerics", o.numerics] if o.numerics else []))
    if out is None:
        raise OurFailure(why)
    report = json.loads(out)
    figures, shares = {}, {}
    for row in report["prefill"]:
        case = f"prefill:{row['tokens']}"
        figures[case], shares[case] = row["tokens_per_second"], (0, row["int8_share"])
    for row in report["decode"]:
        case = f"decode:{row['batch']}:{row['context']}"
        figures[case], shares[case] = row["tokens_per_second"], (row["bandwidth_share"], row["int8_share"])
    return {"figures": figures, "shares": shares, "report": report}


def best_settings(tried: dict, cases: list) -> dict:
    """Setting -> the cases that it won, from setting -> case -> tokens/s."""
    won = {}
    for case in cases:
        figures = {setting: found[case] for setting, found in tried.items() if case in found}
        if figures:
            won.setdefault(max(figures, key=figures.get), []).append(case)
    return won


def measure_file(name: str, paths: dict, peers: list, o, deadline: float) -> list:
    """Pairs: {"ours": ..., "peers": {name: {case: tokens/s}}}."""
    ours, theirs = (paths[key] for key in FILES[name])
    cases = ([f"prefill:{o.prefill}"] if int(o.prefill) else []) + [
        f"decode:{b}:{c}" for c in o.contexts.split(",") for b in o.batches.split(",")]
    settings, pairs, slowest = {}, [], 0.0
    for number in range(o.pairs):
        # Never begin a pair that would not end in time, judged by the first without the settings it tried in vain.
        if pairs and time.monotonic() + slowest * 0.7 > deadline:
            print(f"peers: {name}: no time for pair {number + 1}", file=sys.stderr)
            break
        begin = time.monotonic()
        try:
            pair = {"ours": measure_ours(ours, o), "peers": {}, "settings": {}}
        except OurFailure:
            if not pairs:
                raise
            break
        for peer in peers:
            trials = settings.get(peer.name) or {setting: cases for setting in peer.settings}
            tried = {setting: peer.measure(theirs, wanted, setting, o) for setting, wanted in trials.items()}
            settings[peer.name] = best_settings(tried, cases)
            pair["settings"][peer.name] = settings[peer.name]
            pair["peers"][peer.name] = {case: max(found[case] for found in tried.values() if case in found)
                                        for case in cases if any(case in found for found in tried.values())}
        slowest = max(slowest, time.monotonic() - begin)
        pairs.append(pair)
        record("peers", file=name, pair=number, ours=pair["ours"]["figures"], peers=pair["peers"],
               settings=pair["settings"], limits=[pair["ours"]["report"][key] for key in
                                                  ("read_bytes_per_second", "int8_ops_per_second", "steal_share")])
    return pairs


def record(bench: str, **facts) -> None:
    """As tools/bench.py does: one JSON line."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    line = json.dumps({"bench": bench, "commit": commit.stdout.strip(), "load": os.getloadavg()[0],
                       "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"), **facts})
    (ROOT / "bench/results").mkdir(exist_ok=True)
    with (ROOT / "bench/results/bench.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def case_name(case: str) -> str:
    kind, *numbers = case.split(":")
    return f"prefill {numbers[0]}" if kind == "prefill" else f"decode b={numbers[0]}, context {numbers[1]}"


def summary_rows(name: str, pairs: list, peers: list) -> list:
    rows = []
    for case in pairs[0]["ours"]["figures"]:
        ours = [pair["ours"]["figures"][case] for pair in pairs]
        row = {"file": name, "case": case, "millrace": statistics.median(ours), "peers": {}, "pairs": len(pairs)}
        for peer in peers:
            theirs = [pair["peers"][peer.name][case] for pair in pairs if case in pair["peers"][peer.name]]
            row["peers"][peer.name] = statistics.median(theirs) if theirs else None
        ratios = [mine / max(found) for mine, pair in zip(ours, pairs)
                  if (found := [figures[case] for figures in pair["peers"].values() if case in figures])]
        row["ratio"] = [statistics.median(ratios), min(ratios), max(ratios)] if ratios else None
        shares = [pair["ours"]["shares"][case] for pair in pairs]
        row["bandwidth_share"], row["int8_share"] = (statistics.median(s[i] for s in shares) for i in (0, 1))
        rows.append(row)
    return rows


def table(rows: list, peers: list) -> str:
    head = ["file", "work", "Millrace, tokens/s", *(peer.name for peer in peers), "ratio to the best (least, greatest)",
            "of read bandwidth", "of int8 peak"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    number = "{:,.0f}".format
    for row in rows:
        ratio = "-" if row["ratio"] is None else "{:.2f} ({:.2f}, {:.2f})".format(*row["ratio"])
        cells = [row["file"], case_name(row["case"]), number(row["millrace"]),
                 *("-" if row["peers"][p.name] is None else number(row["peers"][p.name]) for p in peers), ratio,
                 f"{row['bandwidth_share']:.0%}" if row["bandwidth_share"] else "-", f"{row['int8_share']:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def head_lines(all_pairs: list, peers: list, missing: list, ticks: tuple, o) -> list:
    report = all_pairs[0]["ours"]["report"]
    reads = sorted(pair["ours"]["report"]["read_bytes_per_second"] / 1e9 for pair in all_pairs)
    peaks = sorted(pair["ours"]["report"]["int8_ops_per_second"] / 1e12 for pair in all_pairs)
    spent = [b - a for a, b in zip(*ticks)]
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    flags = [flag for flag in report["cpu_flags"] if re.fullmatch(r"avx2|avx_vnni|avx512f|avx512_(vnni|bf16)|amx.*", flag)]
    return [
        f"{datetime.datetime.now(datetime.timezone.utc):%d %B %Y %H:%M} UTC, commit {commit.stdout.strip()}: {report['cpu']} "
        f"({' '.join(flags)}), {os.cpu_count()} CPUs, {o.threads} threads; kernels {report['tier']}, numerics "
        f"{report['numerics']}, KV {report['kv_dtype']}.",
        f"Limits beside the runs: reads {statistics.median(reads):.1f} GB/s ({reads[0]:.1f}-{reads[-1]:.1f}), int8 "
        f"{statistics.median(peaks):.2f} TOPS ({peaks[0]:.2f}-{peaks[-1]:.2f}, {report['int8_instruction']}). Stolen by the "
        f"host: {spent[7] / max(1, sum(spent)):.1%} of all CPU time; load at the end {os.getloadavg()[0]:.1f}.",
        "Peers: " + ("; ".join(f"{peer.name} ({peer.version or 'no answer'})" for peer in peers) or "none") + "."
        + (f" Not here: {', '.join(missing)}." if missing else "")
        + "".join(f" {peer.name} on {file}: `{why}`." for peer in peers for file, why in peer.failures.items()),
        f"Command: `{o.command}`.",
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--files", help=f"of {', '.join(FILES)}")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--contexts")
    parser.add_argument("--prefill", default="512")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--minutes", type=float, help="begin no pair that would end later, and end what does (0: no limit)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--numerics", default="")
    parser.add_argument("--llama-cpp", help="a Python that has llama-cpp-python")
    parser.add_argument("--ik-llama", help="the folder of ik_llama.cpp's programs")
    parser.add_argument("--openvino", help="a Python that has openvino-genai")
    o = parser.parse_args()
    for key, value in (QUICK if o.quick else WHOLE).items():
        if getattr(o, key) is None:
            setattr(o, key, value)
    o.files = o.files.split(",")
    unknown = [name for name in o.files if name not in FILES]
    if unknown:
        parser.error(f"no such file: {', '.join(unknown)}; there are {', '.join(FILES)}")
    o.command = " ".join(["./dev bench peers", *sys.argv[1:]])
    return o


def main() -> int:
    o = parse()
    peers, missing = find_peers(o)
    print("peers here: " + (", ".join(peer.name for peer in peers) or "none"), file=sys.stderr)
    if missing:
        print("not here: " + ", ".join(missing) + "; `bench/peers/run.py --help` says how to get them", file=sys.stderr)
    if o.list:
        return 0
    begin, ticks = time.monotonic(), cpu_ticks()
    global DEADLINE
    if o.minutes:
        DEADLINE = begin + o.minutes * 60
    paths = model_paths({key for name in o.files for key in FILES[name]})
    rows, all_pairs = [], []
    for i, name in enumerate(o.files):
        # What is left of the time is shared by the files that are left.
        left = begin + o.minutes * 60 - time.monotonic()
        deadline = time.monotonic() + left / (len(o.files) - i) if o.minutes else float("inf")
        if o.minutes and left <= 0:
            print(f"peers: no time for {name}", file=sys.stderr)
            break
        try:
            pairs = measure_file(name, paths, peers, o, deadline)
        except OurFailure as failure:
            if not all_pairs:
                raise SystemExit(f"peers: millrace bench {name}: {failure}") from None
            print(f"peers: millrace bench {name}: {failure}", file=sys.stderr)
            continue
        all_pairs += pairs
        rows += summary_rows(name, pairs, peers)
    head = head_lines(all_pairs, peers, missing, (ticks, cpu_ticks()), o)
    record("peers_summary", head=head, rows=rows)
    text = "\n".join(head) + "\n\n" + table(rows, peers) + "\n"
    (ROOT / "bench/results/peers.md").write_text("# Peers, the last run\n\n" + text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
