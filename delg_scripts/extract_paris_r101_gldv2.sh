#!/usr/bin/env bash
# Revisited Paris, queries (cropped to their boxes) and index: DELG features, ResNet-101, model of GLDv2-clean.
# Needs:    delg_scripts/parameters/r101delg_gldv2clean_20200914/ (download_models.sh), data/paris6k/jpg/,
#           data/paris6k/gnd_rparis6k.pkl (for a .mat file add dataset_file_path=FILE).
# Writes:   data/paris6k/delg_r101_gldv2/, logs/extract_paris_r101_gldv2/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_paris_r101_gldv2 \
    with image_set=query delf_config_path=delg_scripts/r101delg_gldv2clean_config.pbtxt \
    dataset_file_path=data/paris6k/gnd_rparis6k.pkl images_dir=data/paris6k/jpg \
    output_features_dir=data/paris6k/delg_r101_gldv2 "$@"
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_paris_r101_gldv2 \
    with image_set=index delf_config_path=delg_scripts/r101delg_gldv2clean_config.pbtxt \
    dataset_file_path=data/paris6k/gnd_rparis6k.pkl images_dir=data/paris6k/jpg \
    output_features_dir=data/paris6k/delg_r101_gldv2 "$@"
