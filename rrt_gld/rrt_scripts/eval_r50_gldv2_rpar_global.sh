#!/usr/bin/env bash
# DELG on Google Landmarks, row "Global retrieval, ResNet-50, v2-clean", RPar.
# Expected: mAP medium 85.7, hard 71.5.
# Needs:    data/paris6k/ with gnd_rparis6k.pkl, delg_r50_gldv2/ and the line lists
#           (rrt_gld.tools.prepare_data).
# Writes:   data/paris6k/nn_inds_r50_gldv2.pkl, logs/eval_r50_gldv2_rpar_global/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_gld.tools.prepare_topk_revisited -F logs/eval_r50_gldv2_rpar_global \
    with dataset_name=paris6k feature_name=r50_gldv2 gnd_name=gnd_rparis6k.pkl "$@"
