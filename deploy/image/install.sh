#!/bin/sh
# Makes the environment /opt/flawscribe of an image, with the pip of /opt/build so that the image itself has none.
#   install.sh locked LOCK      what LOCK names, each file checked against its hash
#   install.sh package WHEELS   the service, and the SBOMs of what the image then holds
set -eu
env=/opt/flawscribe
pip() { /opt/build/bin/python -m pip --python $env/bin/python --no-cache-dir --disable-pip-version-check "$@"; }

case $1 in
locked)
  python3 -m venv --without-pip $env
  pip install --no-deps --only-binary :all: --require-hashes -r "$2"
  # Test data and tests of the libraries: a quarter of the CPU environment.
  site=$(echo $env/lib/python3*/site-packages)
  rm -rf "$site"/onnx/backend/test
  find "$site"/numpy "$site"/scipy -type d -name tests -prune -exec rm -rf {} +
  ;;
package)
  pip install --no-deps --no-index --find-links "$2" flawscribe
  /opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON -o $env/sbom.python.cdx.json $env/bin/python
  /opt/build/bin/debsbom generate -t cdx --root /base --out - >$env/sbom.debian.cdx.json
  ;;
*)
  sed -n '2,4p' "$0" >&2
  exit 2
  ;;
esac
