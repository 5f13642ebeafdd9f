#!/usr/bin/env python3
"""OpenVINO GenAI's continuous batching behind the smallest possible door, for bench/peers/serving.py: GET /health, and
POST /v1/completions with token ids, streamed, one event a token. The engine runs on a thread of its own; the doors are
threads that wait for it, so that what HTTP costs here is little beside a step.
"""
import argparse
import http.server
import json
import queue
import threading

import numpy as np
import openvino as ov
import openvino_genai as genai


class Engine:
    """Requests in, tokens out. Thread: any for ask; the rest on its own."""

    def __init__(self, arguments):
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = arguments.tokens // 16 + 64  # small blocks: enough whatever their size is
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = 512, 64
        scheduler.enable_prefix_caching = False
        self.pipeline = genai.ContinuousBatchingPipeline(arguments.model, scheduler, "CPU",
                                                         {"INFERENCE_NUM_THREADS": arguments.threads})
        self.arrivals = queue.Queue()
        threading.Thread(target=self.work, daemon=True).start()

    def ask(self, prompt: list, tokens: int) -> queue.Queue:
        """Counts of new tokens; None at the end."""
        answer = queue.Queue()
        self.arrivals.put((prompt, tokens, answer))
        return answer

    def work(self):
        running, number = [], 0
        while True:
            while not running or not self.arrivals.empty():
                prompt, tokens, answer = self.arrivals.get()
                config = genai.GenerationConfig()
                config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
                number += 1
                handle = self.pipeline.add_request(number, ov.Tensor(np.array([prompt], np.int64)), config)
                running.append([handle, tokens, answer])
            self.pipeline.step()
            for entry in list(running):
                handle, _, answer = entry
                if handle.can_read():
                    count = sum(len(output.generated_ids) for output in handle.read().values())
                    entry[1] -= count
                    answer.put(count)
                if entry[1] <= 0:
                    answer.put(None)
                    running.remove(entry)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, required=True, help="that the KV cache holds")
    arguments = parser.parse_args()
    engine = Engine(arguments)

    class Door(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.end_headers()

        def do_POST(self):  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()
            answer = engine.ask(body["prompt"], body["max_tokens"])
            while (count := answer.get()) is not None:
                for _ in range(count):
                    self.wfile.write(b'data: {"choices":[{"text":"."}]}\n\n')
            self.close_connection = True

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer.request_queue_size = 1024  # all streams connect at once
    http.server.ThreadingHTTPServer(("127.0.0.1", arguments.port), Door).serve_forever()


if __name__ == "__main__":
    main()
