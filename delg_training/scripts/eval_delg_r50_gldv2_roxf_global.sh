#!/usr/bin/env bash
# DELG, ResNet-50, GLDv2-clean, row "global", ROxf.
# Expected: mAP medium 73.6, hard 51.0.
# Needs:    data/oxford5k/gnd_roxford5k.pkl and the output of delg_scripts/extract_oxford_r50_gldv2.sh.
# Writes:   logs/eval_delg_r50_gldv2_roxf_global/ with metrics.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_r50_gldv2_roxf_global \
    with dataset_file_path=data/oxford5k/gnd_roxford5k.pkl \
    query_features_dir=data/oxford5k/delg_r50_gldv2 \
    row=eval_delg_r50_gldv2_roxf_global output_dir=logs/eval_delg_r50_gldv2_roxf_global "$@"
