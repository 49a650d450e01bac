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

# a part of an earlier try is gone on with; a whole archive that cannot be unpacked is thrown away
fetch() {
    [ -f "$2" ] && return
    curl --fail --location --retry 3 --continue-at - --output "$2.part" "$1" && mv "$2.part" "$2"
}

# an archive holds one folder of its name, or the files of the model themselves
unpack() {
    local folder="parameters/.$1"
    rm -rf "$folder" && mkdir "$folder" || return
    if ! tar -xzf "$2" -C "$folder" --no-same-owner; then
        rm -rf "$folder" "$2"
        return 1
    fi
    if [ -d "$folder/$1" ]; then
        mv "$folder/$1" "parameters/$1" && rm -rf "$folder" "$2"
    else
        mv "$folder" "parameters/$1" && rm -f "$2"
    fi
}

mkdir -p parameters
failed=()
for name in "$@"; do
    if [ -d "parameters/$name" ]; then
        printf '%s is there already\n' "$name"
    elif fetch "$BASE/$name.tar.gz" "parameters/$name.tar.gz" &&
        unpack "$name" "parameters/$name.tar.gz"; then
        printf '%s: delg_scripts/parameters/%s\n' "$BASE/$name.tar.gz" "$name"
    else
        failed+=("$name")
    fi
done
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'download_models: failed: %s; run the same command again\n' "${failed[*]}" >&2
    exit 1
fi
