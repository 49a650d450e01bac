#!/usr/bin/env bash
# Generated products, row "Global retrieval, before training".
# Expected: R@1 5.17, R@10 23.01, R@100 57.83 (measured with this code; nothing is published).
# Needs:    data/mini_products/ (data.make_mini products, then rrt_sop.prepare_data with mini).
# Writes:   logs/eval_untrained_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/eval_untrained_mini \
    with dataset.mini_global model.resnet10_mini row=eval_untrained_mini untrained=True \
    temp_dir=logs/eval_untrained_mini "$@"
