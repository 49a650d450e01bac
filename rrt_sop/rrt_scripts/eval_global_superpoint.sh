#!/usr/bin/env bash
# RRT on Stanford Online Products, row "Global retrieval, SuperPoint".
# Expected: R@1 32.8, R@10 45.4, R@100 60.5.
# Needs:    data/Stanford_Online_Products/ with train.txt and test.txt (rrt_sop.prepare_data),
#           rrt_sop/rrt_sop_caches/superpoint_sop_320_500.pkl,
#           rrt_sop/rrt_sop_ckpts/superpoint_v1.pth.
# Writes:   logs/eval_global_superpoint/, and its neighbour table for the rerank rows to
#           rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_test.pkl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/eval_global_superpoint \
    with dataset.sop_superpoint model.superpoint row=eval_global_superpoint untrained=True \
    model.backbone_weights=rrt_sop/rrt_sop_ckpts/superpoint_v1.pth \
    nn_inds_copy=rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_test.pkl \
    temp_dir=logs/eval_global_superpoint "$@"
