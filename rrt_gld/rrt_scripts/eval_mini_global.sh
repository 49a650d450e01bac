#!/usr/bin/env bash
# Generated landmarks, row "Global retrieval, RootSIFT-VLAD".
# Expected: mAP medium 44.06, hard 17.40 (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/ (python -m data.make_mini landmarks; rrt_gld.tools.prepare_data
#           mini.prepare; rrt_gld.tools.extract_sift).
# Writes:   data/mini_landmarks/nn_inds_sift.pkl, logs/eval_mini_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.tools.prepare_topk_revisited -F logs/eval_mini_global \
    with dataset_name=mini_landmarks feature_name=sift gnd_name=gnd_mini_landmarks.pkl "$@"
