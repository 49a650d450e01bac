#!/usr/bin/env bash
# Image retrieval with reranking, from images to a results table and a page of pictures.
#
#   bash demo.sh                      on a generated set of landmarks (drawn here, nothing is downloaded)
#   bash demo.sh FOLDER [options]     on your own photographs; with a gnd_*.pkl in FOLDER, mAP too
#
# The first run makes .venv and installs requirements.txt into it (Python 3.11 or 3.12 is needed).
# Further arguments go to `python -m rrt_gld.demo`, whose options `.venv/bin/python -m rrt_gld.demo --help` lists.
set -euo pipefail

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac

# Paths are meant from where the command was typed: they are made absolute before the change of folder.
arguments=()
for argument in "$@"; do
    [[ "$argument" != /* && "$argument" != -* && -e "$argument" ]] && argument="$PWD/$argument"
    arguments+=("$argument")
done
if [[ $# -gt 0 && "$1" != *=* && "$1" != -* && "$1" != with && ! -d "${arguments[0]}" ]]; then
    echo "demo.sh: $1 is not a folder; give a folder of photographs, or nothing for the generated set" >&2
    exit 2
fi

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=setup_env.sh
source setup_env.sh
setup_env requirements.txt
exec "$PYTHON" -m rrt_gld.demo ${arguments[@]+"${arguments[@]}"}
