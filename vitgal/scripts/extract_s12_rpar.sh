#!/usr/bin/env bash
# ViTGaL, XCiT-S12: local features of the images that reranking on RPar needs.
# Needs:    the output of eval_s12_rpar_global.sh, vitgal/vitgal_ckpts/vitgal_s12.pth.
# Writes:   logs/local_s12/ (images that have features already are kept), logs/extract_s12_rpar/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m vitgal.extract_local_features -F logs/extract_s12_rpar \
    with dataset.rparis6k model.xcit_s12 weight_path=vitgal/vitgal_ckpts/vitgal_s12.pth \
    list_extract_paths=logs/eval_s12_rpar_global/rerank_path.txt \
    descriptor_output_dir=logs/local_s12/Descriptions location_output_dir=logs/local_s12/Locations "$@"
