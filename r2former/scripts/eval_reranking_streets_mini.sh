#!/usr/bin/env bash
# Generated streets, row "reranked": global and reranked.
# Expected: R@1 global 45.75, reranked 53.25 (measured with this code; nothing is published).
# Needs:    data/mini_streets/ (python -m data.make_mini streets),
#           r2former/r2former_ckpts/mini_streets.pth (tracked; train_reranking_streets_mini.sh makes
#           it).
# Writes:   logs/eval_reranking_streets_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.evaluate -F logs/eval_reranking_streets_mini \
    with dataset.mini_streets model.resnet_mini resume=r2former/r2former_ckpts/mini_streets.pth \
    row=eval_reranking_streets_mini temp_dir=logs/eval_reranking_streets_mini "$@"
