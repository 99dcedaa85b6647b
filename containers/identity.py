"""What an image is, as JSON for a file inside it: an image cannot know its own ID.

Usage: identity.py COMMIT BASE_IMAGE, at the top of the project.
"""

import hashlib
import json
import sys
from pathlib import Path

commit, base = sys.argv[1:]
name, _, digest = base.partition("@")
if not digest.startswith("sha256:"):
    sys.exit(f"the base image is not pinned by digest: {base}")
lock = hashlib.sha256(Path("uv.lock").read_bytes()).hexdigest()
print(
    json.dumps(
        {"base": name, "base_digest": digest, "commit": commit, "lock_sha256": lock}, indent=1
    )
)
