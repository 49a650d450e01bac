#!/usr/bin/env bash
# Google Landmarks v2, training images: DELG features, ResNet-50, model of GLDv1.
# Needs:    delg_scripts/parameters/r50delg_gld_20200814/ (download_models.sh), data/gldv2/train/,
#           data/gldv2/train.txt (rrt_gld.tools.prepare_data).
# Writes:   data/gldv2/delg_r50_gldv1/, logs/extract_gldv2_r50_gldv1/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python}" -m delg_scripts.extract_features_gld -F logs/extract_gldv2_r50_gldv1 \
    with delf_config_path=delg_scripts/r50delg_gld_config.pbtxt \
    dataset_file_path=data/gldv2/train.txt images_dir=data/gldv2 \
    output_features_dir=data/gldv2/delg_r50_gldv1 "$@"
