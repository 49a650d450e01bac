#!/usr/bin/env bash
# Generated landmarks, row "global".
# Expected: mAP medium 53.97, hard 25.01 (seed 0; one point either way).
# Needs:    data/mini_landmarks/, vitgal/vitgal_ckpts/mini_landmarks.pth (tracked).
# Writes:   logs/eval_global_xcit_mini/ (global_rank.npy, rerank_path.txt), logs/vitgal_descriptors/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_global_xcit_mini \
    with dataset.landmarks_mini model.xcit_mini \
    weight_path=vitgal/vitgal_ckpts/mini_landmarks.pth \
    save_global_rank=logs/eval_global_xcit_mini/global_rank.npy "$@"
