#!/usr/bin/env bash
# RRT on Stanford Online Products, row "Reranking, frozen backbone, ResNet-50".
# Expected: R@1 81.8, R@10 92.4, R@100 96.6.
# Needs:    data/Stanford_Online_Products/ with test.txt (rrt_sop.prepare_data), the output of
#           eval_global_r50.sh, rrt_sop/rrt_sop_ckpts/rrt_r50_sop_rerank_frozen.pt.
# Writes:   logs/eval_rerank_frozen_r50/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_rerank -F logs/eval_rerank_frozen_r50 \
    with dataset.sop_rerank model.resnet50 row=eval_rerank_frozen_r50 \
    resume=rrt_sop/rrt_sop_ckpts/rrt_r50_sop_rerank_frozen.pt \
    cache_nn_inds=rrt_sop/rrt_sop_caches/rrt_r50_sop_nn_inds_test.pkl \
    temp_dir=logs/eval_rerank_frozen_r50 "$@"
