#!/usr/bin/env bash
# Google Landmarks v2: download_dataset.sh N_TRAIN N_INDEX N_TEST, the number of archives per split
# (500 100 20 are all; 0 leaves the archives of a split out).
# Writes:   gldv2_dataset/{train,test,index}/ below the current folder: csv files, <a>/<b>/<c>/<id>.jpg.
# Started again it goes on: whole archives are kept, cut off ones continued, unpacked ones not touched.
# Ends with 1 when a file could not be had or has a wrong checksum; all others are there then.
set -euo pipefail

readonly ROOT="${GLDV2_ROOT:-gldv2_dataset}"
readonly BASE="${GLDV2_BASE:-https://s3.amazonaws.com/google-landmark}"
readonly AT_ONCE=6

usage() {
    echo "usage: download_dataset.sh N_TRAIN N_INDEX N_TEST (at most 500 100 20)" >&2
    exit 2
}

check_count() { # value, largest
    [[ "$1" =~ ^[0-9]+$ ]] || usage
    ((10#$1 <= $2)) || usage
}

md5_of() { # file: its checksum, with the tool of Linux or macOS
    if command -v md5sum > /dev/null; then
        md5sum "$1" | cut -d ' ' -f 1
    else
        md5 -r "$1" | cut -d ' ' -f 1
    fi
}

fetch() { # address, file: whole or not there under that name
    [[ -s "$2" ]] && return 0
    curl --fail --silent --show-error --location --retry 3 --retry-delay 2 -C - \
        --output "$2.part" "$1" && mv "$2.part" "$2"
}

safe_names() { # archive: whether all its members stay inside the folder
    local names # all of them first: a pipe that grep -q closes would fail tar, not find the name
    names="$(tar -tf "$1")" && ! grep -Eq '^/|(^|/)\.\.(/|$)' <<< "$names"
}

get_archive() { # split, number: download, check, unpack
    local name sums archive folder="$ROOT/$1" wanted
    name="images_$(printf '%03d' "$2")"
    archive="$folder/$name.tar" sums="$folder/md5.$name.txt"
    [[ -e "$folder/.$name.unpacked" ]] && return 0
    fetch "$BASE/md5sum/$1/md5.$name.txt" "$sums" || return 1
    fetch "$BASE/$1/$name.tar" "$archive" || return 1
    wanted="$(cut -d ' ' -f 1 "$sums")"
    if [[ "$(md5_of "$archive")" != "$wanted" ]]; then
        echo "$archive: the checksum is not $wanted of $sums; taken away, start again" >&2
        rm -f "$archive" "$sums"
        return 1
    fi
    if ! safe_names "$archive"; then
        echo "$archive: it names files outside of its folder, not unpacked" >&2
        return 1
    fi
    tar -C "$folder" --no-same-owner -xf "$archive" && touch "$folder/.$name.unpacked"
}

get_tables() { # split, part of the address, file names
    local split="$1" part="$2" name
    shift 2
    for name in "$@"; do
        fetch "$BASE/$part/$name" "$ROOT/$split/$name" || echo "$BASE/$part/$name" >> "$failures"
    done
}

get_split() { # split, number of archives: six at once
    local split="$1" count="$2" first number
    for ((first = 0; first < count; first += AT_ONCE)); do
        for ((number = first; number < first + AT_ONCE && number < count; number++)); do
            (get_archive "$split" "$number" || echo "$split archive $number" >> "$failures") &
        done
        wait
        echo "$split: $((first + AT_ONCE < count ? first + AT_ONCE : count)) of $count archives"
    done
}

[[ $# -eq 3 ]] || usage
check_count "$1" 500
check_count "$2" 100
check_count "$3" 20
for split in train test index; do
    [[ -d "$ROOT/$split" ]] && echo "$ROOT/$split is there and kept"
    mkdir -p "$ROOT/$split"
done
failures="$(mktemp)"
trap 'rm -f "$failures"' EXIT

get_tables train metadata train.csv train_clean.csv train_attribution.csv \
    train_label_to_category.csv
get_split train "$((10#$1))"
get_tables test metadata test.csv
get_tables test ground_truth recognition_solution_v2.1.csv retrieval_solution_v2.1.csv
get_split test "$((10#$3))"
get_tables index metadata index.csv index_image_to_landmark.csv index_label_to_category.csv
get_split index "$((10#$2))"

if [[ -s "$failures" ]]; then
    echo "$(wc -l < "$failures") files could not be had; start again with the same numbers:" >&2
    cat "$failures" >&2
    exit 1
fi
echo "$ROOT holds all that was asked for"
