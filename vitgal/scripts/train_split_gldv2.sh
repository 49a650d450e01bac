#!/usr/bin/env bash
# ViTGaL, splits Google Landmarks v2 (clean) into training and validation images.
# Needs:    data/gldv2/ with train.csv (columns id, landmark_id) of the cleaned set.
# Writes:   data/gldv2/train_split.txt and data/gldv2/test_split.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.create_train_split with data_path=data/gldv2 "$@"
