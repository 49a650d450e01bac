#!/usr/bin/env bash
# Generated landmarks, trains the matcher of row "Reranking, RootSIFT": 20 minutes on 2 cores.
# Expected: see the table of rrt_gld/README.md (measured with this code; nothing is published).
# Needs:    6,000 generated landmarks with descriptors and a neighbour table of 1,000 columns, and
#           the output of eval_mini_global.sh; rrt_gld/README.md has the commands.
# Writes:   logs/train_mini/ with rrt_mini_gldv2_mini_sift.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.experiment -F logs/train_mini \
    with dataset.gldv2_mini_sift model.RRT_mini lr=1e-3 scheduler=warmcos_step warmup_steps=200 \
    epochs=5 steps_per_epoch=2100 temp_dir=logs/train_mini "$@"
