#!/usr/bin/env python3
"""Speculation on and off: two nodes on one model, asked in turn for the same answers.

    python3 bench/speculation.py MODEL [--threads N] [--pairs N] [--numerics MODE] [-- FLAGS OF THE SECOND NODE]

Prints CPU time of the process for each token after the first (what the prompt costs is measured apart and
taken off), the ratio, what was guessed, and whether the answers were equal. CPU time, because a busy machine
does not lengthen it; with more than one thread it counts threads that spin, so one is the default.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (
    "The lighthouse at Carrow Point was built in 1871 by a crew of forty men who lived in tents on the "
    "shingle. Its lamp burned colza oil until 1903, when the keeper, Margaret Ellison, persuaded the harbour "
    "board to install a vapour burner. Ships reported that the beam could be seen from nineteen miles away on a "
    "clear night. In 1954 the light was automated, and the last keeper, Thomas Brand, carried the logbooks down "
    "the stairs in a fish crate."
)
CODE = """def area(shape):
    if shape.kind == "circle":
        return 3.14159 * shape.radius * shape.radius
    if shape.kind == "square":
        return shape.side * shape.side
    raise ValueError("unknown shape: " + shape.kind)
"""
TASKS = {
    "repeat": ("Repeat the following text exactly:\n\n" + TEXT, 120),
    "edit": (
        "Rewrite this code, renaming the function area to surface, and change nothing else:\n\n```python\n"
        + CODE + "```", 110),
    "quote": ("Quote the sentences about the keeper from this text, word for word:\n\n" + TEXT, 100),
    "story": ("Write a short story about a cat who learns to sail.", 120),
}
COUNTERS = ("drafts_total", "draft_tokens_total", "accepted_tokens_total")


class Node:
    def __init__(self, options, port, flags):
        self.port = port
        command = [options.binary, "serve", options.model, "--port", str(port), "--grpc-port", str(port + 1),
                   "--health-port", str(port + 2), "--threads", str(options.threads), "--log-level", "error",
                   "--no-enable-prefix-caching", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                self.read("/v1/models")
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the node ended: " + " ".join(command))
                time.sleep(0.1)
        self.model = json.loads(self.read("/v1/models"))["data"][0]["id"]

    def read(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body,
                                         {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=600).read()

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counters(self):
        found = {}
        for line in self.read("/metrics").decode().splitlines():
            if line.startswith("vllm:spec_decode_num_"):
                found[line.split("{")[0][len("vllm:spec_decode_num_"):]] = float(line.rsplit(" ", 1)[1])
        return [found.get(name, 0) for name in COUNTERS]

    def ask(self, text, tokens, temperature):
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
                "temperature": temperature, "seed": 3}
        before = self.cpu()
        reply = json.loads(self.read("/v1/chat/completions", json.dumps(body).encode()))
        return self.cpu() - before, reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]

    # Seconds a token after the first, and the text.
    def measure(self, text, tokens, temperature):
        prompt = self.ask(text, 1, temperature)[0]
        whole, answer, said = self.ask(text, tokens, temperature)
        return (whole - prompt) / max(1, said - 1), answer, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--binary", default=str(ROOT / "build/release/cli/millrace"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--numerics", default="default", help="of both nodes; where AMX runs, the default promises no equal answers")
    parser.add_argument("--port", type=int, default=21000)
    parser.add_argument("flags", nargs="*", help="after --: more flags of the node that speculates")
    options = parser.parse_args()
    numerics = ["--numerics", options.numerics]
    nodes = [Node(options, options.port, numerics),
             Node(options, options.port + 10, [*numerics, "--speculation", "ngram", *options.flags])]
    try:
        for name, (text, tokens) in TASKS.items():
            for temperature in (0, 0.7):
                before = nodes[1].counters()
                runs = [[node.measure(text, tokens, temperature) for node in nodes] for _ in range(options.pairs)]
                each = [(b - a) / options.pairs for a, b in zip(before, nodes[1].counters())]
                off, on = (statistics.median(run[i][0] for run in runs) for i in (0, 1))
                equal = sum(run[0][1] == run[1][1] for run in runs)
                print(f"{name:7} T={temperature:3} {runs[0][0][2]:4} tokens  off {off * 1e3:6.2f} ms  on "
                      f"{on * 1e3:6.2f} ms  {off / on:5.2f}x  drafts {each[0]:.0f} guesses {each[1]:.0f} "
                      f"right {each[2]:.0f}  equal {equal} of {options.pairs}", flush=True)
    finally:
        for node in nodes:
            node.process.terminate()


if __name__ == "__main__":
    main()
