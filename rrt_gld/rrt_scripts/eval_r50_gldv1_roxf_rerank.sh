#!/usr/bin/env bash
# RRT on Google Landmarks, row "Reranking, ResNet-50, v1", ROxf.
# Expected: mAP medium 75.5, hard 56.4.
# Needs:    data/oxford5k/delg_r50_gldv1/, the output of eval_r50_gldv1_roxf_global.sh,
#           rrt_gld/rrt_gld_ckpts/r50_gldv1.pt.
# Writes:   logs/eval_r50_gldv1_roxf_rerank/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.evaluate_revisited -F logs/eval_r50_gldv1_roxf_rerank \
    with dataset.roxford_r50_gldv1 model.RRT resume=rrt_gld/rrt_gld_ckpts/r50_gldv1.pt \
    temp_dir=logs/eval_r50_gldv1_roxf_rerank "$@"
