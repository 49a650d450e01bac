#!/usr/bin/env bash
# Revisited Paris, queries (cropped to their boxes) and index: DELG features, ResNet-50, model of GLDv1.
# Needs:    delg_scripts/parameters/r50delg_gld_20200814/ (download_models.sh), data/paris6k/jpg/,
#           data/paris6k/gnd_rparis6k.pkl (for a .mat file add dataset_file_path=FILE).
# Writes:   data/paris6k/delg_r50_gldv1/, logs/extract_paris_r50_gldv1/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_paris_r50_gldv1 \
    with image_set=query delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
    dataset_file_path=data/paris6k/gnd_rparis6k.pkl images_dir=data/paris6k/jpg \
    output_features_dir=data/paris6k/delg_r50_gldv1 "$@"
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_paris_r50_gldv1 \
    with image_set=index delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
    dataset_file_path=data/paris6k/gnd_rparis6k.pkl images_dir=data/paris6k/jpg \
    output_features_dir=data/paris6k/delg_r50_gldv1 "$@"
