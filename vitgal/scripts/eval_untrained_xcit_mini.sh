#!/usr/bin/env bash
# Generated landmarks, row "global, untrained": what random weights give.
# Expected: mAP medium 1.23, hard 0.61 (seed 0; one point either way).
# Needs:    data/mini_landmarks/ (python -m data.make_mini landmarks).
# Writes:   logs/eval_untrained_xcit_mini/, logs/vitgal_descriptors/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_untrained_xcit_mini \
    with dataset.landmarks_mini model.xcit_mini \
    save_global_rank=logs/eval_untrained_xcit_mini/global_rank.npy "$@"
