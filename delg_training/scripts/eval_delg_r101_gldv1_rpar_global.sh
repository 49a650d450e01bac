#!/usr/bin/env bash
# DELG, ResNet-101, GLDv1, row "global", RPar.
# Expected: mAP medium 82.4, hard 64.7.
# Needs:    data/paris6k/gnd_rparis6k.pkl and the output of delg_scripts/extract_paris_r101_gldv1.sh.
# Writes:   logs/eval_delg_r101_gldv1_rpar_global/ with metrics.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_r101_gldv1_rpar_global \
    with dataset_file_path=data/paris6k/gnd_rparis6k.pkl \
    query_features_dir=data/paris6k/delg_r101_gldv1 \
    row=eval_delg_r101_gldv1_rpar_global output_dir=logs/eval_delg_r101_gldv1_rpar_global "$@"
