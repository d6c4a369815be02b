#!/usr/bin/env bash
# Makes the tree light enough to be copied to a machine with a GPU, and whole again afterwards. Training states
# (resume/) are most of its bytes, and nothing that is measured reads them.
#
#   bench/gpu_tree.sh light    take resume/ out of the index and hide it; its files stay where they are
#   bench/gpu_tree.sh whole    put it back
#
# Both print the bytes of the files that git would copy: tracked ones, and new ones that are not ignored.
set -euo pipefail
cd "$(dirname "$0")/.."
exclude="$(git rev-parse --git-path info/exclude)"
case "${1:-}" in
  light)
    mkdir -p "$(dirname "$exclude")"
    grep -qx /resume/ "$exclude" 2>/dev/null || echo /resume/ >>"$exclude"
    git rm -rq --cached --ignore-unmatch resume
    ;;
  whole)
    git reset -q -- resume
    sed -i '\|^/resume/$|d' "$exclude"
    ;;
  *)
    sed -n '2,8p' "$0" >&2
    exit 2
    ;;
esac
git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb | tail -1
