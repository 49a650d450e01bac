#!/usr/bin/env bash
# RRT on Google Landmarks, trains the matcher of row "Reranking, ResNet-101, v1".
# Expected: best epoch of 15 on ROxf about mAP medium 78.8, hard 62.5 (selected on that test set).
# Needs:    data/gldv2/ with train.txt, delg_r101_gldv1/ and nn_inds_r101_gldv1.pkl
#           (rrt_gld.tools.prepare_topk_gldv2), and the output of eval_r101_gldv1_roxf_global.sh.
# Writes:   logs/train_r101_gldv1/ with rrt_gldv2_roxford_r101_gldv1.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.experiment -F logs/train_r101_gldv1 \
    with dataset.gldv2_roxford_r101_gldv1 model.RRT max_norm=0.1 temp_dir=logs/train_r101_gldv1 "$@"
