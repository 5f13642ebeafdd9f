#!/usr/bin/env python3
"""This node against llama.cpp, ik_llama.cpp and OpenVINO GenAI: same files, same work, in turns, one table.

    ./dev bench peers                     the whole table, 5 pairs of every file: many hours on 2 cores
    ./dev bench peers --quick             two files, short contexts, at most 8 minutes
    ./dev bench peers --files demo-q4_1,llama-1b-q4_0 --pairs 3 --contexts 128
    ./dev bench peers --threads 1 --contexts 128 --pairs 1
    ./dev bench peers --cpu-tier avx2 ...  with peers that are built for AVX2 (OpenVINO is told to stay there)
    ./dev bench peers --list              which peers are here, and how to get the others

A pair is one run of `millrace bench` and one of each peer, one after the other. The first pair of a file tries every setting
of a peer; the others use, for each case, the one that won last. Pairs are recorded (bench/results/bench.jsonl) and count in the
next call too while the program (byte for byte) and the CPU are the same: --pairs says how many there shall be in all, so that the
table can be made in parts. --again starts anew. Figures are medians over pairs; a ratio is ours over the best
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
One that is missing is named in the report and left out. For AVX2: -DGGML_NATIVE=OFF -DGGML_AVX2=ON, both programs;
llama-cpp-python takes another llama.cpp from LLAMA_CPP_LIB_PATH.
"""
import argparse
import datetime
import hashlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

from cases import prompts

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
NAMES = ("llama.cpp", "ik_llama.cpp", "OpenVINO")
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
        (Peer("OpenVINO", "openvino_bench.py", ("",), openvino, {"ONEDNN_MAX_CPU_ISA": "AVX2"} if o.cpu_tier == "avx2" else {}),
         [openvino], "import openvino_genai"),
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


# Of the report of `millrace bench`.
MACHINE = ("cpu", "cpu_flags", "tier", "numerics", "kv_dtype", "int8_instruction", "read_bytes_per_second",
           "int8_ops_per_second", "steal_share")


class OurFailure(Exception):
    """`millrace bench` gave no figures."""


def measure_ours(path: str, cases: list, o) -> dict:
    """Figures and shares of the limits by case, and what is said of the machine."""
    contexts = sorted({int(case.split(":")[2]) for case in cases if case.startswith("decode")}) or [1]
    prefill = o.prefill if any(case.startswith("prefill") for case in cases) else 0
    repeats = prompts(o) - 1  # `millrace bench` warms up with one more
    command = [MILLRACE, "bench", path, "--json", "--threads", o.threads, "--batches", o.batches, "--contexts",
               ",".join(map(str, contexts)), "--prefill", prefill, "--steps", o.steps, "--repeats", repeats]
    out, why = run(command + (["--numerics", o.numerics] if o.numerics else [])
                   + (["--cpu-tier", o.cpu_tier] if o.cpu_tier else []))
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
    return {"ours": figures, "shares": shares, "machine": {key: report[key] for key in MACHINE}}


def best_settings(tried: dict, cases: list) -> dict:
    """Setting -> the cases that it won, from setting -> case -> tokens/s."""
    won = {}
    for case in cases:
        figures = {setting: found[case] for setting, found in tried.items() if case in found}
        if figures:
            won.setdefault(max(figures, key=figures.get), []).append(case)
    return won


def cpu_here() -> tuple:
    """This machine's CPU as a pair names it, and the flags that Linux knows of it."""
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = f"{facts.get('model name', '')}, family {facts.get('cpu family', '')}, model {facts.get('model', '')}"
    return name, set(facts.get("flags", "").split())


def of_this_cpu(pair: dict, here: tuple) -> bool:
    """Another CPU has other winners among a peer's settings, and its figures do not mix with these."""
    name, flags = here
    return pair["machine"]["cpu"] == name and flags >= set(pair["machine"]["cpu_flags"])


def all_recorded(o) -> list:
    """All pairs on this CPU with these threads and numbers, of whatever program of ours: what they say of the peers holds."""
    here = cpu_here()
    path = ROOT / "bench/results/bench.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (json.loads(line) for line in lines)
    return [pair for pair in pairs if pair["bench"] == "peers" and pair.get("asked") == asked(o) and pair["date"] >= o.since
            and of_this_cpu(pair, here)]


def recorded(o) -> dict:
    """File -> its pairs so far, of this very program."""
    pairs = {}
    for pair in all_recorded(o):
        if pair["program"] == o.program:
            pairs.setdefault(pair["file"], []).append(pair)
    return pairs


def asked(o) -> dict:
    return {"threads": o.threads, "numerics": o.numerics, "steps": o.steps, "repeats": o.repeats,
            **({"cpu_tier": o.cpu_tier} if o.cpu_tier else {})}


def measure_file(name: str, paths: dict, peers: list, pairs: list, o, deadline: float) -> None:
    """Adds to `pairs` until each case has enough of them."""
    ours, theirs = (paths[key] for key in FILES[name])
    cases = ([f"prefill:{o.prefill}"] if int(o.prefill) else []) + [
        f"decode:{b}:{c}" for c in o.contexts.split(",") for b in o.batches.split(",")]
    slowest = 0.0
    known = [pair for pair in all_recorded(o) if pair["file"] == name]
    while wanted := [case for case in cases if sum(case in pair["ours"] for pair in pairs) < o.pairs]:
        # Never begin a pair that would not end in time, judged by the first without the settings it tried in vain.
        if slowest and time.monotonic() + slowest * 0.7 > deadline:
            print(f"peers: {name}: no time for another pair", file=sys.stderr)
            break
        begin = time.monotonic()
        try:
            pair = {"file": name, **measure_ours(ours, wanted, o), "peers": {}, "settings": {}, "versions": {}}
        except OurFailure:
            if not pairs:
                raise
            break
        for peer in peers:
            trials = {}  # setting -> cases: the one that won, or all
            for case in wanted:
                won = [setting for before in known + pairs
                       for setting, cases_won in before["settings"].get(peer.name, {}).items() if case in cases_won]
                for setting in won[-1:] or peer.settings:
                    trials.setdefault(setting, []).append(case)
            tried = {setting: peer.measure(theirs, some, setting, o) for setting, some in trials.items()}
            pair["settings"][peer.name] = best_settings(tried, wanted)
            pair["versions"][peer.name] = peer.version
            pair["peers"][peer.name] = {case: max(found[case] for found in tried.values() if case in found)
                                        for case in wanted if any(case in found for found in tried.values())}
        slowest = max(slowest, time.monotonic() - begin)
        if pairs and time.monotonic() > DEADLINE:  # cut short: peers are missing, and there are whole ones
            print(f"peers: {name}: the time ended within a pair, which does not count", file=sys.stderr)
            break
        pairs.append(pair)
        record("peers", program=o.program, command=o.command, asked=asked(o), **pair)


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds")


def record(bench: str, **facts) -> None:
    """As tools/bench.py does: one JSON line."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    line = json.dumps({"bench": bench, "commit": commit.stdout.strip(), "load": os.getloadavg()[0],
                       "date": now(), **facts})
    (ROOT / "bench/results").mkdir(parents=True, exist_ok=True)
    with (ROOT / "bench/results/bench.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def case_name(case: str) -> str:
    kind, *numbers = case.split(":")
    return f"prefill {numbers[0]}" if kind == "prefill" else f"decode b={numbers[0]}, context {numbers[1]}"


def summary_rows(name: str, all_pairs: list, peers: list) -> list:
    """`peers`: their names."""
    rows = []
    for case in dict.fromkeys(case for pair in all_pairs for case in pair["ours"]):
        pairs = [pair for pair in all_pairs if case in pair["ours"]]
        ours = [pair["ours"][case] for pair in pairs]
        row = {"file": name, "case": case, "millrace": statistics.median(ours), "peers": {}, "pairs": len(pairs)}
        for peer in peers:
            theirs = [found[case] for pair in pairs if case in (found := pair["peers"].get(peer, {}))]
            row["peers"][peer] = statistics.median(theirs) if theirs else None
        ratios = [mine / max(found) for mine, pair in zip(ours, pairs)
                  if (found := [figures[case] for figures in pair["peers"].values() if case in figures])]
        row["ratio"] = [statistics.median(ratios), min(ratios), max(ratios)] if ratios else None
        shares = [pair["shares"][case] for pair in pairs]
        row["bandwidth_share"], row["int8_share"] = (statistics.median(s[i] for s in shares) for i in (0, 1))
        rows.append(row)
    return rows


def table(rows: list, peers: list) -> str:
    head = ["file", "work", "Millrace, tokens/s", *peers, "ratio to the best (least, greatest)",
            "pairs", "of read bandwidth", "of int8 peak"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    number = "{:,.0f}".format
    for row in rows:
        ratio = "-" if row["ratio"] is None else "{:.2f} ({:.2f}, {:.2f})".format(*row["ratio"])
        cells = [row["file"], case_name(row["case"]), number(row["millrace"]),
                 *("-" if row["peers"][peer] is None else number(row["peers"][peer]) for peer in peers), ratio,
                 str(row["pairs"]), f"{row['bandwidth_share']:.0%}" if row["bandwidth_share"] else "-", f"{row['int8_share']:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def head_lines(pairs: list, names: list, peers: list, o) -> list:
    """`names`: the peers that the pairs know; `peers`: those of this call, for their failures."""
    machine = pairs[0]["machine"]
    reads = sorted(pair["machine"]["read_bytes_per_second"] / 1e9 for pair in pairs)
    peaks = sorted(pair["machine"]["int8_ops_per_second"] / 1e12 for pair in pairs)
    steals = sorted(pair["machine"]["steal_share"] for pair in pairs)
    dates = sorted(pair["date"] for pair in pairs)
    flags = [flag for flag in machine["cpu_flags"] if re.fullmatch(r"avx2|avx_vnni|avx512f|avx512_(vnni|bf16)|amx.*", flag)]
    versions = {name: next((v for pair in reversed(pairs) if (v := pair["versions"].get(name))), "no answer")
                for name in names}
    commands = dict.fromkeys(pair["command"] for pair in pairs if "command" in pair)
    return [
        f"{dates[0]} to {dates[-1]}, program {o.program}, commit {pairs[-1]['commit']}: {machine['cpu']} ({' '.join(flags)}), "
        f"{os.cpu_count()} CPUs, {o.threads} threads; kernels {machine['tier']}, numerics {machine['numerics']}, "
        f"KV {machine['kv_dtype']}.",
        f"Limits beside the runs: reads {statistics.median(reads):.1f} GB/s ({reads[0]:.1f}-{reads[-1]:.1f}), int8 "
        f"{statistics.median(peaks):.2f} TOPS ({peaks[0]:.2f}-{peaks[-1]:.2f}, {machine['int8_instruction']}). Stolen by the "
        f"host beside our runs: {statistics.median(steals):.1%} of all CPU time ({steals[-1]:.1%} at most).",
        "Peers: " + ("; ".join(f"{name} ({version})" for name, version in versions.items()) or "none") + "."
        + "".join(f" {peer.name} on {file}: `{why}`." for peer in peers for file, why in peer.failures.items()),
        *(f"Command: `{command}`." for command in commands),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--files", help=f"of {', '.join(FILES)}")
    parser.add_argument("--pairs", type=int, help="that each case shall have")
    parser.add_argument("--again", action="store_true", help="pairs recorded before do not count")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--contexts")
    parser.add_argument("--prefill", default="512")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--minutes", type=float, help="begin no pair that would end later, and end what does (0: no limit)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--numerics", default="")
    parser.add_argument("--cpu-tier", default="", help="of ours")
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
    o.since = now() if o.again else ""
    o.program = hashlib.sha256(MILLRACE.read_bytes()).hexdigest()[:12] if MILLRACE.exists() else ""
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
    begin = time.monotonic()
    global DEADLINE
    if o.minutes:
        DEADLINE = begin + o.minutes * 60
    paths = model_paths({key for name in o.files for key in FILES[name]})
    for i, name in enumerate(o.files):
        # What is left of the time is shared by the files that are left.
        left = begin + o.minutes * 60 - time.monotonic()
        deadline = time.monotonic() + left / (len(o.files) - i) if o.minutes else float("inf")
        if o.minutes and left <= 0:
            print(f"peers: no time for {name}", file=sys.stderr)
            break
        try:
            measure_file(name, paths, peers, recorded(o).get(name, []), o, deadline)
        except OurFailure as failure:
            print(f"peers: millrace bench {name}: {failure}", file=sys.stderr)
    by_file = recorded(o)
    if not by_file:
        raise SystemExit("peers: no figures")
    pairs = [pair for of_file in by_file.values() for pair in of_file]
    names = [name for name in NAMES if any(pair["peers"].get(name) for pair in pairs)]
    rows = [row for name in FILES for row in summary_rows(name, by_file.get(name, []), names)]
    text = "\n".join(head_lines(pairs, names, peers, o)) + "\n\n" + table(rows, names) + "\n"
    threads = f"threads-{o.threads}" if o.threads != len(os.sched_getaffinity(0)) else ""
    tier = o.cpu_tier or ("amx" if pairs[0]["machine"]["tier"] == "amx" else "")
    kind = "".join(f"-{part}" for part in (threads, tier, o.numerics) if part)
    (ROOT / f"bench/results/peers{kind}.md").write_text("# Peers\n\n" + text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
