#!/usr/bin/env python3
"""The style guide as a test. Reads every tracked source file once and fails with a line each.

Checks: the include table of ARCHITECTURE.md; banned words, each with what to write instead; sizes;
a `Thread:` line near every public class; sources that no CMakeLists.txt lists; dead links in docs.
`tidy.py --self-test` proves that each check can fail; `tidy.py --comments` prints the share of comments.
"""
import os
import re
import subprocess
import sys
import tempfile

FOLDERS = ["base", "messages", "kernels", "paged_kv", "text", "scheduler", "model", "executor", "engine",
           "server", "cli", "proto"]
HEADER_LINES, SOURCE_LINES, CUDA_LINES, COLUMNS, FUNCTION_LINES = 150, 600, 900, 100, 70

# (pattern, where it is banned, what to write instead)
BANS = [
    (r"\bthrow\b", lambda p: True, "return absl::Status; wrap a library that throws where it is used"),
    (r"std::(regex|cout)\b", lambda p: not p.startswith(("cli/", "bench/")), "PCRE2; Log() or a return value"),
    (r"\bstd::(mutex|shared_mutex|condition_variable)\b",
     lambda p: not p.startswith(("base/", "engine/inbox", "engine/engine", "server/", "tests/", "bench/", "cli/")),
     "a value owned by one thread; mutexes live in base/, engine/inbox and server/"),
    (r"\bshared_ptr\b", lambda p: not p.startswith(("server/", "tests/", "bench/", "cli/")) and "_test.cc" not in p,
     "a value or unique_ptr; shared_ptr is for server/"),
    (r"\bgetenv\b", lambda p: not p.startswith(("cli/", "tests/")) and "_test.cc" not in p,
     "an option that cli/ fills"),
    (r"\bsleep_for\b", lambda p: not p.startswith(("tests/", "bench/", "cli/")) and not re.search("_test(ing)?[.]", p),
     "a clock argument, a timer or a condition"),
    (r"\bFIXME\b", lambda p: True, "mend it, or an issue"),
    (r"absl::Mutex|absl::Notification", lambda p: True, "std types: ThreadSanitizer cannot see into Debian's Abseil"),
    (r"set_buffer_hint", lambda p: True, "nothing: it hangs callback streams (gRPC 1.51)"),
    (r"\basm\b", lambda p: not p.startswith("kernels/"), "intrinsics in kernels/"),
]
BAD_TYPE = re.compile(r"^\s*(?:class|struct)\s+(\w*(?:Manager|Helper|Util|Utils|Handler|Info|Impl))\b")


def include_table(architecture: str) -> dict:
    table = {}
    for row in re.findall(r"^\|\s*\d+\s*\|\s*`(\w+)/`\s*\|[^|]*\|([^|]*)\|", architecture, re.M):
        table[row[0]] = {f for f in re.split(r"[,\s]+", row[1].strip()) if f not in ("", "-")} | {"base", row[0]}
    return table


def check_includes(path: str, lines: list, table: dict) -> list:
    folder = path.split("/")[0]
    is_test = re.search(r"_(test|fuzz|bench)\.cc$", path) or folder not in table
    errors = []
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#include "([^"]+)"', line)
        if not match or is_test:
            continue
        target = match.group(1).split("/")[0]
        if target not in FOLDERS and target != "tests":
            continue
        # The executor's interface is one header that those above may see.
        if match.group(1) == "executor/executor.h" and folder in ("engine", "server"):
            continue
        if target not in table[folder]:
            errors.append(f"{path}:{number}: {folder}/ may not include {target}/ (ARCHITECTURE.md)")
    return errors


def strip_comments(line: str) -> str:
    line = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
    return line.split("//")[0]


def check_lines(path: str, lines: list) -> list:
    errors = []
    for number, line in enumerate(lines, 1):
        if len(line.rstrip("\n")) > COLUMNS and "http" not in line and '"' not in line:
            errors.append(f"{path}:{number}: {len(line.rstrip())} columns, at most {COLUMNS}")
        code = strip_comments(line)
        if line.lstrip().startswith("*"):
            continue
        for pattern, applies, instead in BANS:
            if re.search(pattern, code) and applies(path):
                errors.append(f"{path}:{number}: banned `{re.search(pattern, code).group(0)}`; instead: {instead}")
        if match := BAD_TYPE.match(code):
            errors.append(f"{path}:{number}: type name {match.group(1)}: name its one job")
    return errors


def check_sizes(path: str, lines: list) -> list:
    errors = []
    is_test = re.search(r"_(test|fuzz|bench)\.cc$", path) or path.startswith(("tests/", "bench/"))
    limit = HEADER_LINES if path.endswith(".h") else CUDA_LINES if path.endswith(".cu") else SOURCE_LINES
    if re.match(r"kernels/cpu/(\w+_body|lanes_\w+)\.h$", path):  # kernel bodies, compiled once a tier
        limit = SOURCE_LINES
    if path.startswith("tests/") and path.endswith(".h"):
        limit = 2 * HEADER_LINES
    if len(lines) > limit and not (is_test and len(lines) <= 2 * limit):
        errors.append(f"{path}: {len(lines)} lines, at most {limit}")
    if path.endswith(".h") and not any(line.strip() == "#pragma once" for line in lines):
        errors.append(f"{path}: no line `#pragma once`")
    if is_test:
        return errors
    start = None
    for number, line in enumerate(lines, 1):  # clang-format puts a function's braces at column 0
        if re.match(r"^(?!namespace|class|struct|enum|union|extern|constexpr|const |static const|inline constexpr|\}).*\{$", line):
            start = number
        elif line.startswith(" ") and start is None:
            continue
        elif re.match(r"^\}", line) and start is not None:
            if number - start > FUNCTION_LINES and "// Long:" not in "".join(lines[max(0, start - 12):start]):
                errors.append(f"{path}:{start}: function of {number - start} lines, at most {FUNCTION_LINES} "
                              "(or a line '// Long: reason' above it)")
            start = None
    return errors


def check_threads(path: str, lines: list) -> list:
    """A public header with a class that has methods says `Thread:` near it."""
    if not path.endswith(".h") or path.split("/")[0] not in FOLDERS:
        return []
    errors = []
    for number, line in enumerate(lines, 1):
        if re.match(r"^class \w+.*\{\s*$", line):
            above = "".join(lines[max(0, number - 12):number])
            if "Thread:" not in above:
                errors.append(f"{path}:{number}: class without a `// Thread: engine | any | immutable` line")
    return errors


def check_cmake(root: str, files: list) -> list:
    listed = ""
    for path in files:
        if path.endswith(("CMakeLists.txt", ".cmake")):
            with open(os.path.join(root, path), encoding="utf-8") as file:
                listed += file.read()
    return [f"{p}: no CMakeLists.txt lists it" for p in files
            if p.endswith((".cc", ".cu")) and not re.search(rf"\b{re.escape(os.path.basename(p))}\b", listed)]


def check_docs(root: str, path: str, text: str) -> list:
    errors = []
    if len(re.findall(r"^# ", re.sub(r"```.*?```", "", text, flags=re.S), re.M)) != 1:
        errors.append(f"{path}: one title, please")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http") and not os.path.exists(os.path.join(root, os.path.dirname(path), target)):
            errors.append(f"{path}: dead link {target}")
    return errors


def tree_files(root: str) -> list:
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True,
                             check=True).stdout.split("\n")
    return sorted({f for f in listing if f and os.path.exists(os.path.join(root, f))})


def check_tree(root: str) -> list:
    files = tree_files(root)
    with open(os.path.join(root, "ARCHITECTURE.md"), encoding="utf-8") as file:
        table = include_table(file.read())
    errors = [] if len(table) >= 11 else ["ARCHITECTURE.md: the include table could not be read"]
    for path in files:
        if path.endswith((".h", ".cc", ".cu", ".cuh")):
            with open(os.path.join(root, path), encoding="utf-8") as file:
                lines = file.readlines()
            errors += check_includes(path, lines, table) + check_lines(path, lines)
            errors += check_sizes(path, lines) + check_threads(path, lines)
        elif path.endswith(".md"):
            with open(os.path.join(root, path), encoding="utf-8") as file:
                errors += check_docs(root, path, file.read())
    return errors + check_cmake(root, files)


def comment_shares(root: str) -> None:
    """Prints each folder's share of comment lines among lines that are not blank; the house asks for 12 to 20 %.
    Under each, its longer files below 5 %."""
    counts: dict[str, list] = {}
    for path in sorted(p for p in tree_files(root) if p.endswith((".h", ".cc")) and not p.endswith("_test.cc")):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
        comments = sum(line.startswith("//") or " // " in line for line in lines)
        folder = counts.setdefault(path.split("/")[0], [0, 0, []])
        folder[0] += comments
        folder[1] += len(lines)
        if len(lines) > 100 and comments < len(lines) * 0.05:
            folder[2].append(f"{path} {100 * comments / len(lines):.0f} %")
    for name, (comments, lines, bare) in counts.items():
        print(f"{name:12} {100 * comments / lines:3.0f} %  of {lines} lines", *bare, sep="\n               ")


def self_test() -> int:
    """Each check must find the defect planted for it in a small tree."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    planted = {
        "paged_kv/a.cc": ('#include "kernels/ops.h"\n', "may not include"),
        "text/b.cc": ("void F() { throw 1; }\n", "banned `throw`"),
        "text/c.h": ("class FooManager {\n", "name its one job"),
        "base/d.h": ("//\n" * 200, "lines, at most"),
        "base/once.h": ("//#pragma once\n", "no line `#pragma once`"),
        "base/e.cc": ("void F() {\n" + "  G();\n" * 80 + "}\n", "function of"),
        "base/f.cc": ("// " + "x" * 120 + "\n", "columns"),
        "docs/g.md": ("# T\n[x](nowhere.md)\n", "dead link"),
        "engine/h.h": ("class Loop {\n};\n", "Thread:"),
        "base/unlisted.cc": ("\n", "no CMakeLists.txt"),
    }
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(["git", "init", "-q", root], check=True)
        with open(os.path.join(here, "ARCHITECTURE.md"), encoding="utf-8") as source:
            table = source.read()
        with open(os.path.join(root, "ARCHITECTURE.md"), "w", encoding="utf-8") as file:
            file.write(re.sub(r"\]\([^)]*\)", "]", table))
        with open(os.path.join(root, "CMakeLists.txt"), "w", encoding="utf-8") as file:
            file.write(" ".join(os.path.basename(p) for p in planted if "unlisted" not in p))
        for path, (content, _) in planted.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(content)
        errors = check_tree(root)
    missed = [p for p, (_, what) in planted.items() if not any(e.startswith(p) and what in e for e in errors)]
    print(f"{len(planted) - len(missed)} passed, {len(missed)} failed")
    for path in missed:
        print(f"not found: {path}", file=sys.stderr)
    return 1 if missed else 0


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[1:] == ["--comments"]:
        comment_shares(root)
        return 0
    errors = check_tree(root)
    for error in errors:
        print(error)
    print(f"tidy: {len(errors)} findings")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
