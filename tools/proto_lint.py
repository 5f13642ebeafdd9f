#!/usr/bin/env python3
"""Checks the style of our .proto files: the rules of buf's STANDARD category, and a comment on
everything. Written against protoc's own descriptor, so that nothing is parsed twice.

usage: proto_lint.py PROTO_ROOT | --self-test
Exits 1 and prints one line per finding.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

# Numbers in descriptor.proto: paths in SourceCodeInfo are made of them.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE, SERVICE_METHOD = 2, 2

SNAKE = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
CAMEL = re.compile(r"^[A-Z][A-Za-z0-9]*$")
UPPER = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$")
VERSION = re.compile(r"^v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?$")
# Official names that we must keep as they are: only comments are asked for.
FOREIGN_PACKAGES = {"google.rpc", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha"}


# --- a reader of the protobuf wire format: enough for a FileDescriptorSet ------------------------

def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
            value, at = data[at:at + size], at + size
        else:
            raise ValueError("bad wire type")
        yield key >> 3, value


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def all_of(data, number):
    return [value for key, value in fields(data) if key == number]


def text(data, number):
    found = all_of(data, number)
    return found[-1].decode() if found else ""


def comments(file):
    """Paths of the elements that have a leading or a trailing comment."""
    paths = set()
    for info in all_of(file, 9):
        for location in all_of(info, 1):
            if not text(location, 3).strip() and not text(location, 4).strip():
                continue
            path, packed = [], b"".join(all_of(location, 1))
            at = 0
            while at < len(packed):
                value, at = varint(packed, at)
                path.append(value)
            paths.add(tuple(path))
    return paths


def upper_snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).upper()


class Lint:
    def __init__(self, file):
        self.name = text(file, 1)
        self.package = text(file, 2)
        self.file = file
        self.documented = comments(file)
        self.findings = []

    def bad(self, what, rule):
        self.findings.append(f"{self.name}: {what}: {rule}")

    def expect(self, ok, what, rule):
        if not ok and self.package not in FOREIGN_PACKAGES:
            self.bad(what, rule)

    def comment(self, path, what):
        if tuple(path) not in self.documented:
            self.bad(what, "has no comment")

    def run(self):
        self.expect(text(self.file, 12) == "proto3", self.name, "syntax must be proto3")
        self.expect(SNAKE.match(pathlib.PurePosixPath(self.name).stem), self.name,
                    "file name must be lower_snake_case")
        self.expect(str(pathlib.PurePosixPath(self.name).parent) == self.package.replace(".", "/"),
                    self.name, "directory must match the package")
        parts = self.package.split(".")
        self.expect(all(SNAKE.match(part) for part in parts), self.package,
                    "package must be lower_snake.case")
        self.expect(VERSION.match(parts[-1]), self.package, "package must end in a version")
        for i, message in enumerate(all_of(self.file, FILE_MESSAGE)):
            self.message(message, [FILE_MESSAGE, i], "")
        for i, enum in enumerate(all_of(self.file, FILE_ENUM)):
            self.enum(enum, [FILE_ENUM, i], "")
        for i, service in enumerate(all_of(self.file, FILE_SERVICE)):
            self.service(service, [FILE_SERVICE, i])
        return self.findings

    def message(self, message, path, outer):
        name = outer + text(message, 1)
        options = all_of(message, 7)
        if options and any(key == 7 and value for key, value in fields(options[-1])):
            return  # the entry type of a map
        self.expect(CAMEL.match(text(message, 1)), name, "message must be PascalCase")
        self.comment(path, name)
        synthetic = set()
        for i, field in enumerate(all_of(message, MESSAGE_FIELD)):
            what = f"{name}.{text(field, 1)}"
            self.expect(SNAKE.match(text(field, 1)), what, "field must be lower_snake_case")
            self.expect(text(field, 1) not in ("descriptor",), what, "name collides in languages")
            label = all_of(field, 4)
            self.expect(not label or label[-1] != 2, what, "must not be required")
            self.comment(path + [MESSAGE_FIELD, i], what)
            if any(all_of(field, 17)):
                synthetic.add(all_of(field, 9)[-1])
        for i, oneof in enumerate(all_of(message, MESSAGE_ONEOF)):
            if i in synthetic:
                continue  # proto3 `optional`
            what = f"{name}.{text(oneof, 1)}"
            self.expect(SNAKE.match(text(oneof, 1)), what, "oneof must be lower_snake_case")
            self.comment(path + [MESSAGE_ONEOF, i], what)
        for i, nested in enumerate(all_of(message, MESSAGE_NESTED)):
            self.message(nested, path + [MESSAGE_NESTED, i], name + ".")
        for i, enum in enumerate(all_of(message, MESSAGE_ENUM)):
            self.enum(enum, path + [MESSAGE_ENUM, i], name + ".")

    def enum(self, enum, path, outer):
        name = outer + text(enum, 1)
        prefix = upper_snake(text(enum, 1)) + "_"
        self.expect(CAMEL.match(text(enum, 1)), name, "enum must be PascalCase")
        self.comment(path, name)
        options = all_of(enum, 3)
        self.expect(not (options and any(key == 2 and value for key, value in fields(options[-1]))),
                    name, "must not allow aliases")
        for i, value in enumerate(all_of(enum, ENUM_VALUE)):
            what = f"{name}.{text(value, 1)}"
            self.expect(UPPER.match(text(value, 1)), what, "value must be UPPER_SNAKE_CASE")
            self.expect(text(value, 1).startswith(prefix), what, f"value must begin with {prefix}")
            number = all_of(value, 2)
            if i == 0:
                self.expect(not number or number[-1] == 0, what, "first value must be zero")
                self.expect(text(value, 1) == prefix + "UNSPECIFIED", what,
                            f"zero value must be {prefix}UNSPECIFIED")
            self.comment(path + [ENUM_VALUE, i], what)

    def service(self, service, path):
        name = text(service, 1)
        self.expect(CAMEL.match(name), name, "service must be PascalCase")
        self.expect(name.endswith("Service"), name, "service must end in Service")
        self.comment(path, name)
        for i, method in enumerate(all_of(service, SERVICE_METHOD)):
            rpc = text(method, 1)
            what = f"{name}.{rpc}"
            self.expect(CAMEL.match(rpc), what, "rpc must be PascalCase")
            for number, suffix in ((2, "Request"), (3, "Response")):
                type_name = text(method, number).rsplit(".", 1)[-1]
                self.expect(type_name in (rpc + suffix, name + rpc + suffix), what,
                            f"its type must be {rpc}{suffix}, not {type_name}")
            self.comment(path + [SERVICE_METHOD, i], what)


def removed_tags(file_findings, before, after):
    """Messages of `after` that give a number of `before` another name or type (FILE breaking)."""
    for name, old in before.items():
        for number, shape in old.items():
            new = after.get(name, {}).get(number)
            if new is not None and new != shape:
                file_findings.append(f"{name}: tag {number} was {shape}, is {new}: never reuse tags")
            if new is None and number not in after.get((name, "reserved"), ()):
                file_findings.append(f"{name}: tag {number} ({shape[0]}) went: reserve it")


def shapes(files):
    """{message: {number: (name, type, type name)}} and reserved numbers, for the committed record."""
    result = {}

    def walk(message, outer):
        name = outer + text(message, 1)
        result[name] = {}
        for field in all_of(message, MESSAGE_FIELD):
            result[name][all_of(field, 3)[-1]] = (text(field, 1), all_of(field, 5)[-1],
                                                  text(field, 6))
        taken = []
        for span in all_of(message, 9):
            begin, end = (all_of(span, 1) or [0])[-1], (all_of(span, 2) or [0])[-1]
            taken.extend(range(begin, min(end, begin + 1000)))
        result[(name, "reserved")] = tuple(taken)
        for nested in all_of(message, MESSAGE_NESTED):
            walk(nested, name + ".")

    for file in files:
        for message in all_of(file, FILE_MESSAGE):
            walk(message, text(file, 2) + ".")
    return result


def load(root):
    names = sorted(str(p.relative_to(root)) for p in pathlib.Path(root).rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["protoc", "-I", str(root), "--include_source_info", "-o", out.name, *names],
                       check=True)
        return all_of(pathlib.Path(out.name).read_bytes(), 1)


def record_text(files):
    lines = []
    for name, numbers in shapes(files).items():
        if isinstance(name, str):
            for number, (field, kind, type_name) in sorted(numbers.items()):
                lines.append(f"{name} {number} {field} {kind} {type_name or '-'}")
    return "\n".join(sorted(lines)) + "\n"


def read_record(path):
    before = {}
    for line in path.read_text().splitlines():
        name, number, field, kind, type_name = line.split()
        shape = (field, int(kind), "" if type_name == "-" else type_name)
        before.setdefault(name, {})[int(number)] = shape
    return before


def check(root):
    files = load(root)
    findings = [finding for file in files for finding in Lint(file).run()]
    record = pathlib.Path(root) / "tags.txt"
    if record.exists():
        removed_tags(findings, read_record(record), shapes(files))
        if not findings and record.read_text() != record_text(files):
            findings.append("tags.txt: new fields: run tools/proto_lint.py --record and commit it")
    return findings


BAD = """syntax = "proto3";
package bad.thing;
service Thing { rpc do_it(In) returns (In); }
message In { int32 CamelField = 1; oneof Choice { int32 a = 2; } }
enum Color { RED = 0; COLOR_BLUE = 1; }
"""
WANTED = ["directory must match", "must end in a version", "must end in Service", "rpc must be",
          "do_itRequest", "do_itResponse", "field must be lower_snake_case", "oneof must be",
          "must begin with COLOR_", "COLOR_UNSPECIFIED", "In: has no comment",
          "Color.RED: has no comment", "Thing.do_it: has no comment"]


def self_test():
    """Every rule must be able to fire, and a clean file must pass."""
    with tempfile.TemporaryDirectory() as root:
        (pathlib.Path(root) / "bad.proto").write_text(BAD)
        found = "\n".join(check(root))
        missing = [rule for rule in WANTED if rule not in found]
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root) / "a" / "v1"
        folder.mkdir(parents=True)
        head = '// F.\nsyntax = "proto3";\npackage a.v1;\n'
        (folder / "m.proto").write_text(head + "// M.\nmessage M {\n // A.\n int32 a = 1;\n}\n")
        (pathlib.Path(root) / "tags.txt").write_text(record_text(load(root)))
        if check(root):
            missing.append(f"clean file: {check(root)}")
        (folder / "m.proto").write_text(head + "// M.\nmessage M {\n // B.\n string b = 1;\n}\n")
        if not any("never reuse tags" in line for line in check(root)):
            missing.append("never reuse tags")
        (folder / "m.proto").write_text(head + "// M.\nmessage M {\n // B.\n string b = 2;\n}\n")
        if not any("reserve it" in line for line in check(root)):
            missing.append("reserve it")
    return [f"self-test: this rule did not fire: {rule}" for rule in missing]


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--record":
        path = pathlib.Path(sys.argv[2]) / "tags.txt"
        path.write_text(record_text(load(sys.argv[2])))
        return 0
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    findings = self_test() if sys.argv[1] == "--self-test" else check(sys.argv[1])
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
