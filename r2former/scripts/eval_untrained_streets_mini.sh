#!/usr/bin/env bash
# Generated streets, row "untrained": global and reranked before training.
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_streets/ (python -m data.make_mini streets).
# Writes:   logs/eval_untrained_streets_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_untrained_streets_mini \
    with dataset.mini_streets model.resnet_mini untrained=True temp_dir=logs/eval_untrained_streets_mini \
    "$@"
