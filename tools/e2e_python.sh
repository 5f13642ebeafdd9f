#!/usr/bin/env bash
# Runs Python from the pinned test environment, as made by `./dev setup` or `./dev test`.
set -euo pipefail
cd "$(dirname "$0")/.." && root=$PWD && cd - >/dev/null
cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"
python="${MILLRACE_TEST_PYTHON:-$cache/venv-test-$(sha256sum "$root/tools/requirements-test.txt" | cut -c1-12)/bin/python}"
[ -x "$python" ] || { echo "no test environment at $python; run ./dev setup" >&2; exit 1; }
exec "$python" "$@"
