#!/usr/bin/env bash
# DELG, ResNet-50, GLDv2-clean, row "global", RPar.
# Expected: mAP medium 85.7, hard 71.5.
# Needs:    data/paris6k/gnd_rparis6k.pkl and the output of delg_scripts/extract_paris_r50_gldv2.sh.
# Writes:   logs/eval_delg_r50_gldv2_rpar_global/ with metrics.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_r50_gldv2_rpar_global \
    with dataset_file_path=data/paris6k/gnd_rparis6k.pkl \
    query_features_dir=data/paris6k/delg_r50_gldv2 \
    row=eval_delg_r50_gldv2_rpar_global output_dir=logs/eval_delg_r50_gldv2_rpar_global "$@"
