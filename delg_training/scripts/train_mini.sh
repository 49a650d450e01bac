#!/usr/bin/env bash
# Generated landmarks, trains the small DELG from random weights.
# Needs:    data/delg_landmarks/mini_gldv2/ with 1,500 landmarks of 20 views, packed by pack_mini.sh.
# Writes:   logs/train_delg_mini/ (delf_weights, delf_tf2-ckpt/, train_logs/).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.experiment -F logs/train_delg_mini \
    with mini dataset.mini model.delg_mini logdir=logs/train_delg_mini "$@"
