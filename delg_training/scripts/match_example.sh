#!/usr/bin/env bash
# Matches the features of two photographs and draws the matches that agree with one affine map.
# Needs:    test_images/image_1.jpg and image_2.jpg (your own), and their features:
#           python -m delg_training.extract_features with config_path=... list_images_path=...
# Writes:   matched_images.png, logs/match_example/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.match_images -F logs/match_example \
    with image_1_path=test_images/image_1.jpg image_2_path=test_images/image_2.jpg \
    features_1_path=test_features/image_1.delf features_2_path=test_features/image_2.delf \
    output_image=matched_images.png "$@"
