#!/usr/bin/env bash
# Generated products, row "Global retrieval".
# Expected: R@1 56.66, R@10 91.21, R@100 99.63 (measured with this code; nothing is published).
# Needs:    data/mini_products/ (data.make_mini products, then rrt_sop.prepare_data with mini),
#           the output of train_global_mini.sh.
# Writes:   logs/eval_global_mini/, and its neighbour table for the rerank rows to
#           rrt_sop/rrt_sop_caches/mini_nn_inds_test.pkl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/eval_global_mini \
    with dataset.mini_global model.resnet10_mini row=eval_global_mini \
    resume=logs/train_global_mini/resnet10_mini_global.pt \
    nn_inds_copy=rrt_sop/rrt_sop_caches/mini_nn_inds_test.pkl \
    temp_dir=logs/eval_global_mini "$@"
