#!/usr/bin/env python3
"""bench/peers/run.py without a peer: settings, ratios and the table from made-up figures. python3 bench/peers/run_test.py"""
import argparse
import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
import types
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cases  # noqa: E402
import ik_llama_bench  # noqa: E402
import run  # noqa: E402
import serving  # noqa: E402


def pair(ours: dict, peers: dict) -> dict:
    return {"ours": ours, "shares": {case: (0.5, 0.25) for case in ours}, "peers": peers}


class Run(unittest.TestCase):
    def test_each_case_goes_on_with_the_setting_that_won(self):
        tried = {"fa": {"prefill:512": 10, "decode:8:128": 5}, "no-fa": {"prefill:512": 9, "decode:8:128": 6}}
        self.assertEqual(run.best_settings(tried, ["prefill:512", "decode:8:128", "decode:1:128"]),
                         {"fa": ["prefill:512"], "no-fa": ["decode:8:128"]})
        self.assertEqual(run.best_settings({"fa": {}}, ["prefill:512"]), {})

    def test_ratios_are_to_the_best_peer_of_the_same_pair(self):
        peers = ["a", "b"]
        pairs = [pair({"prefill:512": 10}, {"a": {"prefill:512": 5}, "b": {"prefill:512": 2}}),
                 pair({"prefill:512": 30}, {"a": {"prefill:512": 5}, "b": {"prefill:512": 10}}),
                 pair({"prefill:512": 20}, {"a": {"prefill:512": 5}, "b": {}})]
        (row,) = run.summary_rows("f", pairs, peers)
        self.assertEqual(row["millrace"], 20)
        self.assertEqual(row["peers"], {"a": 5, "b": 6})
        self.assertEqual(row["ratio"], [3, 2, 4])
        text = run.table([row], peers)
        self.assertIn("| f | prefill 512 | 20 | 5 | 6 | 3.00 (2.00, 4.00) | 3 | 50% | 25% |", text)

    def test_a_peer_without_figures_leaves_dashes(self):
        peers = ["a"]
        (row,) = run.summary_rows("f", [pair({"decode:8:128": 10}, {"a": {}})], peers)
        self.assertIsNone(row["ratio"])
        self.assertIn("| decode b=8, context 128 | 10 | - | - | 1 | 50% | 25% |", run.table([row], peers))

    def test_settings_tried_once_then_the_winners_and_time_is_kept(self):
        calls = []

        def measure(_path, wanted, setting, _o):
            calls.append((setting, tuple(wanted)))
            return {case: {"x": 1, "y": 2}[setting] for case in wanted}

        peer = types.SimpleNamespace(name="p", settings=("x", "y"), measure=measure, version="1")
        o = argparse.Namespace(prefill="4", contexts="1", batches="1", pairs=2, threads=1, numerics="", cpu_tier="",
                               steps=1, repeats=1, program="abc", since="", command="run")
        lines = []
        with mock.patch.object(run, "measure_ours", lambda _path, wanted, _o: {
                "ours": dict.fromkeys(wanted, 8), "shares": dict.fromkeys(wanted, (0, 0)), "machine": {}}), \
                mock.patch.object(run, "all_recorded", lambda _o: []), \
                mock.patch.object(run, "record", lambda _bench, **facts: lines.append(facts)):
            pairs = []
            run.measure_file("demo-q4_1", {"demo": "f"}, [peer], pairs, o, float("inf"))
            self.assertEqual(calls, [("x", ("prefill:4", "decode:1:1")), ("y", ("prefill:4", "decode:1:1")),
                                     ("y", ("prefill:4", "decode:1:1"))])
            self.assertEqual(pairs[1]["peers"]["p"]["prefill:4"], 2)
            self.assertEqual([line["program"] for line in lines], ["abc", "abc"])
            with contextlib.redirect_stderr(io.StringIO()):
                late = []
                run.measure_file("demo-q4_1", {"demo": "f"}, [peer], late, o, 0)
                self.assertEqual(len(late), 1)
                # One that the end of the time cut short counts if it is the first only.
                with mock.patch.object(run, "DEADLINE", 0):
                    run.measure_file("demo-q4_1", {"demo": "f"}, [peer], late, o, float("inf"))
                    self.assertEqual(len(late), 1)
                    run.measure_file("demo-q4_1", {"demo": "f"}, [peer], first := [], o, 0)
                    self.assertEqual(len(first), 1)
            # What is there already counts, and so do its settings.
            calls.clear()
            o.contexts = "1,9"
            run.measure_file("demo-q4_1", {"demo": "f"}, [peer], pairs, o, float("inf"))
            self.assertEqual(calls, [("x", ("decode:1:9",)), ("y", ("decode:1:9",)), ("y", ("decode:1:9",))])
            self.assertEqual(run.summary_rows("f", pairs, ["p"])[2]["pairs"], 2)
        with mock.patch.object(run, "measure_ours", side_effect=run.OurFailure("no")), \
                mock.patch.object(run, "all_recorded", lambda _o: []):
            self.assertRaises(run.OurFailure, run.measure_file, "demo-q4_1", {"demo": "f"}, [peer], [], o, 0)

    def test_ours_has_as_many_prompts_as_the_peers(self):
        o = argparse.Namespace(prefill="512", batches="1", threads=1, numerics="", cpu_tier="", steps=1, repeats=3)
        report = json.dumps({"prefill": [], "decode": []} | dict.fromkeys(run.MACHINE, 0))
        with mock.patch.object(run, "run", return_value=(report, "")) as called:
            run.measure_ours("f", ["prefill:512", "decode:1:128"], o)
        command = called.call_args.args[0]
        # Eight with the one that `millrace bench` warms up with.
        self.assertEqual(command[command.index("--repeats") + 1], 7)

    def test_pairs_of_another_program_cpu_or_before_do_not_count(self):
        o = argparse.Namespace(threads=1, numerics="", cpu_tier="", steps=1, repeats=1, program="abc", since="")
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(run, "ROOT", pathlib.Path(folder)):
            here = {"cpu": run.cpu_here()[0], "cpu_flags": sorted(run.cpu_here()[1])[:3]}
            run.record("peers", file="f", program="abc", asked=run.asked(o), machine=here)
            run.record("peers", file="f", program="other", asked=run.asked(o), machine=here)
            run.record("peers", file="f", program="abc", asked=run.asked(o) | {"threads": 2}, machine=here)
            run.record("peers", file="f", program="abc", asked=run.asked(o), machine=here | {"cpu": "another"})
            run.record("peers", file="f", program="abc", asked=run.asked(o), machine=here | {"cpu_flags": ["amx_none"]})
            run.record("serving", file="f")
            self.assertEqual(len(run.recorded(o)["f"]), 1)
            o.cpu_tier = "avx2"
            self.assertEqual(run.recorded(o), {})
            o.cpu_tier = ""
            o.since = "9999"
            self.assertEqual(run.recorded(o), {})

    def test_a_command_that_fails_is_none(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(run.run([sys.executable, "-c", "raise SystemExit('no such model')"]), (None, "no such model"))
            self.assertEqual(run.run([sys.executable, "-c", "pass"]), (None, "exit code 0"))
            self.assertEqual(run.run([sys.executable, "-c", "print(1)"]), ("1\n", ""))
        self.assertIn("failed: no such model", said.getvalue())

    def test_what_runs_past_the_time_is_ended_with_its_children(self):
        with tempfile.TemporaryDirectory() as folder:
            child = pathlib.Path(folder) / "child"
            script = ("import subprocess, sys, time; p = subprocess.Popen(['sleep', '100']); "
                      "open(sys.argv[1], 'w').write(str(p.pid)); time.sleep(100)")
            run.DEADLINE = run.time.monotonic() + 3
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    self.assertEqual(run.run([sys.executable, "-c", script, child]), (None, "no time left"))
            finally:
                run.DEADLINE = float("inf")
            stat = pathlib.Path(f"/proc/{child.read_text()}/stat")

            def is_alive() -> bool:
                try:
                    return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"  # waiting to be reaped, or dead
                except OSError:
                    return False

            until = time.monotonic() + 10  # a signal is on its way for a moment; the child's own end is at 100 s
            while is_alive() and time.monotonic() < until:
                time.sleep(0.01)
            self.assertFalse(is_alive())

    def test_a_peer_that_fails_says_on_which_file(self):
        with tempfile.TemporaryDirectory() as folder:
            script = pathlib.Path(folder) / "peer.py"
            script.write_text("import sys\nsys.exit('cannot load ' + sys.argv[1])", encoding="utf-8")
            peer = run.Peer("p", str(script), ("",), sys.executable, {})
            o = argparse.Namespace(threads=1, steps=1, repeats=1)
            with contextlib.redirect_stderr(io.StringIO()):
                self.assertEqual(peer.measure("/a/b.gguf", ["prefill:4"], "", o), {})
        self.assertEqual(peer.failures, {"b.gguf": "cannot load /a/b.gguf"})

    def test_what_is_not_there_is_named(self):
        o = argparse.Namespace(llama_cpp="/nowhere/python", ik_llama="", openvino=sys.executable, quick=True, cpu_tier="avx2")
        saved = run.os.environ
        run.os.environ = {}
        try:
            here, missing = run.find_peers(o)
        finally:
            run.os.environ = saved
        self.assertEqual([peer.name for peer in here], [])  # this Python has no openvino_genai
        self.assertEqual(missing, ["llama.cpp", "ik_llama.cpp", "OpenVINO"])


class Cases(unittest.TestCase):
    def test_cases(self):
        case = cases.Case("decode:8:1024")
        self.assertEqual((case.prefill, case.batch, case.context), (0, 8, 1024))
        self.assertEqual(cases.Case("prefill:512").prefill, 512)
        for wrong in ("decode:8", "decode:0:128", "train:1", "prefill:x"):
            with self.assertRaises((ValueError, IndexError)):
                cases.Case(wrong)

    def test_prompts_stay_in_the_vocabulary(self):
        tokens = cases.prompt(5000, 3, 1000)
        self.assertTrue(300 <= min(tokens) and max(tokens) < 700)


class Serving(unittest.TestCase):
    def test_first_tokens_and_gaps_of_all_requests(self):
        facts = serving.summary([[0.0, 0.5, 0.6, 0.8], [1.0, 1.25, 1.375]], 2.0, 3)
        self.assertEqual(facts["tokens_per_s"], 3)
        self.assertEqual((facts["first_ms_p50"], facts["first_ms_p99"]), (500, 500))
        self.assertAlmostEqual(facts["gap_ms_p50"], 125)
        self.assertAlmostEqual(facts["gap_ms_p99"], 200)
        text = serving.table({(32, "Millrace"): [facts | {"peak_bytes": 3 << 20, "memory_share": 0.5}]})
        self.assertIn("| 32 | Millrace | 3 | 500 / 500 | 125.0 / 200.0 | 1.6 | 3 (50% of the bound) |", text)

    def test_a_server_that_does_not_start_is_said(self):
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaisesRegex(SystemExit, "ended with 3"):
            serving.Server([sys.executable, "-c", "raise SystemExit(3)"], serving.free_port())


class IkLlama(unittest.TestCase):
    """Its programs' outputs, as its sources print them."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        bench = ('#!/bin/sh\necho "some log"\necho \'[ { "avg_ts": 99.0, "samples_ts": [ 100.5, 97.5 ] } ]\'\n')
        batched = ('#!/bin/sh\necho "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |"\n'
                   'echo "|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|"\n'
                   'echo "|   128 |     32 |    1 |    160 |    0.376 |   340.00 |    0.744 |    43.01 |    1.120 |   142.86 |"\n'
                   'echo "|   128 |     32 |    8 |   1280 |    3.010 |   340.20 |    2.349 |   109.00 |    5.359 |   238.85 |"\n')
        for name, text in {"llama-bench": bench, "llama-batched-bench": batched}.items():
            path = pathlib.Path(self.folder.name) / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        ik_llama_bench.os.environ["MILLRACE_IK_LLAMA"] = self.folder.name

    def tearDown(self):
        del ik_llama_bench.os.environ["MILLRACE_IK_LLAMA"]
        self.folder.cleanup()

    def test_figures_are_read(self):
        o = argparse.Namespace(model="m", threads=2, repeats=2, steps=32)
        self.assertEqual(ik_llama_bench.prefill(o, cases.Case("prefill:512"), True, True), 100.5)
        group = [cases.Case("decode:1:128"), cases.Case("decode:8:128")]
        self.assertEqual(ik_llama_bench.generate(o, group, True, True), {"decode:1:128": 43.01, "decode:8:128": 109.0})


if __name__ == "__main__":
    unittest.main()
