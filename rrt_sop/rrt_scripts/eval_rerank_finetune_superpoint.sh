#!/usr/bin/env bash
# RRT on Stanford Online Products, row "Reranking, finetuned, SuperPoint".
# Expected: R@1 51.9, R@10 59.0, R@100 60.5.
# Needs:    data/Stanford_Online_Products/ with test.txt (rrt_sop.prepare_data), the output of
#           eval_global_superpoint.sh, rrt_sop/rrt_sop_caches/superpoint_sop_320_500.pkl,
#           rrt_sop/rrt_sop_ckpts/superpoint_sop_rerank_finetune.pt; 31 GB on the disk of logs/.
# Writes:   logs/eval_rerank_finetune_superpoint/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_rerank -F logs/eval_rerank_finetune_superpoint \
    with dataset.sop_superpoint model.superpoint row=eval_rerank_finetune_superpoint \
    resume=rrt_sop/rrt_sop_ckpts/superpoint_sop_rerank_finetune.pt \
    cache_nn_inds=rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_test.pkl \
    temp_dir=logs/eval_rerank_finetune_superpoint "$@"
