#!/usr/bin/env bash
# ViTGaL, XCiT-S24, row "global", RPar+1M.
# Expected: nothing: the paper's table was not at hand when this was written.
# Needs:    data/paris6k/, data/revisitop1m/jpg/, vitgal/vitgal_ckpts/vitgal_s24.pth.
# Writes:   logs/eval_s24_rpar_1m_global/ (global_rank.npz, rerank_path.txt), logs/vitgal_descriptors/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_s24_rpar_1m_global \
    with dataset.rparis6k_1m model.xcit_s24 weight_path=vitgal/vitgal_ckpts/vitgal_s24.pth \
    save_global_rank=logs/eval_s24_rpar_1m_global/global_rank.npz "$@"
