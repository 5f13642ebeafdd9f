#!/usr/bin/env python3
"""OpenVINO GenAI on the cases of bench/peers/cases.py, reading the GGUF file itself. No settings: it has none here
that helped; keys and values are as it chooses for this CPU.

Prefill and batches through the continuous batching pipeline, whose steps are timed one by one; a single sequence
through the plain pipeline too, and the better counts. Its steps sample (greedy), which cannot be left out.
"""
import time

import numpy as np
import openvino as ov
import openvino_genai as genai

import cases


def generation(tokens: int):
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
    return config


def ids(count: int, seed: int, vocabulary: int):
    return ov.Tensor(np.array([cases.prompt(count, seed, vocabulary)], np.int64))


class Batching:
    """Steps of the scheduler, timed. The prompts of a batch are computed first, some in a step."""

    def __init__(self, arguments, vocabulary):
        scheduler = genai.SchedulerConfig()
        longest = max(case.batch * (case.context + arguments.steps + 64) for case in arguments.cases)
        scheduler.num_kv_blocks = longest // 16 + 64  # small blocks: enough whatever their size is
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = 512, 64
        scheduler.enable_prefix_caching = False
        self.pipeline = genai.ContinuousBatchingPipeline(arguments.model, scheduler, "CPU",
                                                         {"INFERENCE_NUM_THREADS": arguments.threads})
        self.vocabulary, self.next_id = vocabulary, 0

    def add(self, count: int, seed: int, new_tokens: int):
        self.next_id += 1
        return self.pipeline.add_request(self.next_id, ids(count, seed, self.vocabulary), generation(new_tokens))

    def prefill(self, arguments, case):
        best = float("inf")
        for repeat in range(cases.prompts(arguments) // 2):
            handle = self.add(case.prefill, repeat, 1)
            begin = time.perf_counter()
            while self.pipeline.has_non_finished_requests():
                self.pipeline.step()
            best = min(best, time.perf_counter() - begin)
            del handle
        return case.prefill / best

    def generate(self, arguments, case):
        # A prompt's own step gives its first token, and while some prompts wait others already go on: ask for enough
        # that all are still running for `steps` steps after the last prompt is in.
        waiting = (case.batch * case.context + 511) // 512 + case.batch
        handles = [self.add(case.context, seed, waiting + arguments.steps + 8) for seed in range(case.batch)]
        counts = [0] * case.batch
        seconds, steps = 0.0, 0
        while steps < arguments.steps + 1:
            begin = time.perf_counter()
            self.pipeline.step()
            took = time.perf_counter() - begin
            running = all(counts)
            for i, handle in enumerate(handles):
                if handle.can_read():
                    counts[i] += sum(len(output.generated_ids) for output in handle.read().values())
            if running:
                seconds += took if steps > 0 else 0
                steps += 1
        for handle in handles:
            handle.stop() if hasattr(handle, "stop") else handle.drop()
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        return case.batch * arguments.steps / seconds


def single(arguments, vocabulary, case):
    """The plain pipeline: its own figures of time to the first and to each further token, ms."""
    pipeline = genai.LLMPipeline(arguments.model, "CPU", INFERENCE_NUM_THREADS=arguments.threads, ATTENTION_BACKEND="SDPA")
    best = 0.0
    for repeat in range(cases.prompts(arguments) // 2 if case.prefill else 2):
        result = pipeline.generate(ids(case.context, repeat, vocabulary),
                                   generation(1 if case.prefill else arguments.steps + 1))
        metrics = result.perf_metrics
        value = case.prefill / metrics.get_ttft().mean if case.prefill else 1 / metrics.get_tpot().mean
        best = max(best, value * 1e3)
    return best


def main():
    arguments = cases.parse(__doc__)
    vocabulary = 40000  # tokens that every file has
    batching = Batching(arguments, vocabulary)
    figures = {case.text: (batching.prefill if case.prefill else batching.generate)(arguments, case)
               for case in arguments.cases}
    del batching
    for case in arguments.cases:
        if case.batch == 1:
            figures[case.text] = max(figures[case.text], single(arguments, vocabulary, case))
    cases.answer("openvino-genai " + genai.__version__, figures)


if __name__ == "__main__":
    main()
