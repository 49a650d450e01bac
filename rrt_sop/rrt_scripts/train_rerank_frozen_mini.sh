#!/usr/bin/env bash
# Generated products, trains the matcher of row "Reranking, frozen backbone": first on negatives
# from all products, then on each image's 60 nearest.
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_products/ and the outputs of train_global_mini.sh, eval_global_mini.sh and
#           nn_inds_train_mini.sh.
# Writes:   logs/train_rerank_frozen_mini/ with resnet10_mini_rerank.pt and last.pt, the first part
#           in logs/train_rerank_frozen_mini/all_products/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.experiment_rerank -F logs/train_rerank_frozen_mini/all_products \
    with dataset.mini_rerank dataset.random_negatives=1.0 dataset.num_workers=1 model.resnet10_mini \
    model.freeze_backbone=True cached_views=6 \
    lr=1e-3 weight_decay=0.01 max_norm=1.0 epochs=6 steps_per_epoch=2000 \
    cache_nn_inds=rrt_sop/rrt_sop_caches/mini_nn_inds_test.pkl \
    resume=logs/train_global_mini/resnet10_mini_global.pt \
    temp_dir=logs/train_rerank_frozen_mini/all_products "$@"
"${PYTHON:-python}" -m rrt_sop.experiment_rerank -F logs/train_rerank_frozen_mini \
    with dataset.mini_rerank dataset.num_candidates=60 dataset.num_workers=1 model.resnet10_mini \
    model.freeze_backbone=True cached_views=6 \
    lr=1e-3 weight_decay=0.01 max_norm=1.0 scheduler=cos_step epochs=7 steps_per_epoch=2000 \
    cache_nn_inds=rrt_sop/rrt_sop_caches/mini_nn_inds_test.pkl \
    resume=logs/train_rerank_frozen_mini/all_products/resnet10_mini_rerank.pt \
    temp_dir=logs/train_rerank_frozen_mini "$@"
