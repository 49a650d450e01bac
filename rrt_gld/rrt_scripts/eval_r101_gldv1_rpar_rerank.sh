#!/usr/bin/env bash
# RRT on Google Landmarks, row "Reranking, ResNet-101, v1", RPar.
# Expected: mAP medium 83.2, hard 68.4.
# Needs:    data/paris6k/delg_r101_gldv1/, the output of eval_r101_gldv1_rpar_global.sh,
#           rrt_gld/rrt_gld_ckpts/r101_gldv1.pt.
# Writes:   logs/eval_r101_gldv1_rpar_rerank/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.evaluate_revisited -F logs/eval_r101_gldv1_rpar_rerank \
    with dataset.rparis_r101_gldv1 model.RRT resume=rrt_gld/rrt_gld_ckpts/r101_gldv1.pt \
    temp_dir=logs/eval_r101_gldv1_rpar_rerank "$@"
