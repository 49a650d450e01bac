#!/usr/bin/env bash
# RRT on Stanford Online Products, trains the network of row "Reranking, finetuned backbone".
# Expected: about R@1 84.5, R@10 93.2 at depth 100; during training 15 columns are reranked.
# Needs:    data/Stanford_Online_Products/, rrt_sop/rrt_sop_ckpts/rrt_r50_sop_rerank_frozen.pt, and
#           the outputs of nn_inds_train_r50.sh and eval_global_r50.sh.
# Writes:   logs/train_rerank_finetune_r50/ with resnet50_sop_rerank.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.experiment_rerank -F logs/train_rerank_finetune_r50 \
    with temp_dir=logs/train_rerank_finetune_r50 dataset.sop_rerank model.resnet50 \
    model.freeze_backbone=False resume=rrt_sop/rrt_sop_ckpts/rrt_r50_sop_rerank_frozen.pt "$@"
