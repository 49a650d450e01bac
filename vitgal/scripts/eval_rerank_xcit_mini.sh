#!/usr/bin/env bash
# Generated landmarks, row "re-ranked": first 100 by inliers of a homography.
# Expected: mAP medium 79.49, hard 50.05 (seed 0; one point either way).
# Needs:    data/mini_landmarks/, the output of eval_global_xcit_mini.sh and extract_xcit_mini.sh.
# Writes:   logs/eval_rerank_xcit_mini/, rerank_counts.npz beside the ranking.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_rerank_xcit_mini \
    with dataset.landmarks_mini model.xcit_mini mini load_precomputed_global_rank=True \
    do_reranking=True save_global_rank=logs/eval_global_xcit_mini/global_rank.npy \
    descriptor_output_dir=logs/local_mini/Descriptions \
    location_output_dir=logs/local_mini/Locations \
    report=logs/eval_rerank_xcit_mini/index.html "$@"
