#!/usr/bin/env bash
# DELG, ResNet-50, GLDv1, row "geometric verification", ROxf: first 100 by inliers of an affine map.
# Expected: mAP medium 75.42, mP@1/5/10 97.14 95.24 93.81, mR@1/5/10 10.21 27.21 37.72;
#           mAP hard 53.72, mP@1/5/10 91.43 83.81 74.38, mR@1/5/10 19.45 34.45 44.64.
# Needs:    data/oxford5k/gnd_roxford5k.pkl and the output of delg_scripts/extract_oxford_r50_gldv1.sh.
# Writes:   logs/eval_delg_r50_gldv1_roxf_gv/ with metrics.txt and inliers.npz, from which it goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_r50_gldv1_roxf_gv \
    with dataset_file_path=data/oxford5k/gnd_roxford5k.pkl \
    query_features_dir=data/oxford5k/delg_r50_gldv1 use_geometric_verification=True \
    row=eval_delg_r50_gldv1_roxf_gv output_dir=logs/eval_delg_r50_gldv1_roxf_gv "$@"
