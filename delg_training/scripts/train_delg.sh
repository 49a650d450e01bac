#!/usr/bin/env bash
# Google Landmarks v2-clean, trains DELG (generalised mean, whitening, ArcFace).
# Eight GPUs, as published; four: dataset.batch_size=128 initial_lr=0.005.
# Needs:    data/gldv2/tfrecord/ (python -m delg_training.build_image_dataset), ImageNet weights
#           (bash delg_scripts/download_models.sh resnet50_imagenet_weights).
# Writes:   logs/train_delg/ (delf_weights, delf_tf2-ckpt/, train_logs/).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.experiment -F logs/train_delg \
    with model.delg dataset.gld_v2_clean dataset.batch_size=256 initial_lr=0.01 \
    imagenet_checkpoint=delg_scripts/parameters/resnet50_imagenet_weights/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 \
    logdir=logs/train_delg "$@"
