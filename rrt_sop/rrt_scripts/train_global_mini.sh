#!/usr/bin/env bash
# Generated products, trains the network of row "Global retrieval": 14 minutes on 2 busy cores.
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_products/ (data.make_mini products, then rrt_sop.prepare_data with mini).
# Writes:   logs/train_global_mini/ with resnet10_mini_global.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.experiment_global -F logs/train_global_mini \
    with dataset.mini_global model.resnet10_mini model.set_bn_eval=False \
    optim=adamw lr=1e-3 weight_decay=0.01 scheduler=warmcos_step warmup_steps=50 epochs=16 autocast=True \
    temp_dir=logs/train_global_mini "$@"
