#!/usr/bin/env bash
# Generated landmarks, trains the autoencoder on the small network: 3 minutes on 2 busy cores.
# Needs:    data/many_views/mini_gldv2/ with its split, and the output of
#           train_retrieval_xcit_mini.sh.
# Writes:   logs/train_autoencoder_xcit_mini/ with checkpoint.pth, best_model.pth and log.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.experiment_autoencoder -F logs/train_autoencoder_xcit_mini \
    with dataset.gldv2_mini model.xcit_mini epochs=4 lr=2e-3 warmup_lr=1e-3 min_lr=1e-5 \
    precision=bf16 test_freq=5 keep_epochs=False checkpoint_every=200 \
    output_dir=logs/train_autoencoder_xcit_mini \
    pretrained_backbone=logs/train_retrieval_xcit_mini/checkpoint.pth "$@"
