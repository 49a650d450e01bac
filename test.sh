#!/usr/bin/env bash
# All checks: ruff, mypy, shellcheck, then pytest, whose output comes last.
#
#   bash test.sh                              the whole default suite (about five minutes on 2 cores)
#   bash test.sh tests/utils -k recall        further arguments go to pytest
#   REFERENCE_DATA=DIR bash test.sh -m data   the tests on real data
#
# The first run makes .venv and installs requirements-dev.txt into it (Python 3.11 or 3.12 is needed).
set -euo pipefail

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=setup_env.sh
source setup_env.sh
setup_env requirements-dev.txt

# Our own files by name: data/ and logs/ can hold a million files of other people.
python_targets=() shell_targets=(.ci/run)
for file in *.py data/*.py; do
    [[ ! -f "$file" ]] || python_targets+=("$file")
done
for folder in */; do
    [[ "$folder" != data/ && "$folder" != logs/ ]] || continue
    [[ -z "$(compgen -G "$folder*.py")" ]] || python_targets+=("$folder")
done
for file in *.sh */*.sh */*/*.sh; do
    [[ "$file" == data/* || "$file" == logs/* || ! -f "$file" ]] || shell_targets+=("$file")
done

failed=()
check() { # NAME COMMAND...: every check is run, and the ones that fail are named at the end
    printf '== %s\n' "$1"
    "${@:2}" || failed+=("$1")
}
check "ruff check" "$PYTHON" -m ruff check --quiet .
check "ruff format" "$PYTHON" -m ruff format --check --quiet .
check "mypy" "$PYTHON" -m mypy --no-error-summary "${python_targets[@]}"
check "shellcheck" .venv/bin/shellcheck -x "${shell_targets[@]}"
check "pytest" "$PYTHON" -m pytest "$@"
if [[ ${#failed[@]} -gt 0 ]]; then
    printf 'FAILED: %s\n' "${failed[*]}" >&2
    exit 1
fi
