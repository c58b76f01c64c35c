"""JSON schemas of all kinds that an API server serves, in files as kubeconform reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bed.controlplane import ControlPlane

LOCATION = "{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json"
_DEFINITIONS = "_definitions.json"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def write_schemas(plane: ControlPlane, folder: Path) -> str:
    """Writes them into `folder`; returns the value of kubeconform's -schema-location."""
    definitions = json.loads(plane.kubectl("get", "--raw", "/openapi/v2").stdout)["definitions"]
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            group = kind["group"] or kind["version"]  # as kubeconform calls the core group
            path = folder / f"{group}_{kind['version']}_{kind['kind'].lower()}.json"
            path.write_text(json.dumps({"$ref": f"{_DEFINITIONS}#/definitions/{name}"}))
    definitions[_QUANTITY] = {"type": ["string", "number"]}
    (folder / _DEFINITIONS).write_text(json.dumps({"definitions": {k: _strict(v) for k, v in definitions.items()}}))
    return str(folder / LOCATION)


def _strict(schema: Any) -> Any:
    """Without fields that the schema does not list; what may be a number or a text is both."""
    if not isinstance(schema, dict):
        return schema
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if name in schema:
            strict[name] = _strict(schema[name])
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        strict.pop("format", None)
        strict["type"] = ["string", "integer"]
    return strict
