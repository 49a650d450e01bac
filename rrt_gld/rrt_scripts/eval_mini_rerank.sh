#!/usr/bin/env bash
# Generated landmarks, row "Reranking, RootSIFT".
# Expected: mAP medium 64.73, hard 42.47 (measured with this code; nothing is published).
# Needs:    data/mini_landmarks/delg_sift/, the output of eval_mini_global.sh,
#           rrt_gld/rrt_gld_ckpts/mini_sift.pt (tracked; train_mini.sh makes it).
# Writes:   logs/eval_mini_rerank/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.evaluate_revisited -F logs/eval_mini_rerank \
    with dataset.mini_sift model.RRT_mini resume=rrt_gld/rrt_gld_ckpts/mini_sift.pt \
    temp_dir=logs/eval_mini_rerank "$@"
