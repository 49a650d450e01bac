#!/usr/bin/env bash
# ResNet-101 with ArcFace, GLDv2-clean, row "global", ROxf (a global model without local features).
# Expected: mAP medium 76.23, mP@1/5/10 95.71 92.86 90.43, mR@1/5/10 10.17 25.96 35.29;
#           mAP hard 55.54, mP@1/5/10 88.57 80.86 70.14, mR@1/5/10 19.46 33.65 42.44.
# Needs:    data/oxford5k/gnd_roxford5k.pkl and data/oxford5k/delg_rn101_af_gldv2/, see delg_scripts/README.md.
# Writes:   logs/eval_delg_rn101_af_gldv2_roxf_global/ with metrics.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_rn101_af_gldv2_roxf_global \
    with dataset_file_path=data/oxford5k/gnd_roxford5k.pkl \
    query_features_dir=data/oxford5k/delg_rn101_af_gldv2 \
    row=eval_delg_rn101_af_gldv2_roxf_global output_dir=logs/eval_delg_rn101_af_gldv2_roxf_global "$@"
