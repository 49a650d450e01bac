#!/usr/bin/env bash
# RRT on Stanford Online Products, trains the network of row "Global retrieval".
# Expected: best epoch of 100 about R@1 80.7, R@10 91.9, R@100 96.6 (selected on the test set).
# Needs:    data/Stanford_Online_Products/ with train.txt and test.txt (rrt_sop.prepare_data), and
#           memory for 800 images a step: several processes, chunk=200 or dataset.batch_size=400.
# Writes:   logs/train_global_r50/ with resnet50_sop_global.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.experiment_global -F logs/train_global_r50 \
    with temp_dir=logs/train_global_r50 dataset.sop_global model.resnet50 \
    dataset.batch_size=800 dataset.test_batch_size=800 "$@"
