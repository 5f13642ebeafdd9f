"""Start, refuse, drain, end."""
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


def stream_lines(node, body, out):
    with httpx.stream("POST", node.url + "/v1/completions", json=body, timeout=60) as reply:
        for line in reply.iter_lines():
            out.append(line)


def test_sigterm_finishes_what_runs():
    node = Node("--kv-cache-bytes", "512MiB", "--shutdown-timeout", "30")
    out = []
    body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "stream": True}
    reader = threading.Thread(target=stream_lines, args=(node, body, out))
    reader.start()
    while len(out) < 4:
        time.sleep(0.01)
    node.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert httpx.get(node.health_url + "/readyz").status_code == 503
    assert httpx.get(node.health_url + "/livez").status_code == 200
    refused = httpx.post(node.url + "/v1/completions", json=dict(body, stream=False))
    assert refused.status_code == 503 and "retry-after" in refused.headers
    reader.join(30)
    assert node.wait(30) == 0
    assert "data: [DONE]" in out and any('"finish_reason":"length"' in l for l in out)


def test_second_sigterm_ends_at_once_with_a_typed_end():
    node = Node("--kv-cache-bytes", "512MiB", "--shutdown-timeout", "60")
    out = []
    body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 6000, "ignore_eos": True, "stream": True}
    reader = threading.Thread(target=stream_lines, args=(node, body, out))
    reader.start()
    while len(out) < 4:
        time.sleep(0.01)
    node.signal(signal.SIGTERM)
    time.sleep(0.3)
    begin = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait(10) == 0 and time.monotonic() - begin < 5
    reader.join(10)
    assert any('"error"' in l for l in out) and out[-2:].count("data: [DONE]") == 1


def test_shutdown_timeout_cuts_with_a_typed_end():
    node = Node("--kv-cache-bytes", "512MiB", "--shutdown-timeout", "1")
    out = []
    body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 6000, "ignore_eos": True, "stream": True}
    reader = threading.Thread(target=stream_lines, args=(node, body, out))
    reader.start()
    while len(out) < 4:
        time.sleep(0.01)
    begin = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait(10) == 0 and time.monotonic() - begin < 5
    reader.join(10)
    assert any('"error"' in l for l in out)


def test_api_keys_guard_every_door(tmp_path):
    import grpc
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
            stub.Tokenize(request, metadata=[("authorization", "Bearer secret-key-of-alice")])
        assert not any("secret-key" in line for line in node.lines)
    finally:
        node.stop()
