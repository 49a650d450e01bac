#!/usr/bin/env bash
# Generated landmarks, row "Geometric verification, DELG": inliers of a homography.
# Expected: mAP medium 87.38, hard 65.33 (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/delg_mini/, the output of eval_mini_delg_global.sh.
# Writes:   logs/eval_mini_delg_geometric/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.evaluate_geometric -F logs/eval_mini_delg_geometric \
    with dataset.mini_delg local_dim=64 threshold=16.0 temp_dir=logs/eval_mini_delg_geometric "$@"
