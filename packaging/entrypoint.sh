#!/bin/sh
# Starts replicate in a container from environment variables alone, with the container's command under it.
#
#   docker run -e REPLICATE_DATABASE=/data/app.db -e REPLICATE_URL=s3://bucket/app IMAGE my-app --its --arguments
#
# Without a command, databases are replicated until the container stops. A command of replicate itself (list, restore, …) is
# carried out as it stands; an application that has the name of one is given after `--`.
set -eu

# on VARIABLE DEFAULT: is it on? Anything but true and false is refused.
on() {
    eval "value=\${$1:-$2}"
    case "$value" in
        true) return 0 ;;
        false) return 1 ;;
        *)
            echo "replicate-entrypoint: $1=$value is neither true nor false" >&2
            exit 2
            ;;
    esac
}

case "${1-}" in
    run | restore | list | verify | manifest | drill | prune | snapshot | label | sync | pause | resume | reload | status | check | cost | demo | completions | man | help | -[!-]* | --?*)
        exec replicate "$@"
        ;;
    --) shift ;;
esac

if [ $# -gt 0 ]; then
    set -- -- "$@"
    if on REPLICATE_LABEL_BEFORE_START false; then set -- --label-before-start "$@"; fi
fi
if on REPLICATE_RESTORE_IF_MISSING true; then set -- --restore-if-missing "$@"; fi
exec replicate run "$@"
