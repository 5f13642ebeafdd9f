#!/usr/bin/env python3
"""Writes long_text.ids: 8,192 tokens of the demo model (uint16), prose that does not repeat itself.

The text is this project's own: its documents as they were when the file was made, so making it again gives
another text. What is measured on it is named after the file, not after the documents.
"""
import os
import pathlib

import numpy as np
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
    folder, name = os.path.split(os.environ["MILLRACE_DEMO_MODEL"])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    files = [HERE.parents[2] / "ARCHITECTURE.md", *sorted((HERE.parents[2] / "docs").rglob("*.md"))]
    # Prose only: tables of figures are noise to a small model.
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()
             if not line.startswith(("|", "<!--", "```"))]
    ids = tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"]
    assert len(ids) >= 8192, len(ids)
    np.array(ids[:8192], np.uint16).tofile(HERE / "long_text.ids")


if __name__ == "__main__":
    main()
