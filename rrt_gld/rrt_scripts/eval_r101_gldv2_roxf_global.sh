#!/usr/bin/env bash
# DELG on Google Landmarks, row "Global retrieval, ResNet-101, v2-clean", ROxf.
# Expected: mAP medium 76.3, hard 55.6.
# Needs:    data/oxford5k/ with gnd_roxford5k.pkl, delg_r101_gldv2/ and the line lists
#           (rrt_gld.tools.prepare_data).
# Writes:   data/oxford5k/nn_inds_r101_gldv2.pkl, logs/eval_r101_gldv2_roxf_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.tools.prepare_topk_revisited -F logs/eval_r101_gldv2_roxf_global \
    with dataset_name=oxford5k feature_name=r101_gldv2 gnd_name=gnd_roxford5k.pkl "$@"
