#!/usr/bin/env bash
# Generated landmarks, packs the training side; two views of each landmark validate.
# Needs:    data/delg_landmarks/: python -m data.make_mini landmarks --out data/delg_landmarks \
#           --train-landmarks 1500 --train-views 20 --queries 2 --views 2 --distractors 2.
# Writes:   data/delg_landmarks/mini_gldv2/tfrecord/, logs/pack_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.build_image_dataset -F logs/pack_mini with mini "$@"
