"""What other operators say of their objects, so that Kubernetes checks ours without those operators."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.needs import lacking

PROMETHEUS = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
SECRETS = "github.com/external-secrets/external-secrets@v0.20.4"
FILES = {
    PROMETHEUS: "example/prometheus-operator-crd/monitoring.coreos.com_*.yaml",
    SECRETS: "deploy/crds/bundle.yaml",
}


def definitions(kinds: set[str]) -> dict[str, str]:
    """The CustomResourceDefinitions of some kinds by name, as their operators release them: YAML.

    Read by lines: PyYAML takes the `=` in them for a tag.
    """
    found = {}
    for module, pattern in FILES.items():
        for file in sorted(_release(module).glob(pattern)):
            for text in re.split(r"^---$", file.read_text(), flags=re.MULTILINE):
                kind = re.search(r"^    kind: (\w+)$", text, re.MULTILINE)
                if kind is not None and kind[1] in kinds:
                    found[re.findall(r"^  name: (\S+)$", text, re.MULTILINE)[0]] = text
    return found


def _release(module: str) -> Path:
    go = shutil.which("go")
    if go is None:
        lacking(f"no go to fetch {module} with", ci_has_it=False)
    environment = {**os.environ, "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        [go, "mod", "download", "-json", module], capture_output=True, text=True, env=environment
    )
    said = json.loads(done.stdout or "{}")
    if "Dir" not in said:
        lacking(f"{module} could not be fetched: {said.get('Error', done.stderr)}", ci_has_it=False)
    return Path(said["Dir"])
