#!/usr/bin/env bash
# Generated landmarks, splits the training side: one image in twenty validates.
# Needs:    data/many_views/mini_gldv2/ (vitgal/README.md has the command that draws it).
# Writes:   train_split.txt and test_split.txt in data/many_views/mini_gldv2/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.create_train_split with data_path=data/many_views/mini_gldv2 \
    split_ratio=0.05 "$@"
