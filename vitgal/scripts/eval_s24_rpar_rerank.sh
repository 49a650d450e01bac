#!/usr/bin/env bash
# ViTGaL, XCiT-S24, row "re-ranked", RPar: first 100 by inliers of a homography.
# Expected: nothing: the paper's table was not at hand when this was written.
# Needs:    data/paris6k/, the output of eval_s24_rpar_global.sh and extract_s24_rpar.sh.
# Writes:   logs/eval_s24_rpar_rerank/, rerank_counts.npz beside the ranking.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_s24_rpar_rerank \
    with dataset.rparis6k model.xcit_s24 load_precomputed_global_rank=True do_reranking=True \
    save_global_rank=logs/eval_s24_rpar_global/global_rank.npy max_distance=0.79 \
    descriptor_output_dir=logs/local_s24/Descriptions location_output_dir=logs/local_s24/Locations \
    report=logs/eval_s24_rpar_rerank/index.html "$@"
