#!/usr/bin/env bash
# R2Former, finetunes the MSLS model on Pitts30k, for Pitts30k and Tokyo 24/7; step (d).
# Expected: see eval_pitts30k_finetuned.sh and eval_tokyo247_finetuned.sh.
# Needs:    data/pitts30k/, r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth (or the output
#           of finetune_msls.sh).
# Writes:   logs/finetune_pitts30k/ with best_model.pth and last_model.pth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m r2former.experiment_rerank -F logs/finetune_pitts30k \
    with dataset.pitts30k_finetune model.deit fix=0 finetune=0 optim=adamw lr=1e-5 cos=True \
    warmup=5 epochs_num=50 patience=10 save_best=1 \
    resume=r2former/r2former_ckpts/CVPR23_DeitS_Rerank.pth save_dir=finetune_pitts30k "$@"
