"""What every peer is asked, and how it answers: `PEER.py MODEL --setting NAME --case prefill:512 --case decode:8:128 ...`
prints one JSON line {"version": ..., "cases": {"prefill:512": tokens/s, ...}}. run.py calls; each PEER.py does the work.

    prefill:N    one prompt of N tokens, logits of the last; the best of prompts(), which warm up too
    decode:B:C   B sequences of C tokens each, every one with keys and values of its own, then `steps` steps of one token
                 a sequence, logits of each; the mean, without sampling where the peer lets us leave it out
"""
import argparse
import json


class Case:
    def __init__(self, text: str):
        self.text, parts = text, text.split(":")
        self.prefill = int(parts[1]) if parts[0] == "prefill" else 0
        self.batch, self.context = (int(p) for p in parts[1:]) if parts[0] == "decode" else (1, self.prefill)
        if parts[0] not in ("prefill", "decode") or min(self.batch, self.context) < 1:
            raise ValueError(text)


def parse(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--setting", default="")
    parser.add_argument("--case", dest="cases", type=Case, action="append", required=True)
    return parser.parse_args()


def prompts(arguments: argparse.Namespace) -> int:
    """How many prompts of a prefill each program has, ours too: OpenVINO's two pipelines want `repeats` + 1 each."""
    return 2 * (arguments.repeats + 1)


def prompt(count: int, seed: int, vocabulary: int) -> list:
    """Ordinary tokens, the same in every run."""
    return [300 + (i * 37 + seed * 101) % (vocabulary - 600) for i in range(count)]


def answer(version: str, figures: dict) -> None:
    print(json.dumps({"version": version, "cases": {case: round(value, 3) for case, value in figures.items()}}))
