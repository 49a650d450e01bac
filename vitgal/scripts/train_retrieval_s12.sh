#!/usr/bin/env bash
# ViTGaL, trains the retrieval network XCiT-S12 as published: 40 epochs, 64 images in each of two
# processes, one GPU each.
# Needs:    data/gldv2/ with its split (train_split_gldv2.sh), and the ImageNet file
#           vitgal/vitgal_ckpts/xcit_small_12_p16_224.pth.
# Writes:   logs/train_retrieval_s12/ with checkpoint.pth, best_model.pth and log.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m torch.distributed.run --standalone --nproc_per_node=2 \
    -m vitgal.experiment -F logs/train_retrieval_s12 \
    with dataset.gldv2 model.xcit_s12 pretrained=vitgal/vitgal_ckpts/xcit_small_12_p16_224.pth \
    output_dir=logs/train_retrieval_s12 "$@"
