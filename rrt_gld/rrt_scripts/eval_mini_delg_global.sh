#!/usr/bin/env bash
# Generated landmarks, row "Global retrieval, DELG" (a small DELG trained on generated landmarks).
# Expected: mAP medium 71.31, hard 37.42 (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/ with line lists, delg_training/scripts/extract_mini.sh.
# Writes:   data/mini_landmarks/nn_inds_mini.pkl, logs/eval_mini_delg_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.tools.prepare_topk_revisited -F logs/eval_mini_delg_global \
    with dataset_name=mini_landmarks feature_name=mini gnd_name=gnd_mini_landmarks.pkl "$@"
