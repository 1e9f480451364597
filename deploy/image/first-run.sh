#!/bin/sh
# Fills empty volumes, as often as it is run: an API key of all rights, shown this once, and the demo model.
set -eu
umask 077
if [ -s "$FLAWSCRIBE_KEYS_FILE" ]; then
  echo "first-run: $FLAWSCRIBE_KEYS_FILE is there; further keys: flawscribe key create --keys-file $FLAWSCRIBE_KEYS_FILE --scope detect"
else
  echo "first-run: the API key of this installation; only its hash is kept, so note it now:"
  flawscribe key create --keys-file "$FLAWSCRIBE_KEYS_FILE" --scope admin --note "first run"
fi
if [ -z "$(ls -A "$FLAWSCRIBE_MODELS_DIR" 2>/dev/null)" ]; then
  mkdir -p "$FLAWSCRIBE_MODELS_DIR"
  cp -R /opt/flawscribe/models/. "$FLAWSCRIBE_MODELS_DIR"
  echo "first-run: the demo model is in $FLAWSCRIBE_MODELS_DIR"
fi
if [ -d /opt/flawscribe/models/teachers ] && [ ! -e "$FLAWSCRIBE_MODELS_DIR/teachers" ]; then # after an image without them
  cp -R /opt/flawscribe/models/teachers "$FLAWSCRIBE_MODELS_DIR"
fi
