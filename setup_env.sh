# shellcheck shell=bash
# Set-up of .venv, shared by demo.sh, test.sh and .ci/run, which source it from the repository root.
#
#   setup_env requirements.txt    makes, adds to or remakes .venv; afterwards $PYTHON is its interpreter
#
# .venv/stamp.<file> holds the interpreter's version and the requirements it was filled from. It is
# written last, and .venv/installing marks work in progress: an interrupted installation is remade.
# Needs nothing but bash and python3.

supported_pythons="3.11 3.12"
needed_gigabytes=9

setup_say() { printf '[set-up] %s\n' "$*" >&2; }

# setup_stop LINE...: prints what is wrong and what to do, then ends the script.
setup_stop() {
    {
        printf '\n[set-up] STOPPED: %s\n' "$1"
        shift
        [[ $# -eq 0 ]] || printf '         %s\n' "$@"
    } >&2
    exit 1
}

# "3.11" of an interpreter; nothing when it does not run (a pyenv shim without a version fails so).
python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

is_supported() { [[ -n "$1" && " $supported_pythons " == *" $1 "* ]]; }

# Prints the first usable interpreter: $PYTHON when set, else what the system offers.
find_python() {
    local candidate version seen="" without_venv=""
    local -a candidates=("${PYTHON:-python3}")
    [[ -n "${PYTHON:-}" ]] || candidates+=(python3.12 python3.11 python)
    for candidate in "${candidates[@]}"; do
        version="$(python_version "$candidate")"
        [[ -z "$version" ]] || seen+="$candidate is $version, "
        is_supported "$version" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv+="$candidate ($version) "
    done
    [[ -z "$without_venv" ]] || setup_stop \
        "${without_venv% } has no venv module, which makes the environment." \
        "Debian, Ubuntu: sudo apt install python3-venv (or python3.12-venv, as the version is), then run again."
    seen="${seen:-none that runs, }"
    setup_stop "Python ${supported_pythons// / or } is needed; found: ${seen%, }" \
        "PyTorch, TensorFlow and pydegensac are not all published for other versions." \
        "Install one (sudo apt install python3.12 python3.12-venv; pyenv install 3.12; conda create -n py312 python=3.12)," \
        "or name it: PYTHON=/path/to/python3.12 bash ${0##*/}"
}

# Requirements of FILE and of the files it includes, without comments and blank lines.
requirement_lines() {
    local line
    while IFS= read -r line || [[ -n "$line" ]]; do
        line="${line%%#*}"
        read -r line <<<"$line" # trims both ends
        case "$line" in
            "") ;;
            "-r "*) requirement_lines "${line#-r }" ;;
            *) printf '%s\n' "$line" ;;
        esac
    done <"$1"
}

# What the stamp of FILE says when .venv is up to date.
wanted_stamp() {
    printf 'python %s\n' "$(python_version .venv/bin/python)"
    requirement_lines "$1"
}

# stamp_fits FILE: whether .venv was filled from FILE as it is now, to the end.
stamp_fits() {
    [[ ! -e .venv/installing && -f ".venv/stamp.$1" ]] &&
        [[ "$(<".venv/stamp.$1")" == "$(wanted_stamp "$1")" ]]
}

# Held until fd 9 is closed or the process ends, however it ends. The lock belongs to the open file,
# which the short Python process shares with this shell.
take_setup_lock() {
    local python="$1" code='import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[1] == "try" else 0))
except BlockingIOError:
    sys.exit(3)'
    exec 9>>.venv.lock || setup_stop "cannot write .venv.lock in $PWD" "Make the folder writable and run again."
    "$python" -c "$code" try 2>/dev/null && return
    [[ $? -ne 3 ]] || setup_say "another run is installing into .venv; waiting for it"
    "$python" -c "$code" wait || setup_stop "cannot lock .venv.lock in $PWD (see the line above)" \
        "The file system offers no locks: put the checkout on a local disk."
}

check_free_space() {
    local code='import shutil, sys
free = shutil.disk_usage(".").free / 1e9
print("%.1f" % free)
sys.exit(free < float(sys.argv[1]))'
    local free
    free="$("$1" -c "$code" "$needed_gigabytes")" || setup_stop \
        "$free GB are free below $PWD; about $needed_gigabytes GB are needed (less with the CPU build of PyTorch, see README.md)." \
        "Free some space, or put the checkout on a larger disk, and run again."
}

# Why .venv cannot be kept; nothing when it can.
reason_to_remake() {
    local version
    version="$(python_version .venv/bin/python)"
    if [[ -e .venv/installing ]]; then
        echo "its installation was interrupted"
    elif ! is_supported "$version"; then
        echo "its Python is ${version:-gone}"
    elif ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        echo "it has no pip"
    elif [[ -f .venv/stamp.requirements.txt ]] && ! stamp_fits requirements.txt; then
        echo "requirements.txt or its Python changed"
    fi
}

make_venv() {
    local python="$1" reason
    if [[ -d .venv || -L .venv ]]; then
        reason="$(reason_to_remake)"
        [[ -n "$reason" ]] || return 0
        setup_say "remaking .venv: $reason"
        rm -rf .venv || setup_stop "cannot remove .venv in $PWD" "Remove it by hand and run again."
    fi
    check_free_space "$python"
    setup_say "making .venv with $python ($(python_version "$python"))"
    if ! { mkdir .venv && : >.venv/installing; }; then
        setup_stop "cannot write in $PWD" "Make the folder writable and run again."
    fi
    "$python" -m venv .venv >&2 || setup_stop "'$python -m venv .venv' failed (see above)" \
        "Debian, Ubuntu: sudo apt install python3-venv; then run again."
}

# install FILE: pip's progress bar on a terminal; elsewhere quiet, with the log in .venv/pip.log.
install() {
    local -a options=(--disable-pip-version-check --no-input --log .venv/pip.log)
    [[ -t 2 ]] || options+=(--quiet --quiet --progress-bar off)
    : >.venv/installing
    setup_say "installing $1 into .venv (once; 3 GB and more to fetch, usually 2 to 15 minutes)"
    .venv/bin/python -m pip install "${options[@]}" -r "$1" >&2 || setup_stop \
        "pip could not install $1 (its message is above, all of it in .venv/pip.log)." \
        "No connection: check the network, or set HTTPS_PROXY or PIP_INDEX_URL (a mirror)." \
        "'No space left': free some, or set TMPDIR to a folder on a larger disk." \
        "Then run again; what was fetched is kept in pip's cache."
}

write_stamps() {
    local file
    for file in "$@"; do
        wanted_stamp "$file" >".venv/stamp.$file.part"
        mv ".venv/stamp.$file.part" ".venv/stamp.$file"
    done
    rm -f .venv/installing .venv/pip.log
}

# setup_env requirements.txt | requirements-dev.txt (which includes the former).
setup_env() {
    local base
    if ! stamp_fits "$1"; then
        base="$(find_python)" || exit 1
        take_setup_lock "$base"
        if ! stamp_fits "$1"; then # else: the run we waited for did it
            make_venv "$base"
            install "$1"
            if [[ "$1" == requirements.txt ]]; then
                write_stamps "$1"
            else
                write_stamps requirements.txt "$1"
            fi
            setup_say "done"
        fi
        exec 9>&-
    fi
    export PYTHON="$PWD/.venv/bin/python"
}
