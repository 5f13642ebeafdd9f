"""--packed-cache: the second start maps what the first one packed, and answers the same; whatever is wrong with the
directory or a file is a line in the log."""
import signal
import threading
import time

import httpx
import pytest

import conftest
from conftest import NAME, Node

FLAGS = ("--compute-mode", "exact", "--kv-cache-bytes", "64MiB", "--max-model-len", "512", "--max-num-seqs", "8")
WRITTEN, HIT, REFUSED = "packed cache: written for the next start", "packed cache: hit", "packed cache: not used"


def start(cache, *flags):
    return Node(*FLAGS, "--packed-cache", str(cache), *flags)


def ask(node):
    """An answer and what it was computed by."""
    body = dict(model=NAME, prompt="Once upon a time", temperature=0, max_tokens=12)
    answer = httpx.post(node.url + "/v1/completions", json=body, timeout=60).json()
    return answer["choices"][0]["text"], answer["system_fingerprint"]


def result(node):
    """What the metrics say that the cache did."""
    samples = [k for k, v in conftest.metrics(node.health_url).items() if k.startswith("millrace_packed_cache{") and v == 1]
    assert len(samples) == 1, samples
    return samples[0].split('"')[1]


def said(node, event):
    return [line for line in node.lines if event in line]


def wait_written(node):
    """The line may come before `serving` does."""
    end = time.monotonic() + 60
    while not said(node, WRITTEN):
        assert time.monotonic() < end, "".join(node.lines)
        time.sleep(0.05)


def packed_files(cache):
    return sorted(p.name for p in cache.iterdir()) if cache.exists() else []


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A cache that one start has filled, and what that start answered."""
    cache = tmp_path_factory.mktemp("packed") / "below" / "cache"
    node = start(cache)
    try:
        wait_written(node)
        assert result(node) == "miss"
        answer = ask(node)
    finally:
        node.stop()
    return cache, answer


def test_off_by_default(node):
    assert result(node) == "off"


def test_the_second_start_maps_and_answers_the_same(stored):
    cache, answer = stored
    assert cache.stat().st_mode & 0o777 == 0o700
    files = packed_files(cache)
    assert len(files) == 1 and files[0].endswith(".packed")
    for flags in ((), ("--verify",)):
        node = start(cache, *flags)
        try:
            assert result(node) == "hit"
            assert ask(node) == answer
            assert f'"verified":{"true" if flags else "false"}' in said(node, HIT)[0]
            assert any("mapped from the packed cache" in line for line in node.lines)
        finally:
            node.stop()
    assert packed_files(cache) == files


def test_two_share_one_file(stored):
    cache, answer = stored
    first, second = start(cache), start(cache)
    try:
        assert result(first) == result(second) == "hit"
        assert ask(first) == ask(second) == answer
        # In use: no room can be made by removing it.
        third = start(cache, "--packed-cache-bytes", "1MiB", "--head-dtype", "source")
        third.stop()
        assert len(packed_files(cache)) == 1
    finally:
        first.stop()
        second.stop()


def test_two_first_starts_at_once(stored, tmp_path):
    nodes = []
    threads = [threading.Thread(target=lambda: nodes.append(start(tmp_path / "cache"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len(nodes) == 2
        assert [ask(n) for n in nodes] == [stored[1]] * 2
    finally:
        for node in nodes:
            node.stop()


@pytest.mark.parametrize("spoil", ["cut", "flipped", "writable", "directory"])
def test_what_is_wrong_is_refused_and_packed_again(stored, tmp_path, spoil):
    cache, answer = tmp_path / "cache", stored[1]
    cache.mkdir(mode=0o700)
    name = packed_files(stored[0])[0]
    data = bytearray((stored[0] / name).read_bytes())
    if spoil == "cut":
        del data[-4096:]
    if spoil == "flipped":
        data[len(data) // 2] ^= 1
    (cache / name).write_bytes(data)
    (cache / name).chmod(0o666 if spoil == "writable" else 0o600)
    if spoil == "directory":
        cache.chmod(0o755)
    node = start(cache, "--verify")
    try:
        assert result(node) == "refused"
        assert len(said(node, REFUSED)) == 1 and str(cache) in said(node, REFUSED)[0]
        assert ask(node) == answer
        if spoil == "directory":
            return
        wait_written(node)
    finally:
        node.stop()
    assert (cache / name).read_bytes() == (stored[0] / name).read_bytes()


def test_killed_while_it_writes(stored, tmp_path):
    cache = tmp_path / "cache"
    node = start(cache)
    node.signal(signal.SIGKILL)
    node.wait()
    node = start(cache)
    try:
        assert result(node) in ("miss", "hit") and ask(node) == stored[1]
    finally:
        node.stop()


def test_cut_short_while_it_is_served(stored, tmp_path):
    """Mapped weights that are gone: no way on. An exit that a supervisor sees, and the next start packs again."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    name = packed_files(stored[0])[0]
    (cache / name).write_bytes((stored[0] / name).read_bytes())
    (cache / name).chmod(0o600)
    node = start(cache)
    assert result(node) == "hit"
    with (cache / name).open("r+b") as file:
        file.truncate(8192)
    with pytest.raises(httpx.HTTPError):
        ask(node)
    assert node.wait() == 1
    assert any("packed cache, was cut short" in line for line in node.lines)
    node = start(cache)
    try:
        assert result(node) == "refused" and ask(node) == stored[1]
    finally:
        node.stop()
