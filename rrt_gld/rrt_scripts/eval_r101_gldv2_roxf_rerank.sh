#!/usr/bin/env bash
# RRT on Google Landmarks, row "Reranking, ResNet-101, v2-clean", ROxf.
# Expected: mAP medium 79.9, hard 64.1.
# Needs:    data/oxford5k/delg_r101_gldv2/, the output of eval_r101_gldv2_roxf_global.sh,
#           rrt_gld/rrt_gld_ckpts/r101_gldv2.pt.
# Writes:   logs/eval_r101_gldv2_roxf_rerank/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.evaluate_revisited -F logs/eval_r101_gldv2_roxf_rerank \
    with dataset.roxford_r101_gldv2 model.RRT resume=rrt_gld/rrt_gld_ckpts/r101_gldv2.pt \
    temp_dir=logs/eval_r101_gldv2_roxf_rerank "$@"
