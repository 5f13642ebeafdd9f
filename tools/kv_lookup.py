#!/usr/bin/env python3
"""Looks up planted facts in long contexts through the whole node, with keys and values in bf16 and in int8.

A context is a stretch of tests/golden/model/long_text.ids with facts ("The secret number of the city of Rome is
4821.") spread evenly over it; each is then asked for at the end, greedily, and found when the answer begins with
its number. A context of n tokens holds n / 64 facts, at most 4, and there are as many contexts as make 24 facts
a length. Int8 is judged on the lengths where bf16 finds at least 80 %: below that it is the model that fails.

    tools/kv_lookup.py [--binary build/release/cli/millrace] [--write docs/kv_cache.md]

Needs no package; the demo model where MILLRACE_DEMO_MODEL says.
"""
import argparse
import array
import os
import pathlib
import random

from format_quality import ROOT, Node, replace_between

BEGIN, END = "<!-- table: written by tools/kv_lookup.py --write -->", "<!-- end of the look-up table -->"
LENGTHS, FACTS = [128, 256, 512, 1024, 2048, 4096, 8176], 24  # 16 tokens are left for the answer
CITIES = ["Rome", "Paris", "London", "Berlin", "Madrid", "Vienna", "Lisbon", "Dublin", "Oslo", "Athens", "Cairo",
          "Tokyo", "Delhi", "Lima", "Boston", "Dallas", "Sydney", "Prague", "Warsaw", "Geneva", "Milan", "Venice",
          "Moscow", "Havana"]


def contexts(node, text, length):
    """Prompts of about `length` tokens and the number that each must find."""
    draw = random.Random(length)
    count = min(4, max(1, length // 64))
    for number in range(FACTS // count):
        facts = [(city, str(draw.randrange(1000, 10000))) for city in draw.sample(CITIES, count)]
        planted = [node.ids(f"\nThe secret number of the city of {city} is {digits}.\n") for city, digits in facts]
        asked = [node.ids(f"\nThe secret number of the city of {city} is") for city, _ in facts]
        room = length - sum(map(len, planted)) - max(map(len, asked))
        begin = number * 1000
        hay = [text[(begin + i) % len(text)] for i in range(room)]
        ids, at = [], 0
        for i, fact in enumerate(planted):
            place = int(room * (i + 0.5) / count)
            ids += hay[at:place] + fact
            at = place
        ids += hay[at:]
        for question, (_, digits) in zip(asked, facts):
            yield ids + question, digits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=str(ROOT / "build/release/cli/millrace"))
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    demo = os.environ.get("MILLRACE_DEMO_MODEL") or os.path.expanduser(
        "~/.cache/millrace/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    text = array.array("H", (ROOT / "tests/golden/model/long_text.ids").read_bytes())
    found = {}
    for kind in ("bf16", "int8"):
        node = Node(options.binary, demo, "fast", "--kv-dtype", kind, "--max-model-len", "8192",
                    "--kv-cache-bytes", "768MiB", "--max-num-seqs", "1")
        for length in LENGTHS:
            hits = [node.complete(ids, 8).strip().startswith(digits) for ids, digits in contexts(node, text, length)]
            found[kind, length] = hits
            print(kind, length, sum(hits), "of", len(hits), flush=True)
        node.stop()
    lines = ["| context | facts | bf16 finds | int8 finds | found by both or by neither |",
             "|---|---|---|---|---|"]
    totals = [0, 0, 0]
    for length in LENGTHS:
        a, b = found["bf16", length], found["int8", length]
        same = sum(x == y for x, y in zip(a, b))
        lines.append(f"| {length} | {len(a)} | {sum(a)} | {sum(b)} | {same} |")
        if sum(a) >= 0.8 * len(a):
            totals = [totals[0] + len(a), totals[1] + sum(a), totals[2] + sum(b)]
    table = "\n".join(lines) + (f"\n\nOver the lengths where bf16 finds at least 80 %: {totals[0]} facts, bf16 finds "
                                f"{totals[1]}, int8 {totals[2]}.")
    print(table)
    if options.write:
        replace_between(options.write, BEGIN, END, table)


if __name__ == "__main__":
    main()
