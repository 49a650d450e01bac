#!/usr/bin/env bash
# RRT on Stanford Online Products: SuperPoint neighbours of the training images.
# Needs:    data/Stanford_Online_Products/ with train.txt (rrt_sop.prepare_data),
#           rrt_sop/rrt_sop_caches/superpoint_sop_320_500.pkl,
#           rrt_sop/rrt_sop_ckpts/superpoint_v1.pth.
# Writes:   logs/nn_inds_train_superpoint/, and the table for the training to
#           rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_train.pkl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/nn_inds_train_superpoint \
    with dataset.sop_superpoint model.superpoint untrained=True query_set=train \
    model.backbone_weights=rrt_sop/rrt_sop_ckpts/superpoint_v1.pth \
    nn_inds_copy=rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_train.pkl \
    temp_dir=logs/nn_inds_train_superpoint "$@"
