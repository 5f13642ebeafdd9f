#!/usr/bin/env python3
"""ik_llama.cpp on the cases of bench/peers/cases.py, through its own programs llama-bench and llama-batched-bench.

Settings: plain, rtr (weights repacked at load), each also -nofa (flash attention off; on is its default). MILLRACE_IK_LLAMA
names the folder of the programs.
"""
import json
import os
import pathlib
import re
import subprocess
import tempfile

import cases


def run(program: str, *arguments) -> str:
    folder = pathlib.Path(os.environ["MILLRACE_IK_LLAMA"]).absolute()
    with tempfile.TemporaryDirectory() as place:  # for the log that it writes where it stands
        done = subprocess.run([str(folder / program), *map(str, arguments)], capture_output=True, text=True, cwd=place)
    if done.returncode != 0:
        raise SystemExit(f"{program}: " + (done.stderr.strip().splitlines() or ["failed"])[-1])
    return done.stdout + done.stderr


def prefill(arguments, case, repack, flash) -> float:
    out = run("llama-bench", "-m", os.path.abspath(arguments.model), "-t", arguments.threads, "-p", case.prefill, "-n", 0, "-r",
              cases.prompts(arguments), "-fa", int(flash), "-rtr", int(repack), "-o", "json")
    row = json.loads(out[out.index("["):out.rindex("]") + 1])[0]
    # Samples, where it prints them: the best, as for everybody.
    return max(row.get("samples_ts") or [row["avg_ts"]])


def generate(arguments, group, repack, flash) -> dict:
    """Cases of one context in one call. Rows: | PP | TG | B | N_KV | T_PP | S_PP | T_TG | S_TG | T | S |."""
    context, batches = group[0].context, sorted(case.batch for case in group)
    length = (context + arguments.steps + 2) * batches[-1]
    out = run("llama-batched-bench", "-m", os.path.abspath(arguments.model), "-t", arguments.threads, "-c", length, "-b", 2048, "-ub", 512,
              "-npp", context, "-ntg", arguments.steps, "-npl", ",".join(map(str, batches)),
              *(["-rtr"] if repack else []), *([] if flash else ["-no-fa"]))
    rows = [[field.strip() for field in line.strip().strip("|").split("|")] for line in out.splitlines()
            if re.match(r"\|\s*\d+ \|", line)]
    return {f"decode:{row[2]}:{row[0]}": float(row[7]) for row in rows}


def main():
    arguments = cases.parse(__doc__)
    repack, flash = arguments.setting.startswith("rtr"), not arguments.setting.endswith("-nofa")
    figures = {case.text: prefill(arguments, case, repack, flash) for case in arguments.cases if case.prefill}
    for context in sorted({case.context for case in arguments.cases if not case.prefill}):
        group = [case for case in arguments.cases if not case.prefill and case.context == context]
        figures |= generate(arguments, group, repack, flash)
    missing = [case.text for case in arguments.cases if case.text not in figures]
    if missing:
        raise SystemExit("no figure for " + ", ".join(missing))
    version = re.search(r"version: (.*)", run("llama-batched-bench", "--version"))
    cases.answer("ik_llama.cpp " + (version.group(1) if version else ""), figures)


if __name__ == "__main__":
    main()
