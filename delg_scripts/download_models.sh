#!/usr/bin/env bash
# Brings the released DELG and DELF models from their official addresses and unpacks them.
#
#     bash delg_scripts/download_models.sh [ARCHIVE ...]
#
# Without arguments the four DELG models, about 1 GB; further archives: rn101_af_gldv2clean_20200814
# delf_gld_20190411, and resnet50_imagenet_weights (which training starts from).
# Needs:    curl, tar.
# Writes:   delg_scripts/parameters/<archive>/; archives that are unpacked already are kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

BASE="${DELF_MODELS_URL:-http://storage.googleapis.com/delf}"
DELG=(
    r50delg_gld_20200814 r101delg_gld_20200814
    r50delg_gldv2clean_20200914 r101delg_gldv2clean_20200914
)
ALL=("${DELG[@]}" rn101_af_gldv2clean_20200814 delf_gld_20190411 resnet50_imagenet_weights)

case "${1:-}" in
-h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}"
    printf 'Archives: %s\n' "${ALL[*]}"
    exit 0
    ;;
esac
[ "$#" -gt 0 ] || set -- "${DELG[@]}"
for name in "$@"; do
    [[ " ${ALL[*]} " == *" $name "* ]] || {
        printf 'download_models: unknown archive %s, expected some of: %s\n' "$name" "${ALL[*]}" >&2
        exit 2
    }
done

mkdir -p parameters
failed=()
for name in "$@"; do
    if [ -d "parameters/$name" ]; then
        printf '%s is there already\n' "$name"
        continue
    fi
    archive="parameters/$name.tar.gz"
    rm -rf "parameters/.$name"
    mkdir "parameters/.$name"
    # a part of an earlier try is gone on with; tar refuses names that lead outside of the folder
    if curl --fail --location --retry 3 --continue-at - --output "$archive.part" \
        "$BASE/$name.tar.gz" &&
        tar -xzf "$archive.part" -C "parameters/.$name" --no-same-owner; then
        # an archive holds one folder of its name, or the files of the model themselves
        if [ -d "parameters/.$name/$name" ]; then
            mv "parameters/.$name/$name" "parameters/$name"
            rm -rf "parameters/.$name"
        else
            mv "parameters/.$name" "parameters/$name"
        fi
        rm -f "$archive.part"
        printf '%s: parameters/%s\n' "$BASE/$name.tar.gz" "$name"
    else
        failed+=("$name")
        rm -rf "parameters/.$name"
    fi
done
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'download_models: failed: %s; run the same command again\n' "${failed[*]}" >&2
    exit 1
fi
