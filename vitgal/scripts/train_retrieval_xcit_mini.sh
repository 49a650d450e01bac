#!/usr/bin/env bash
# Generated landmarks, trains the small retrieval network; not run to its end yet.
# Needs:    data/mini_gldv2/ with 6,000 landmarks and its split (train_split_xcit_mini.sh).
# Writes:   logs/train_retrieval_xcit_mini/ with checkpoint.pth, best_model.pth and log.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.experiment -F logs/train_retrieval_xcit_mini \
    with dataset.gldv2_mini model.xcit_mini epochs=14 lr=2e-3 warmup_lr=5e-4 min_lr=1e-5 \
    keep_epochs=False checkpoint_every=200 output_dir=logs/train_retrieval_xcit_mini "$@"
