#!/usr/bin/env bash
# Generated landmarks, row "global and geometric verification".
# Expected: mAP medium 71.31, hard 37.42, re-ranked 84.35, 55.86
#           (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/ (python -m data.make_mini landmarks), the output of extract_mini.sh.
# Writes:   logs/eval_delg_mini/ with metrics.txt and inliers.npz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_delg_mini \
    with dataset_file_path=data/mini_landmarks/gnd_mini_landmarks.pkl \
    query_features_dir=data/mini_landmarks/delg_mini use_geometric_verification=True \
    row=eval_delg_mini output_dir=logs/eval_delg_mini "$@"
