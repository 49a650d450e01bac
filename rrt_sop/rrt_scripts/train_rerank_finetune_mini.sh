#!/usr/bin/env bash
# Generated products, trains the network of row "Reranking, finetuned backbone".
# Expected: measured with this code, see the README; nothing is published.
# Needs:    data/mini_products/ and the outputs of train_rerank_frozen_mini.sh, eval_global_mini.sh
#           and nn_inds_train_mini.sh.
# Writes:   logs/train_rerank_finetune_mini/ with resnet10_mini_rerank.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.experiment_rerank -F logs/train_rerank_finetune_mini \
    with dataset.mini_rerank dataset.num_candidates=30 model.resnet10_mini \
    model.freeze_backbone=False lr=3e-4 weight_decay=0.01 scheduler=warmcos_step warmup_steps=50 \
    epochs=8 steps_per_epoch=100 autocast=True \
    cache_nn_inds=rrt_sop/rrt_sop_caches/mini_nn_inds_test.pkl \
    resume=logs/train_rerank_frozen_mini/resnet10_mini_rerank.pt \
    temp_dir=logs/train_rerank_finetune_mini "$@"
