#!/bin/sh
# One picture of a part to its verdict, with curl alone.
#   INSPECT_URL=http://localhost:8000 INSPECT_KEY=fls_... sh examples/inspect_part.sh part.png SERIAL LOT STATION
# Exit code: 0 ok, 10 not_ok, 11 a person must look (review, undecidable), any other: the part is not inspected.
set -u
picture=${1:?which picture? part.png SERIAL LOT STATION} serial=${2:-} lot=${3:-} station=${4:-}
url=${INSPECT_URL:-http://localhost:8000}
answer=$(mktemp) && trap 'rm -f "$answer"' EXIT
# The key of one shot of one part: however often this is sent, it is judged and recorded once. A digest, since headers are ASCII.
shot=$({ printf '%s\n%s\n' "$serial" "$station" && cat "$picture"; } | sha256sum | cut -d' ' -f1)

# 408, 429, 5xx and broken connections are tried again, after Retry-After where the service says one, for 30 s in all.
give_up=$(($(date +%s) + 30))
while :; do
  curl --silent --show-error --fail-with-body --output "$answer" \
    --retry 8 --retry-connrefused --retry-max-time $((give_up - $(date +%s))) --max-time 15 \
    ${INSPECT_KEY:+--header "Authorization: Bearer $INSPECT_KEY"} \
    --header "Idempotency-Key: $shot" --header 'X-Deadline-Ms: 10000' \
    --form "image=@\"$picture\"" --form-string serial="$serial" --form-string lot="$lot" --form-string station="$station" \
    "$url/detect"
  code=$?
  # 18, 52, 55, 56, 92: the connection broke, which curl alone does not try again (a --retry-max-time of 0 would be none)
  case $code in 18 | 52 | 55 | 56 | 92) [ "$(date +%s)" -lt $((give_up - 3)) ] && sleep 1 && continue ;; esac
  break
done
if [ $code -ne 0 ]; then
  cat "$answer" >&2
  exit 1
fi
verdict=$(grep -o '"verdict":"[a-z_]*"' "$answer" | head -1 | cut -d'"' -f4)
echo "$serial $verdict"
case $verdict in ok) exit 0 ;; not_ok) exit 10 ;; review | undecidable) exit 11 ;; *) exit 1 ;; esac
