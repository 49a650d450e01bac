#!/usr/bin/env bash
# Generated streets, row "untrained": global and reranked before training.
# Expected: R@1 global 0.50, reranked 0.50 (measured with this code; nothing is published).
# Needs:    data/mini_streets/ (python -m data.make_mini streets).
# Writes:   logs/eval_untrained_streets_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_untrained_streets_mini \
    with dataset.mini_streets model.resnet_mini untrained=True row=eval_untrained_streets_mini \
    temp_dir=logs/eval_untrained_streets_mini "$@"
