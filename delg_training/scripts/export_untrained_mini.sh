#!/usr/bin/env bash
# DELG of the generated landmarks as it is before training, for comparison.
# Needs:    nothing.
# Writes:   logs/export_untrained_mini/model/ (which must not exist), logs/export_untrained_mini/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
"${PYTHON:-python}" -m delg_training.export_local_and_global_model -F logs/export_untrained_mini \
    with model.delg_mini ckpt_path=None export_path=logs/export_untrained_mini/model "$@"
