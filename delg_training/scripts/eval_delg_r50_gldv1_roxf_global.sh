#!/usr/bin/env bash
# DELG, ResNet-50, GLDv1, row "global", ROxf.
# Expected: mAP medium 69.71, mP@1/5/10 95.71 92.00 86.86, mR@1/5/10 10.17 25.94 33.83;
#           mAP hard 45.11, mP@1/5/10 85.71 72.29 60.14, mR@1/5/10 19.15 29.72 36.32.
# Needs:    data/oxford5k/gnd_roxford5k.pkl and the output of delg_scripts/extract_oxford_r50_gldv1.sh.
# Writes:   logs/eval_delg_r50_gldv1_roxf_global/ with metrics.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_r50_gldv1_roxf_global \
    with dataset_file_path=data/oxford5k/gnd_roxford5k.pkl \
    query_features_dir=data/oxford5k/delg_r50_gldv1 \
    row=eval_delg_r50_gldv1_roxf_global output_dir=logs/eval_delg_r50_gldv1_roxf_global "$@"
