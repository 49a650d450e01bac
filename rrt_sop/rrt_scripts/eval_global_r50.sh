#!/usr/bin/env bash
# RRT on Stanford Online Products, row "Global retrieval, ResNet-50".
# Expected: R@1 80.7, R@10 91.9, R@100 96.6.
# Needs:    data/Stanford_Online_Products/ with test.txt (rrt_sop.prepare_data),
#           rrt_sop/rrt_sop_ckpts/rrt_r50_sop_global.pt.
# Writes:   logs/eval_global_r50/, and its neighbour table for the rerank rows to
#           rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_test.pkl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/eval_global_r50 \
    with dataset.sop_global model.resnet50 row=eval_global_r50 \
    resume=rrt_sop/rrt_sop_ckpts/rrt_r50_sop_global.pt \
    nn_inds_copy=rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_test.pkl \
    temp_dir=logs/eval_global_r50 "$@"
