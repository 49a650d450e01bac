#!/usr/bin/env bash
# Generated landmarks: local features of the images that reranking needs.
# Needs:    the output of eval_global_xcit_mini.sh, vitgal/vitgal_ckpts/mini_landmarks.pth (tracked).
# Writes:   logs/local_mini/ (images that have features already are kept), logs/extract_xcit_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.extract_local_features -F logs/extract_xcit_mini \
    with dataset.landmarks_mini model.xcit_mini mini \
    weight_path=vitgal/vitgal_ckpts/mini_landmarks.pth \
    list_extract_paths=logs/eval_global_xcit_mini/rerank_path.txt \
    descriptor_output_dir=logs/local_mini/Descriptions \
    location_output_dir=logs/local_mini/Locations "$@"
