"""The image's software bill of materials: CycloneDX 1.5, the locked packages and the base's own.

Usage: sbom.py UV, at the top of the project, inside the image under construction. What differs between
two builds (a serial number, the time) is left out: neither is required.
"""

import json
import subprocess
import sys
from pathlib import Path

DPKG = Path("/var/lib/dpkg/status")
OS_RELEASE = Path("/etc/os-release")


def debian_packages() -> list[dict[str, str]]:
    """The base's packages; none where it is not a Debian."""
    if not DPKG.is_file():
        return []
    release = dict(
        line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line
    )
    distribution = f"{release['ID']}-{release['VERSION_ID']}".replace('"', "")
    found = []
    for paragraph in DPKG.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status") != "install ok installed":
            continue
        name, version, machine = (fields[key] for key in ("Package", "Version", "Architecture"))
        url = f"pkg:deb/debian/{name}@{version}?arch={machine}&distro={distribution}"
        found.append(
            {"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url}
        )
    return sorted(found, key=lambda entry: entry["bom-ref"])


command = [
    sys.argv[1],
    "export",
    "--quiet",
    "--locked",
    "--no-dev",
    "--no-emit-project",
    "--offline",
]
command += ["--format", "cyclonedx1.5", "--preview-features", "sbom-export"]
materials = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
materials.pop("serialNumber", None)
materials["metadata"].pop("timestamp", None)
materials["components"] += debian_packages()
json.dump(materials, sys.stdout, indent=1)
print()
