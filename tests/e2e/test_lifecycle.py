"""Start, refuse, drain, end."""
import pathlib
import signal
import subprocess
import threading
import time

import httpx
import pytest

from conftest import BINARY, DEMO, NAME, Node


def millrace(*arguments, seconds=5):
    begin = time.monotonic()
    done = subprocess.run([str(BINARY), *arguments], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - begin < seconds
    return done


def test_truncated_model_is_one_line_within_a_second(tmp_path):
    bad = tmp_path / "cut.gguf"
    bad.write_bytes(DEMO.read_bytes()[:50_000_000])
    done = millrace("serve", str(bad), "--port", "0", seconds=1.5)
    assert done.returncode == 1
    errors = [l for l in done.stderr.splitlines() if l.strip()]
    assert len(errors) == 1 and "cut.gguf" in errors[0], done.stderr


def test_model_cut_short_while_it_is_loaded(tmp_path):
    """GG-09: the pages are gone, so there is no way on: one line, and an exit code that a supervisor sees."""
    model = tmp_path / "cut.gguf"
    model.write_bytes(DEMO.read_bytes())
    process = subprocess.Popen([str(BINARY), "serve", str(model), "--port", "0", "--grpc-port", "0", "--health-port", "0"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while "cut.gguf" not in maps.read_text() and process.poll() is None:
        pass
    with model.open("r+b") as file:
        file.truncate(4096)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1, (process.returncode, err)
    assert sum("millrace: " in line for line in err.splitlines()) == 1 and "model" in err or "cut.gguf" in err, err


def test_model_cut_short_while_it_is_served(tmp_path):
    """What runs is not the file: the answers stay as they were."""
    model = tmp_path / "cut.gguf"
    model.write_bytes(DEMO.read_bytes())
    node = Node("--kv-cache-bytes", "512MiB", model=model)
    try:
        body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
        ask = lambda: httpx.post(node.url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]  # noqa: E731
        before = ask()
        with model.open("r+b") as file:
            file.truncate(4096)
        assert ask() == before
    finally:
        node.stop()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
def test_wrong_file(tmp_path, content):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(content)
    done = millrace("serve", str(bad), seconds=1.5)
    assert done.returncode == 1 and "bad.gguf" in done.stderr


def test_missing_file_and_bad_flags():
    assert millrace("serve", "/nowhere.gguf").returncode == 1
    assert millrace("serve", str(DEMO), "--max-num-seqs", "0").returncode == 2
    assert millrace("frobnicate").returncode == 2


def test_open_bind_without_keys_is_refused():
    done = millrace("serve", str(DEMO), "--host", "0.0.0.0", "--port", "0", seconds=3)
    assert done.returncode == 1 and "--api-key-file" in done.stderr


def test_plan_says_what_fits_and_what_would():
    fits = millrace("plan", str(DEMO), "--max-model-len", "2048", "--max-num-seqs", "4")
    assert fits.returncode == 0 and "weights" in fits.stdout.lower() and "kv" in fits.stdout.lower()
    cannot = millrace("serve", str(DEMO), "--kv-cache-bytes", "900GiB", "--port", "0", "--grpc-port", "0",
                      "--health-port", "0")
    assert cannot.returncode == 1 and "--kv-cache-bytes" in cannot.stdout + cannot.stderr


class Stream(threading.Thread):
    """A streamed completion in the background, from its first lines on."""

    def __init__(self, node, max_tokens):
        super().__init__(daemon=True)
        self.node, self.lines = node, []
        self.body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
        self.start()
        while len(self.lines) < 4:
            time.sleep(0.01)

    def run(self):
        with httpx.stream("POST", self.node.url + "/v1/completions", json=self.body, timeout=60) as reply:
            for line in reply.iter_lines():
                self.lines.append(line)


def drained_node(shutdown_timeout):
    return Node("--kv-cache-bytes", "512MiB", "--shutdown-timeout", str(shutdown_timeout))


def test_sigterm_finishes_what_runs():
    node = drained_node(30)
    stream = Stream(node, 200)
    node.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert httpx.get(node.health_url + "/readyz").status_code == 503
    assert httpx.get(node.health_url + "/livez").status_code == 200
    refused = httpx.post(node.url + "/v1/completions", json=dict(stream.body, stream=False))
    assert refused.status_code == 503 and "retry-after" in refused.headers
    stream.join(30)
    assert node.wait(30) == 0
    assert "data: [DONE]" in stream.lines and any('"finish_reason":"length"' in l for l in stream.lines)


def test_second_sigterm_ends_at_once_with_a_typed_end():
    node = drained_node(60)
    stream = Stream(node, 6000)
    node.signal(signal.SIGTERM)
    time.sleep(0.3)
    begin = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait(10) == 0 and time.monotonic() - begin < 5
    stream.join(10)
    assert any('"error"' in l for l in stream.lines) and stream.lines[-2:].count("data: [DONE]") == 1


def test_shutdown_timeout_cuts_with_a_typed_end():
    node = drained_node(1)
    stream = Stream(node, 6000)
    begin = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait(10) == 0 and time.monotonic() - begin < 5
    stream.join(10)
    assert any('"error"' in l for l in stream.lines)


def test_without_a_key_file_sighup_drains():
    node = drained_node(30)
    stream = Stream(node, 50)
    node.signal(signal.SIGHUP)
    stream.join(30)
    assert node.wait(30) == 0 and "data: [DONE]" in stream.lines


def key_status(node, key):
    return httpx.get(node.url + "/v1/models", headers={"authorization": "Bearer " + key}).status_code


def eventually(done, seconds=1.5):
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.02)
    return done()


def test_keys_are_read_again(tmp_path):
    """When the file changes, as a mounted secret does, within a second; at SIGHUP; and a bad file changes nothing."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("alice:key-number-one\n")
    second.write_text("alice:key-number-two\nbob:key-number-three\n")
    link = tmp_path / "keys"
    link.symlink_to(first)
    node = Node("--api-key-file", str(link), "--kv-cache-bytes", "512MiB", "--host", "0.0.0.0")
    try:
        assert key_status(node, "key-number-one") == 200 and key_status(node, "key-number-two") == 401
        swap = tmp_path / "swap"
        swap.symlink_to(second)
        swap.rename(link)
        assert eventually(lambda: key_status(node, "key-number-one") == 401)
        assert key_status(node, "key-number-two") == key_status(node, "key-number-three") == 200
        for bad in ("", "short\n", "a:key-number-four\na:key-number-five\n"):  # half written, garbage, doubled
            known = len(node.lines)
            second.write_text(bad)
            assert eventually(lambda: any("not reloaded" in l for l in node.lines[known:]))
            assert key_status(node, "key-number-two") == 200
        link.unlink()
        assert eventually(lambda: any("cannot read" in l for l in node.lines))
        time.sleep(0.6)
        said = sum("cannot read" in l for l in node.lines)
        assert said == 1 and key_status(node, "key-number-two") == 200
        node.signal(signal.SIGHUP)  # asked for, it is said again; and the node lives on
        assert eventually(lambda: sum("cannot read" in l for l in node.lines) == 2)
        link.symlink_to(first)
        assert eventually(lambda: key_status(node, "key-number-one") == 200)
        known = len(node.lines)
        node.signal(signal.SIGHUP)
        assert eventually(lambda: any("keys reloaded" in l for l in node.lines[known:]))
        assert key_status(node, "key-number-one") == 200 and key_status(node, "key-number-two") == 401
        assert not any("key-number" in line for line in node.lines)
    finally:
        node.stop()


def test_api_keys_guard_every_door(tmp_path):
    import grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    from millrace.v1 import inference_service_pb2 as pb
    from millrace.v1 import inference_service_pb2_grpc as rpc
    keys = tmp_path / "keys"
    keys.write_text("alice:secret-key-of-alice\nbob:secret-key-of-bob\n")
    keys.chmod(0o600)
    node = Node("--api-key-file", str(keys), "--kv-cache-bytes", "512MiB", "--host", "0.0.0.0")
    try:
        for path in ("/v1/models", "/version", "/v1/none"):
            assert httpx.get(node.url + path).status_code == 401, path
        assert httpx.get(node.url + "/v1/models", headers={"authorization": "Bearer wrong-key-00"}).status_code == 401
        assert httpx.get(node.url + "/v1/models",
                         headers={"authorization": "Bearer secret-key-of-bob"}).status_code == 200
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            assert httpx.get(node.url + path).status_code == 200, path
        with grpc.insecure_channel(node.address) as channel:
            stub = rpc.InferenceServiceStub(channel)
            request = pb.TokenizeRequest(model=NAME, text="x")
            with pytest.raises(grpc.RpcError) as error:
                stub.Tokenize(request)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.RpcError) as error:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            stub.Tokenize(request, metadata=[("authorization", "Bearer secret-key-of-alice")])
        assert not any("secret-key" in line for line in node.lines)
    finally:
        node.stop()
