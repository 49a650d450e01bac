#!/usr/bin/env bash
# RRT on Google Landmarks, trains the matcher of row "Reranking, ResNet-50, v2-clean".
# Expected: best epoch of 15 on ROxf about mAP medium 78.1, hard 60.2 (selected on that test set).
# Needs:    data/gldv2/ with train.txt, delg_r50_gldv2/ and nn_inds_r50_gldv2.pkl
#           (rrt_gld.tools.prepare_topk_gldv2), and the output of eval_r50_gldv2_roxf_global.sh.
# Writes:   logs/train_r50_gldv2/ with rrt_gldv2_roxford_r50_gldv2.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.experiment -F logs/train_r50_gldv2 \
    with dataset.gldv2_roxford_r50_gldv2 model.RRT max_norm=0.0 temp_dir=logs/train_r50_gldv2 "$@"
