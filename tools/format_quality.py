#!/usr/bin/env python3
"""What re-quantizing costs the demo model, measured through the whole node.

Serves each model of tools/requantize_demo.py and the source, in exact and in default mode, and compares their
distributions with those of the source in exact mode (which is `transformers` on the same weights to 1e-5,
docs/oracle.md). The source continues 50 prompts with 32 greedy tokens; each model then scores prompt and
continuation over HTTP (`prompt_logprobs: 20`, the most that the API gives), and the 32 positions that predict
the continuation count: 1,600 positions.

Top-1 is the most likely token. KL(source || model), in nats, is that of the distributions over the tokens that
are among both top 20 (and the continuation's own), with all other tokens as one: a lower bound of the whole
KL, and near it, as the share of the source's probability that these tokens have shows (`seen`).

    tools/format_quality.py FOLDER [--binary build/release/cli/millrace] [--write docs/formats.md]

Needs no package. FOLDER is what tools/requantize_demo.py wrote; the demo model where MILLRACE_DEMO_MODEL says.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: written by tools/format_quality.py --write -->", "<!-- end of the quality table -->"
TOKENS, TOP = 32, 20
PROMPTS = """What does HTTP stand for?
Write a haiku about rivers.
Explain gravity to a child.
Name three primary colors.
How do I boil an egg?
What is the capital of Japan?
List the planets of the solar system.
Who wrote Hamlet?
What is 12 plus 30?
Describe a rainy day in one paragraph.
Give me a tip for learning to cook.
Why is the sky blue?
What is photosynthesis?
Tell me a short story about a fox.
How does a bicycle stay upright?
What is the largest ocean?
Summarize the water cycle.
What do bees do?
How are mountains formed?
Write a polite email asking for a day off.
What is an algorithm?
Give an example of a metaphor.
What is the boiling point of water?
Explain what a prime number is.
Translate 'good morning' into French.
Write a Python function that reverses a string.
What causes the seasons?
Name a famous painter and one of his works.
How do vaccines work?
Why do we sleep?
What is the difference between weather and climate?
Give three reasons to learn a second language.
What is inflation in economics?
How do I tie a tie?
Describe the taste of an apple.
Who was Marie Curie?
What is a black hole?
Write a limerick about a cat.
How many days are in a leap year?
What is the purpose of a heart?
Explain how a rainbow appears.
Suggest a name for a small bakery.
What is machine learning?
How do plants drink water?
Write the opening line of a mystery novel.
What are the rules of tic-tac-toe?
Why is the sea salty?
What is a healthy breakfast?
How does a refrigerator keep food cold?
Explain the word 'democracy'.""".splitlines()
MODELS = [  # file or directory, name in the table, bits a weight of the layers
    ("", "source: Q4_1", 5.0), ("q8_0.gguf", "GGUF Q8_0", 8.5), ("q5_1.gguf", "GGUF Q5_1", 6.0),
    ("q4_0.gguf", "GGUF Q4_0", 4.5), ("gptq_g128_sym", "GPTQ g128 symmetric", 4.16),
    ("gptq_g128_asym_order", "GPTQ g128 asymmetric, act-order", 4.16), ("awq_g64", "AWQ g64", 4.31),
    ("w4a16_g64", "compressed-tensors W4A16 g64", 4.25)]


class Node:
    """One `millrace serve` process."""

    def __init__(self, binary, model, mode, *flags):
        flags = ["--port", "0", "--grpc-port", "0", "--health-port", "0", "--log-format", "json", "--compute-mode",
                 mode, "--served-model-name", "m", *flags]
        self.process = subprocess.Popen([binary, "serve", str(model), *flags], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            record = json.loads(line) if line.startswith("{") else {}
            if "http_port" in record:
                self.url = f"http://127.0.0.1:{record['http_port']}"
                return
        raise SystemExit("".join(lines))

    def post(self, path, **body):
        request = urllib.request.Request(self.url + path, json.dumps(dict(model="m") | body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def chat_ids(self, text, max_tokens):
        """Prompt's and answer's token ids."""
        answer = self.post("/v1/chat/completions", messages=[dict(role="user", content=text)], temperature=0,
                           max_tokens=max_tokens, return_token_ids=True, ignore_eos=True)
        return answer["prompt_token_ids"], answer["choices"][0]["token_ids"]

    def ids(self, text):
        return self.post("/v1/completions", prompt=text, max_tokens=1,
                         return_token_ids=True)["choices"][0]["prompt_token_ids"]

    def complete(self, ids, max_tokens):
        return self.post("/v1/completions", prompt=ids, max_tokens=max_tokens, temperature=0)["choices"][0]["text"]

    def score(self, ids):
        """{token: log-probability} of each of the last TOKENS positions."""
        answer = self.post("/v1/completions", prompt=ids, max_tokens=0, prompt_logprobs=TOP, temperature=0)
        rows = answer["choices"][0]["prompt_logprobs"][-TOKENS:]
        return [{int(token): entry["logprob"] for token, entry in row.items()} for row in rows]

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.process.returncode


def compare(source, other):
    """Top-1 equal, KL of what both know, share of the source's probability in it."""
    both = source.keys() & other.keys()
    kl = sum(math.exp(source[t]) * (source[t] - other[t]) for t in both)
    p_seen, q_seen = (sum(math.exp(row[t]) for t in both) for row in (source, other))
    p_rest, q_rest = max(1 - p_seen, 1e-9), max(1 - q_seen, 1e-9)
    return max(source, key=source.get) == max(other, key=other.get), kl + p_rest * math.log(p_rest / q_rest), p_seen


SMALL = ["--max-model-len", "512", "--kv-cache-bytes", "64MiB", "--max-num-seqs", "4"]


def measure(binary, folder, demo):
    node = Node(binary, demo, "exact", *SMALL)
    prompts, texts = [], []
    for text in PROMPTS:
        prompt, answer = node.chat_ids(text, TOKENS)
        assert len(answer) == TOKENS, text
        prompts.append(prompt), texts.append(prompt + answer)
    source = [node.score(ids) for ids in texts]
    node.stop()
    rows = []
    for name, title, bits in MODELS:
        cells = []
        for mode in ("exact", "default"):
            node = Node(binary, folder / name if name else demo, {"exact": "exact", "default": "fast"}[mode],
                        *SMALL)
            scores = [node.score(ids) for ids in texts]
            if "." not in name and name and mode == "default":  # the directory's own tokenizer and template give the same ids
                for text, ids in list(zip(PROMPTS, prompts)):
                    assert node.chat_ids(text, 1)[0] == ids, (name, text)
            node.stop()
            found = [compare(a, b) for p, q in zip(source, scores) for a, b in zip(p, q)]
            count = len(found)
            assert count == TOKENS * len(PROMPTS)
            top, kl, seen = (sum(row[i] for row in found) / count for i in range(3))
            worst = sorted(row[1] for row in found)[int(0.99 * count)]
            cells += [f"{100 * top:.1f} %", f"{kl:.4f}", f"{worst:.3f}"]
            print(name or "source", mode, cells[-3:], f"seen {seen:.4f}", flush=True)
            least = seen if not rows and mode == "exact" else min(least, seen)
        rows.append([title, f"{bits:.2f}", *cells])
    head = ["weights", "bits", "exact: same top-1", "mean KL", "99th percentile", "default: same top-1", "mean KL",
            "99th percentile"]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\nThe tokens that the KL is of have at least {100 * least:.1f} % of the source's probability."


def replace_between(path, begin_mark, end_mark, table):
    """Puts a table into a document, between its two comments."""
    text = path.read_text(encoding="utf-8")
    begin, end = text.index(begin_mark) + len(begin_mark), text.index(end_mark)
    path.write_text(f"{text[:begin]}\n\n{table}\n\n{text[end:]}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--binary", default=str(ROOT / "build/release/cli/millrace"))
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    demo = os.environ.get("MILLRACE_DEMO_MODEL") or os.path.expanduser(
        "~/.cache/millrace/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    table = measure(options.binary, options.folder, demo)
    print(table)
    if options.write:
        replace_between(options.write, BEGIN, END, table)


if __name__ == "__main__":
    main()
