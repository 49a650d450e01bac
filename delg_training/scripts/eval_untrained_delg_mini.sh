#!/usr/bin/env bash
# Generated landmarks, row "global, untrained".
# Expected: mAP medium 1.35, hard 0.78 (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/ (python -m data.make_mini landmarks), the output of extract_untrained_mini.sh.
# Writes:   logs/eval_untrained_delg_mini/ with metrics.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.perform_retrieval -F logs/eval_untrained_delg_mini \
    with dataset_file_path=data/mini_landmarks/gnd_mini_landmarks.pkl \
    query_features_dir=data/mini_landmarks/delg_mini_untrained \
    row=eval_untrained_delg_mini output_dir=logs/eval_untrained_delg_mini "$@"
