#!/usr/bin/env bash
# ViTGaL, trains the autoencoder on the frozen XCiT-S12 as published: 30 epochs, 64 images in each of
# two processes, one GPU each.
# Needs:    data/gldv2/ with its split, and the output of train_retrieval_s12.sh.
# Writes:   logs/train_autoencoder_s12/ with checkpoint.pth, best_model.pth and log.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m torch.distributed.run --standalone --nproc_per_node=2 \
    -m vitgal.experiment_autoencoder -F logs/train_autoencoder_s12 \
    with dataset.gldv2 model.xcit_s12 epochs=30 \
    pretrained_backbone=logs/train_retrieval_s12/checkpoint.pth \
    output_dir=logs/train_autoencoder_s12 "$@"
