#!/usr/bin/env bash
# ViTGaL, XCiT-S24, row "global", RPar.
# Expected: nothing: the paper's table was not at hand when this was written.
# Needs:    data/paris6k/, vitgal/vitgal_ckpts/vitgal_s24.pth.
# Writes:   logs/eval_s24_rpar_global/ (global_rank.npy, rerank_path.txt), logs/vitgal_descriptors/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_s24_rpar_global \
    with dataset.rparis6k model.xcit_s24 weight_path=vitgal/vitgal_ckpts/vitgal_s24.pth \
    save_global_rank=logs/eval_s24_rpar_global/global_rank.npy "$@"
