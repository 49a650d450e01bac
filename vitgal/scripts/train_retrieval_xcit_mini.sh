#!/usr/bin/env bash
# Generated landmarks, trains the small retrieval network: 32 minutes on 2 busy cores.
# Needs:    data/many_views/mini_gldv2/ with its split (train_split_xcit_mini.sh).
# Writes:   logs/train_retrieval_xcit_mini/ with checkpoint.pth, best_model.pth and log.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.experiment -F logs/train_retrieval_xcit_mini \
    with dataset.gldv2_mini model.xcit_mini correspondence_weight=0.5 epochs=14 lr=2e-3 \
    warmup_lr=1e-3 min_lr=1e-5 weight_decay=0.05 clip_grad=1.0 precision=bf16 test_freq=5 \
    keep_epochs=False checkpoint_every=100 output_dir=logs/train_retrieval_xcit_mini "$@"
