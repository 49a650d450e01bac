#!/usr/bin/env bash
# Generated landmarks, queries (cropped to their boxes) and index: features of the trained DELG.
# Needs:    data/mini_landmarks/ (python -m data.make_mini landmarks), the output of export_mini.sh.
# Writes:   data/mini_landmarks/delg_mini/, logs/extract_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_mini \
    with image_set=query delf_config_path=delg_scripts/mini_config.pbtxt \
    dataset_file_path=data/mini_landmarks/gnd_mini_landmarks.pkl \
    images_dir=data/mini_landmarks/jpg output_features_dir=data/mini_landmarks/delg_mini "$@"
"${PYTHON:-python}" -m delg_scripts.extract_features_revisited -F logs/extract_mini \
    with image_set=index delf_config_path=delg_scripts/mini_config.pbtxt \
    dataset_file_path=data/mini_landmarks/gnd_mini_landmarks.pkl \
    images_dir=data/mini_landmarks/jpg output_features_dir=data/mini_landmarks/delg_mini "$@"
