#!/usr/bin/env python3
"""llama.cpp on the same work as model/prefill_decode_bench, through its C API: one JSON line.

    python bench/peers/llama_cpp_bench.py MODEL.gguf [--threads 2] [--batches 1,8,32]

Needs the package llama-cpp-python (tools/requirements-peers.txt), built for this machine. Prefill: 512 tokens of
one sequence in one batch, logits of the last, best of 4. Decode: sequences of 128 tokens each, then 64 steps of
one token a sequence, logits of each; the time is llama_decode's alone, without sampling. Flash attention on and
off are both run and the better figure is kept, as a peer is measured at its best setting.
"""
import argparse
import json
import time

import llama_cpp as lib

PREFILL, CONTEXT, STEPS = 512, 128, 64
QUIET = lib.llama_log_callback(lambda *_: None)  # llama.cpp keeps the pointer


def tokens(count, seed):
    return [(i * 37 + seed * 101) % 40000 + 300 for i in range(count)]


class Context:
    def __init__(self, model, threads, sequences, flash):
        params = lib.llama_context_default_params()
        params.n_ctx = max(PREFILL + 8, sequences * (CONTEXT + STEPS + 8))
        params.n_batch = params.n_ubatch = PREFILL
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = 1 if flash else 0
        self.context = lib.llama_init_from_model(model, params)
        self.batch = lib.llama_batch_init(PREFILL, 0, 1)

    def close(self):
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.context)

    def clear(self):
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def decode(self, rows):
        """rows: (token, position, sequence, wants logits). Seconds of the call."""
        for i, (token, position, sequence, wants) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0], self.batch.logits[i] = 1, sequence, wants
        self.batch.n_tokens = len(rows)
        begin = time.perf_counter()
        if lib.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        lib.llama_get_logits(self.context)  # waits for the result
        return time.perf_counter() - begin


def prefill(model, threads, flash):
    context = Context(model, threads, 1, flash)
    best = float("inf")
    for repeat in range(4):
        context.clear()
        best = min(best, context.decode([(t, i, 0, i == PREFILL - 1) for i, t in enumerate(tokens(PREFILL, repeat))]))
    context.close()
    return PREFILL / best


def generate(model, threads, batch, flash):
    context = Context(model, threads, batch, flash)
    for sequence in range(batch):
        context.decode([(t, i, sequence, i == CONTEXT - 1) for i, t in enumerate(tokens(CONTEXT, sequence))])
    seconds = 0.0
    for step in range(STEPS + 1):
        took = context.decode([(500 + step, CONTEXT + step, sequence, True) for sequence in range(batch)])
        seconds += took if step > 0 else 0  # the first step of a shape builds its graph
    context.close()
    return batch * STEPS / seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", default="1,8,32")
    arguments = parser.parse_args()
    lib.llama_log_set(QUIET, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(arguments.model.encode(), lib.llama_model_default_params())
    threads = arguments.threads
    report = {"peer": "llama.cpp", "version": lib.__version__,
              "prefill_512": max(prefill(model, threads, flash) for flash in (False, True))}
    for batch in map(int, arguments.batches.split(",")):
        report[f"decode_{batch}"] = max(generate(model, threads, batch, flash) for flash in (False, True))
    print(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in report.items()}))


if __name__ == "__main__":
    main()
