#!/usr/bin/env bash
# ViTGaL, XCiT-S12, row "re-ranked", ROxf+1M: first 100 by inliers of a homography.
# Expected: nothing: the paper's table was not at hand when this was written.
# Needs:    data/oxford5k/, the output of eval_s12_roxf_1m_global.sh and extract_s12_roxf_1m.sh.
# Writes:   logs/eval_s12_roxf_1m_rerank/, rerank_counts.npz beside the ranking.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.eval_image_retrieval -F logs/eval_s12_roxf_1m_rerank \
    with dataset.roxford5k_1m model.xcit_s12 load_precomputed_global_rank=True do_reranking=True \
    save_global_rank=logs/eval_s12_roxf_1m_global/global_rank.npz max_distance=0.82 \
    descriptor_output_dir=logs/local_s12/Descriptions location_output_dir=logs/local_s12/Locations \
    report=logs/eval_s12_roxf_1m_rerank/index.html "$@"
