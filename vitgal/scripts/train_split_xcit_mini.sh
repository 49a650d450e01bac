#!/usr/bin/env bash
# Generated landmarks, splits the training side: one image in five validates.
# Needs:    data/mini_gldv2/ (python -m data.make_mini landmarks; vitgal/README.md has the sizes).
# Writes:   data/mini_gldv2/train_split.txt and data/mini_gldv2/test_split.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.create_train_split with data_path=data/mini_gldv2 "$@"
