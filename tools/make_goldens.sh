#!/usr/bin/env bash
# Makes the golden files again with the oracle environment (torch, transformers, tokenizers, Jinja2).
# Usage: make_goldens.sh ENVIRONMENT [name of a script, as logits]
set -euo pipefail
environment=$1 only=${2:-}
cd "$(dirname "$0")/.."
model="$(tools/fetch_demo_model.py)"
for script in tests/golden/*/make_*_golden.py; do
  [[ "$script" == *"$only"* ]] || continue
  echo "+ $script" >&2
  MILLRACE_DEMO_MODEL="$model" "$environment/bin/python" "$script"
done
