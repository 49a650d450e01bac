#!/usr/bin/env bash
# Generated products: neighbours of the training images, for the rerank stages.
# Needs:    data/mini_products/ (data.make_mini products, then rrt_sop.prepare_data with mini),
#           the output of train_global_mini.sh.
# Writes:   logs/nn_inds_train_mini/, and the table for the training to
#           rrt_sop/rrt_sop_caches/mini_nn_inds_train.pkl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_global -F logs/nn_inds_train_mini \
    with dataset.mini_global model.resnet10_mini query_set=train \
    resume=logs/train_global_mini/resnet10_mini_global.pt \
    nn_inds_copy=rrt_sop/rrt_sop_caches/mini_nn_inds_train.pkl \
    temp_dir=logs/nn_inds_train_mini "$@"
