"""`milbuild list`."""

import json

from milbuild import architectures, tasks
from milbuild.cli.arguments import Json


def list_(as_json: Json = False) -> None:
    """List the model types that can be built.

    With their tasks and caches.
    """
    rows = [
        {
            "model_type": model_type,
            "tasks": list(entry.tasks),
            "caches": sorted({c for t in entry.tasks for c in tasks.caches(t, entry.decoder)}),
        }
        for model_type, entry in sorted(architectures.SUPPORTED.items())
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["model_type"])) for row in rows) + 2
    for row in rows:
        print(f"{row['model_type']:{width}}{', '.join(row['tasks'])}  (caches: {', '.join(row['caches'])})")
