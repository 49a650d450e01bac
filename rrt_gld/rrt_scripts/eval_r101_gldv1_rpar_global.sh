#!/usr/bin/env bash
# DELG on Google Landmarks, row "Global retrieval, ResNet-101, v1", RPar.
# Expected: mAP medium 82.4, hard 64.7.
# Needs:    data/paris6k/ with gnd_rparis6k.pkl, delg_r101_gldv1/ and the line lists
#           (rrt_gld.tools.prepare_data).
# Writes:   data/paris6k/nn_inds_r101_gldv1.pkl, logs/eval_r101_gldv1_rpar_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.tools.prepare_topk_revisited -F logs/eval_r101_gldv1_rpar_global \
    with dataset_name=paris6k feature_name=r101_gldv1 gnd_name=gnd_rparis6k.pkl "$@"
