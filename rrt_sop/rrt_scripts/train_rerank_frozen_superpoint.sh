#!/usr/bin/env bash
# RRT on Stanford Online Products, trains the matcher of row "Reranking, frozen, SuperPoint".
# Expected: about R@1 50.2 at depth 100 on test.txt; during training 15 columns on mini_test.txt.
# Needs:    data/Stanford_Online_Products/ with mini_test.txt, lines of test.txt to validate on
#           (published: 7,745 images, which ones is not), and its neighbour table, by
#           eval_global_superpoint.sh dataset.test_file=mini_test.txt \
#           nn_inds_copy=rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_mini_test.pkl;
#           the output of nn_inds_train_superpoint.sh,
#           rrt_sop/rrt_sop_caches/superpoint_sop_320_500.pkl, rrt_sop/rrt_sop_ckpts/superpoint_v1.pth.
# Writes:   logs/train_rerank_frozen_superpoint/ with superpoint_sop_superpoint.pt and last.pt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m rrt_sop.experiment_rerank -F logs/train_rerank_frozen_superpoint \
    with dataset.sop_superpoint model.superpoint model.freeze_backbone=True \
    dataset.test_file=mini_test.txt \
    cache_nn_inds=rrt_sop/rrt_sop_caches/superpoint_sop_nn_inds_mini_test.pkl \
    model.backbone_weights=rrt_sop/rrt_sop_ckpts/superpoint_v1.pth \
    temp_dir=logs/train_rerank_frozen_superpoint "$@"
