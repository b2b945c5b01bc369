#!/usr/bin/env bash
# Build the wheel, install it with the newest releases of what it needs, and try it on a Python:
#
#   tools/smoke.sh python3.13            # or make smoke PYTHON=python3.13
#
# TORCH says which PyTorch is installed first (torch). Ends with 77, and one line, where there is no such Python or no
# such PyTorch for it. The environment lies in .cache/smoke and is made anew each time.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: tools/smoke.sh PYTHON}
torch=${TORCH:-torch}
# What a user does first: names in Python, files of every kind in and out, a run trained, used and served.
tests=(tests/test_api.py tests/test_cli_arrays.py tests/outputs tests/data/readers/test_nifti.py
  tests/data/readers/test_ismrmrd.py)
long="memory or damage or large or health"

if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null); then
  echo "smoke tests skipped: there is no $python here"
  exit 77
fi
place=.cache/smoke/$version
rm -rf "$place"
"$python" -m venv "$place"
pip() { "$place/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
if ! pip install "$torch" > "$place/torch.log" 2>&1; then
  echo "smoke tests skipped: no $torch for Python $version could be installed ($(tail -n 1 "$place/torch.log"))"
  exit 77
fi
# From a copy, so that no build folder of this checkout comes into the wheel.
mkdir "$place/sources"
cp -r pyproject.toml README.md LICENSE src "$place/sources"
pip wheel --no-deps --wheel-dir "$place" "$place/sources"
pip install "$(ls "$place"/sansref-*.whl)[raw,classical]" pytest hypothesis
"$place/bin/python" -m pip list --format freeze | grep -iE "^(torch|numpy|scipy|h5py|jsonargparse|lightning-fabric)=" | xargs
# The tests import the installed package: src is not on their path.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$place/bin/python" -m pytest -q -p no:cacheprovider -k "not ($long)" "${tests[@]}"
