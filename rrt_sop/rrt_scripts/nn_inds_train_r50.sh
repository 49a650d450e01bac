#!/usr/bin/env bash
# RRT on Stanford Online Products: neighbours of the training images, for the rerank stages.
# Needs:    data/Stanford_Online_Products/ with train.txt (rrt_sop.prepare_data),
#           rrt_sop/rrt_sop_ckpts/rrt_r50_sop_global.pt.
# Writes:   logs/nn_file_for_training/, and the table for the training to
#           rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_train.pkl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/nn_file_for_training \
    with dataset.sop_global model.resnet50 query_set=train \
    resume=rrt_sop/rrt_sop_ckpts/rrt_r50_sop_global.pt \
    nn_inds_copy=rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_train.pkl \
    temp_dir=logs/nn_file_for_training "$@"
