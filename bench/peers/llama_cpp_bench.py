#!/usr/bin/env python3
"""llama.cpp on the cases of bench/peers/cases.py, through its C API. Settings: fa, no-fa (flash attention on, off).

Needs the package llama-cpp-python (bench/peers/requirements.txt: its build takes about 15 minutes on 2 cores), built
for this machine. The time is llama_decode's alone, without sampling. A context is computed once; the other sequences
get its keys and values as copies (llama_state_seq_set_data), cells of their own.
"""
import ctypes
import time

import llama_cpp as lib

import cases

QUIET = lib.llama_log_callback(lambda *_: None)  # llama.cpp keeps the pointer


class Context:
    def __init__(self, model, arguments, length, sequences):
        params = lib.llama_context_default_params()
        params.n_ctx = length * sequences
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = arguments.threads
        params.kv_unified = True
        params.flash_attn_type = 1 if arguments.setting == "fa" else 0
        self.context = lib.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit("llama_init_from_model failed")
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.batch = lib.llama_batch_init(512, 0, 1)

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

    def feed(self, tokens):
        """One sequence's prompt, in batches of 512."""
        rows = [(t, i, 0, i == len(tokens) - 1) for i, t in enumerate(tokens)]
        return sum(self.decode(rows[begin:begin + 512]) for begin in range(0, len(rows), 512))

    def copy_first(self, sequences):
        size = lib.llama_state_seq_get_size(self.context, 0)
        state = (ctypes.c_uint8 * size)()
        lib.llama_state_seq_get_data(self.context, state, size, 0)
        for sequence in range(1, sequences):
            if lib.llama_state_seq_set_data(self.context, state, size, sequence) == 0:
                raise SystemExit("llama_state_seq_set_data failed")


def prefill(model, arguments, case):
    context = Context(model, arguments, case.prefill + 8, 1)
    best = float("inf")
    for repeat in range(cases.prompts(arguments)):
        context.clear()
        best = min(best, context.feed(cases.prompt(case.prefill, repeat, context.vocabulary)))
    context.close()
    return case.prefill / best


def generate(model, arguments, case):
    context = Context(model, arguments, case.context + arguments.steps + 8, case.batch)
    context.feed(cases.prompt(case.context, 1, context.vocabulary))
    context.copy_first(case.batch)
    seconds = 0.0
    for step in range(arguments.steps + 1):
        took = context.decode([(500 + step, case.context + step, sequence, True) for sequence in range(case.batch)])
        seconds += took if step > 0 else 0  # the first step of a shape builds its graph
    context.close()
    return case.batch * arguments.steps / seconds


def main():
    arguments = cases.parse(__doc__)
    lib.llama_log_set(QUIET, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(arguments.model.encode(), lib.llama_model_default_params())
    if not model:
        raise SystemExit("cannot load " + arguments.model)
    cases.answer(f"llama-cpp-python {lib.__version__}", {
        case.text: prefill(model, arguments, case) if case.prefill else generate(model, arguments, case)
        for case in arguments.cases})


if __name__ == "__main__":
    main()
