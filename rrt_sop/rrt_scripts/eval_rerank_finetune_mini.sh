#!/usr/bin/env bash
# Generated products, row "Reranking, finetuned backbone".
# Expected: R@1 62.93, R@10 93.49, R@100 99.63 (measured with this code; nothing is published).
# Needs:    data/mini_products/ (data.make_mini products, then rrt_sop.prepare_data with mini),
#           the outputs of eval_global_mini.sh and train_rerank_finetune_mini.sh.
# Writes:   logs/eval_rerank_finetune_mini/ with page.html: ranked lists before and after.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.eval_rerank -F logs/eval_rerank_finetune_mini \
    with dataset.mini_rerank model.resnet10_mini page=True \
    row=eval_rerank_finetune_mini \
    resume=logs/train_rerank_finetune_mini/resnet10_mini_rerank.pt \
    cache_nn_inds=rrt_sop/rrt_sop_caches/mini_nn_inds_test.pkl \
    temp_dir=logs/eval_rerank_finetune_mini "$@"
