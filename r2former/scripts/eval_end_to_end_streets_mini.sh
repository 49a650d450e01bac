#!/usr/bin/env bash
# Generated streets, row "end to end": global and reranked.
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_streets/,
#           logs/train_end_to_end_streets_mini/best_model.pth (train_end_to_end_streets_mini.sh).
# Writes:   logs/eval_end_to_end_streets_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_end_to_end_streets_mini \
    with dataset.mini_streets model.resnet_mini resume=logs/train_end_to_end_streets_mini/best_model.pth \
    temp_dir=logs/eval_end_to_end_streets_mini "$@"
