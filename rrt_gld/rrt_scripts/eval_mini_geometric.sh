#!/usr/bin/env bash
# Generated landmarks, row "Geometric verification, RootSIFT" (no training; the yardstick).
# Expected: mAP medium 66.37, hard 42.70 (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/delg_sift/, the output of eval_mini_global.sh.
# Writes:   logs/eval_mini_geometric/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.evaluate_geometric -F logs/eval_mini_geometric \
    with dataset.mini_sift dataset.max_sequence_len=500 temp_dir=logs/eval_mini_geometric "$@"
