"""Boots the real binary for the end-to-end tests and makes the gRPC stubs from our proto files."""
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("MILLRACE_BINARY", ROOT / "build/release/cli/millrace"))
CACHE = pathlib.Path(os.environ.get("MILLRACE_CACHE", pathlib.Path.home() / ".cache/millrace"))
DEMO = CACHE / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2"


def make_stubs() -> str:
    out = tempfile.mkdtemp(prefix="millrace-stubs-")
    protos = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto/millrace").rglob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
                    f"--grpc_python_out={out}", *protos], check=True)
    return out


sys.path.insert(0, make_stubs())


class Node:
    """One `millrace serve` process."""

    def __init__(self, *flags, model=DEMO, env=None):
        assert BINARY.exists(), f"{BINARY} is not built"
        assert pathlib.Path(model).exists(), f"{model}: run tools/fetch_demo_model.py"
        command = [str(BINARY), "serve", str(model), "--served-model-name", NAME, "--port", "0", "--grpc-port", "0",
                   "--health-port", "0", "--log-format", "json", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        env={**os.environ, **(env or {})})
        self.lines, self._queue = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        serving = self.wait_event("serving", 60)
        self.port, self.grpc_port, self.health_port = (serving[k] for k in ("http_port", "grpc_port", "health_port"))
        self.url, self.address = f"http://127.0.0.1:{self.port}", f"127.0.0.1:{self.grpc_port}"
        self.health_url = f"http://127.0.0.1:{self.health_port}"

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def wait_event(self, name, seconds):
        """The next JSON log line whose event is `name`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("event") == name or record.get("msg") == name:
                return record
        raise AssertionError(f"no `{name}` line; output:\n" + "".join(self.lines[-40:]))

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds=40):
        return self.process.wait(timeout=seconds)

    def stop(self):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        assert self.process.returncode == 0, "".join(self.lines[-40:])

    # What a leak test compares.
    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session")
def node():
    # Answers are compared with one another: the default's may depend on the load where AMX runs.
    node = Node("--numerics", "batch-invariant", "--max-num-seqs", "256", "--kv-cache-bytes", "1GiB")
    yield node
    node.stop()


@pytest.fixture(scope="session")
def exact_node():
    node = Node("--compute-mode", "exact", "--kv-cache-bytes", "1GiB")
    yield node
    node.stop()


@pytest.fixture()
def client(node):
    import openai
    return openai.OpenAI(base_url=node.url + "/v1", api_key="none", max_retries=0)


def metrics(url):
    """Sample name with labels -> value."""
    import httpx
    samples = {}
    for line in httpx.get(url + "/metrics").text.splitlines():
        if line and not line.startswith("#"):
            key, value = line.rsplit(" ", 1)
            samples[key] = float(value)
    return samples


def sample(samples, name):
    """The sum over label sets of one metric name."""
    return sum(v for k, v in samples.items() if k.split("{")[0] == name)


def wait_idle(node, seconds=20):
    """Waits until nothing runs; returns the samples."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = metrics(node.health_url)
        if sample(now, "vllm:num_requests_running") == 0 and sample(now, "vllm:num_requests_waiting") == 0:
            return now
        time.sleep(0.1)
    raise AssertionError("the node did not become idle")
