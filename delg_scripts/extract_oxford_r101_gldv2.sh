#!/usr/bin/env bash
# Revisited Oxford, queries (cropped to their boxes) and index: DELG features, ResNet-101, model of GLDv2-clean.
# Needs:    delg_scripts/parameters/r101delg_gldv2clean_20200914/ (download_models.sh), data/oxford5k/jpg/,
#           data/oxford5k/gnd_roxford5k.pkl (for a .mat file add dataset_file_path=FILE).
# Writes:   data/oxford5k/delg_r101_gldv2/, logs/extract_oxford_r101_gldv2/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_oxford_r101_gldv2 \
    with image_set=query delf_config_path=delg_scripts/r101delg_gldv2clean_config.pbtxt \
    dataset_file_path=data/oxford5k/gnd_roxford5k.pkl images_dir=data/oxford5k/jpg \
    output_features_dir=data/oxford5k/delg_r101_gldv2 "$@"
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_oxford_r101_gldv2 \
    with image_set=index delf_config_path=delg_scripts/r101delg_gldv2clean_config.pbtxt \
    dataset_file_path=data/oxford5k/gnd_roxford5k.pkl images_dir=data/oxford5k/jpg \
    output_features_dir=data/oxford5k/delg_r101_gldv2 "$@"
