"""A bundle's bill of materials, in CycloneDX 1.6 with its parts for models: files, packages, data, figures.

Equal bundles have equal ones: there is no time in it, and its serial number follows from the version.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from aisle import __version__
from aisle.files import sha256_bytes
from aisle.model.bundle import LINEAGE_FILE, METRICS_FILE, MODEL_FILE, Bundle

FIGURES = ("accuracy", "weighted_f1", "macro_f1", "calibration_error")
_INPUTS = {"title": "text", "description": "text", "image": "image"}


def bill_of_materials(bundle: Bundle) -> dict[str, Any]:
    lineage, metrics, model = (bundle.json(name) for name in (LINEAGE_FILE, METRICS_FILE, MODEL_FILE))
    packages = [_package(name, version) for name, version in sorted(lineage["packages"].items())]
    data = f"data:{lineage['data_hash']}"
    own = f"model:{bundle.version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, bundle.version)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "aisle", "version": __version__}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": own,
                "name": f"aisle-{model['recipe']}",
                "version": bundle.version,
                "modelCard": _card(model, metrics, data),
                "properties": _properties(lineage),
            },
        },
        "components": [
            {
                "type": "data",
                "bom-ref": data,
                "name": "catalogue",
                "version": lineage["data_hash"],
                "hashes": [{"alg": "SHA-256", "content": lineage["data_hash"]}],
                "data": [{"type": "dataset", "name": "products that it learnt from"}],
            },
            *packages,
            *(_file(name, content) for name, content in sorted(bundle.contents.items())),
        ],
        "dependencies": [{"ref": own, "dependsOn": [data, *(one["bom-ref"] for one in packages)]}],
    }


def _card(model: Mapping[str, Any], metrics: Mapping[str, Any], data: str) -> dict[str, Any]:
    looks_at = [*model["text_fields"], *(["image"] if "image" in model["temperatures"] else [])]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "classification",
            "architectureFamily": model["recipe"],
            "datasets": [{"ref": data}],
            "inputs": [{"format": kind} for kind in sorted({_INPUTS.get(name, name) for name in looks_at})],
            "outputs": [{"format": "product type with a confidence"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": f"{figures[name]:.6f}", "slice": looked_at, **_interval(figures, name)}
                for looked_at, figures in metrics.items()
                if isinstance(figures, Mapping) and "weighted_f1" in figures
                for name in FIGURES
            ]
        },
    }


def _interval(figures: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = figures.get("intervals", {}).get(name)
    if found is None:
        return {}
    return {"confidenceInterval": {"lowerBound": f"{found[0]:.4f}", "upperBound": f"{found[1]:.4f}"}}


def _properties(lineage: Mapping[str, Any]) -> list[dict[str, str]]:
    told = {
        "code_revision": lineage["code_revision"],
        "seed": str(lineage["seed"]),
        "image_encoder": lineage["image_encoder"] or "none",
        "configuration": json.dumps(lineage["configuration"], sort_keys=True),
    }
    return [{"name": f"aisle:{name}", "value": value} for name, value in told.items()]


def _package(name: str, version: str) -> dict[str, Any]:
    address = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address}


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256_bytes(content)}]}
