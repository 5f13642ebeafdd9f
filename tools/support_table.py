#!/usr/bin/env python3
"""The support table (architecture x format) of docs/formats.md, from the registry and the tests.

    tools/support_table.py            prints it
    tools/support_table.py --write    puts it into docs/formats.md
    tools/support_table.py --check    fails when docs/formats.md says something else (a ctest)
    tools/support_table.py --self-test

Rows and columns are what the node reads: the architectures of model/architectures.cc, the families of
model/hf_config.cc, the types of model/gguf.cc, and the weight types of kernels/weights.h. A cell is proven only
when all of this holds, else it is empty: format_oracle_test runs the architecture's golden, the golden has the
format (in as many variants as the cell says), and tests/golden/model/format_kl.md, which that test writes when
it has passed, has a line for each variant within the limits of exact mode.
"""
import json
import pathlib
import re
import struct
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: written by tools/support_table.py --write -->", "<!-- end of the support table -->"
LIMIT = 1e-4
GROUPED = {("gptq", 4): "kGptq4", ("gptq", 8): "kGptq8", ("awq", 4): "kAwq4", ("packed", 4): "kPacked4",
           ("packed", 8): "kPacked8", ("int8", 8): "kInt8Channel"}
TITLES = {"kGptq4": "GPTQ, 4 bits", "kGptq8": "GPTQ, 8 bits", "kAwq4": "AWQ GEMM, 4 bits",
          "kPacked4": "compressed-tensors W4A16", "kPacked8": "compressed-tensors W8A16",
          "kInt8Channel": "compressed-tensors W8A8"}


def one(pattern, text, what):
    found = re.search(pattern, text, re.S)
    if not found:
        raise SystemExit(f"support_table: cannot find {what}; has the source moved?")
    return found.group(1)


def registry(root):
    """Architectures in order, those with a model_type, GGUF's types, the other weight types."""
    model = root / "model"
    symbols = re.findall(r"&k(\w+)", one(r"kArchitectures\[\] = \{(.*?)\};", (model / "architectures.cc").read_text(),
                                         "the table of architectures"))
    names = {}
    for path in sorted(model.glob("arch_*.cc")):
        for symbol, name in re.findall(r'constexpr Architecture k(\w+) = \{\.name = "(\w+)"', path.read_text()):
            names[symbol] = name
    architectures = [names[symbol] for symbol in symbols]
    families = one(r"kFamilies\[\] = \{(.*?)\n\};", (model / "hf_config.cc").read_text(), "the table of families")
    directories = set(re.findall(r'\{"\w+", "(\w+)"', families))
    gguf = re.findall(r'\{\d+, "(\w+)", kernels::WeightType::k\w+\}', (model / "gguf.cc").read_text())
    types = re.findall(r"\bk\w+", re.sub(r"//.*", "", one(r"enum class WeightType : uint8_t \{(.*?)\};", (
        root / "kernels/weights.h").read_text(), "the weight types")))
    unknown = [t for t in types if t not in TITLES and t[1:] not in gguf]
    if unknown or not gguf or not directories:
        raise SystemExit(f"support_table: no row for {unknown}; say it in TITLES and GROUPED")
    return architectures, directories, gguf, [t for t in types if t in TITLES]


def proofs(root):
    """(architecture, carrier, type) -> errors of the variants that are proven."""
    folder, out = root / "tests/golden/model", {}
    one(r"(millrace_test\(NAME format_oracle_test)", (folder / "CMakeLists.txt").read_text(), "format_oracle_test")
    run = re.findall(r'"(\w+)"', one(r"kArchitectures\[\] = \{(.*?)\};", (folder / "format_oracle_test.cc").read_text(),
                                     "the architectures that format_oracle_test runs"))
    measured = {}
    for line in (folder / "format_kl.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 9 and cells[1] in ("gguf", "safetensors"):
            measured[tuple(cells[:3])] = float(cells[3]), float(cells[4])
    for architecture in run:
        data = (folder / f"format_{architecture}.golden").read_bytes()
        header = json.loads(data[8:8 + struct.unpack("<I", data[4:8])[0]])
        for spec in header["formats"]:
            norm, kl = measured.get((architecture, spec["carrier"], spec["name"]), (1, 1))
            if norm > LIMIT or kl > LIMIT:
                continue
            grouped = GROUPED.get((spec["method"], spec.get("bits")))
            out.setdefault((architecture, spec["carrier"], grouped or spec["name"]), []).append(norm)
    return out


def table(root):
    architectures, directories, gguf, grouped = registry(root)
    proven = proofs(root)

    def cell(architecture, carrier, kind):
        if carrier == "safetensors" and architecture not in directories:
            return "-"
        errors = proven.get((architecture, carrier, kind), [])
        return f"{len(errors)}: {max(errors):.0e}" if errors else ""

    rows = [("GGUF", "gguf", t, t) for t in gguf]
    rows += [("directory", "safetensors", t, t) for t in ("F32", "F16", "BF16")]
    rows += [("directory", "safetensors", t, TITLES[t]) for t in grouped]
    lines = ["| in | weights | " + " | ".join(architectures) + " |", "|---|---|" + "---|" * len(architectures)]
    for place, carrier, kind, title in rows:
        lines.append(f"| {place} | {title} | " + " | ".join(cell(a, carrier, kind) for a in architectures) + " |")
    return "\n".join(lines)


def document(root, text):
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:begin]}\n\n{table(root)}\n\n{text[end:]}"


def self_test():
    """Each source of the table is spoiled once; the table must change or the script refuse."""
    spoils = [("model/architectures.cc", "&kQwen3, ", ""), ("model/hf_config.cc", '{"phi3", "phi3"', '{"phi3", "phi9"'),
              ("model/gguf.cc", '"IQ4_XS", kernels::WeightType::kIQ4_XS', '"IQ4_XS", std::nullopt'),
              ("kernels/weights.h", "  kAwq4,\n", ""), ("kernels/weights.h", "  kAwq4,\n", "  kAwq4,\n  kMxfp4,\n"),
               ("tests/golden/model/CMakeLists.txt", "NAME format_oracle_test", "NAME format_oracle_tool"),
              ("tests/golden/model/format_oracle_test.cc", '"gemma2",', ""),
              ("tests/golden/model/format_kl.md", "| llama | gguf | Q4_K |", "| llama | gguf | Q4_L |")]
    files = ["model/architectures.cc", "model/hf_config.cc", "model/gguf.cc", "kernels/weights.h"]
    files += ["tests/golden/model/CMakeLists.txt"]
    files += [str(p.relative_to(ROOT)) for p in [*(ROOT / "model").glob("arch_*.cc"),
                                                 *(ROOT / "tests/golden/model").glob("format_*")]]
    right = table(ROOT)
    for path, old, new in spoils:
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder)
            for name in set(files):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((ROOT / name).read_bytes())
            text = (copy / path).read_text()
            assert old in text, (path, old)
            (copy / path).write_text(text.replace(old, new))
            try:
                assert table(copy) != right, f"spoiling {path} ({old!r}) changes nothing"
            except SystemExit:
                pass
    print("support_table: each spoiled source is seen")


def main():
    page = ROOT / "docs/formats.md"
    if "--self-test" in sys.argv:
        return self_test()
    if "--write" in sys.argv:
        page.write_text(document(ROOT, page.read_text(encoding="utf-8")), encoding="utf-8")
    elif "--check" in sys.argv:
        text = page.read_text(encoding="utf-8")
        if document(ROOT, text) != text:
            sys.exit("docs/formats.md: the support table is not what the registry and the tests say; run "
                     "tools/support_table.py --write")
        print("support_table: docs/formats.md is right")
    else:
        print(table(ROOT))
    return None


if __name__ == "__main__":
    main()
