#!/usr/bin/env bash
# Revisited Oxford, queries (cropped to their boxes) and index: DELG features, ResNet-50, model of GLDv1.
# Needs:    delg_scripts/parameters/r50delg_gld_20200814/ (download_models.sh), data/oxford5k/jpg/,
#           data/oxford5k/gnd_roxford5k.pkl (for a .mat file add dataset_file_path=FILE).
# Writes:   data/oxford5k/delg_r50_gldv1/, logs/extract_oxford_r50_gldv1/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_oxford_r50_gldv1 \
    with image_set=query delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
    dataset_file_path=data/oxford5k/gnd_roxford5k.pkl images_dir=data/oxford5k/jpg \
    output_features_dir=data/oxford5k/delg_r50_gldv1 "$@"
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_oxford_r50_gldv1 \
    with image_set=index delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
    dataset_file_path=data/oxford5k/gnd_roxford5k.pkl images_dir=data/oxford5k/jpg \
    output_features_dir=data/oxford5k/delg_r50_gldv1 "$@"
