"""docs/api.md, as the OpenAPI document has it: `make docs` writes it, and a test compares it with the code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from promptreel.api.openapi_document import DescribedApp, describe_answers
from promptreel.api.router import build_router
from promptreel.jobs.params import SCHEDULERS
from tests.rules.documents import ROOT

PAGE = ROOT / "docs" / "api.md"
SECTIONS = {
    "video": "Videos, as the hosted service had them",
    "v1": "Videos, as OpenAI's API has them",
    "models": "Models and schedulers",
    "uploads": "Uploads",
    "training": "Training",
    "service": "The service",
}
HEAD = """# The API

Written by `make docs` from the document that a running service has at `/openapi.json`, and compared with it by a test; `/docs`
shows the same as a page to try. Requests are read leniently: as JSON, forms or query strings, numbers as text, yes/no and
true/false, null for the default; fields that are not named here are ignored, and under `/v1` named in `tip`. How keys are
sent is in [keys.md](keys.md), what goes wrong and with which status in [errors.md](errors.md), what webhooks are told in
[webhooks.md](webhooks.md).

Each endpoint names the shapes of its answers, which are at the end. Where `Error` is among them, the older generations answer
200 for errors too. `OpenAIError` has the statuses of [errors.md](errors.md).
"""


def document() -> dict[str, Any]:
    router = build_router()
    describe_answers(router)
    app: FastAPI = DescribedApp()
    app.include_router(router)
    return app.openapi()


def render(api: Mapping[str, Any]) -> str:
    """The whole page. Endpoints that differ in their path alone stand together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            told = "\n".join(describe(operation))
            groups.setdefault((operation["tags"][0], told), []).append(f"`{method.upper()} {path}`")
    parts = [HEAD]
    for tag, title in SECTIONS.items():
        parts.append(f"## {title}\n")
        for (section, told), endpoints in groups.items():
            if section == tag:
                parts.append(f"### {endpoints[0]}\n")
                parts += [f"Also {', '.join(endpoints[1:])}.\n"] if endpoints[1:] else []
                parts.append(told + "\n")
    parts.append("## Shapes\n")
    parts += [part for name, schema in api["components"]["schemas"].items() for part in describe_shape(name, schema)]
    return "\n".join(parts).rstrip() + "\n"


def describe(operation: Mapping[str, Any]) -> Iterator[str]:
    yield operation["description"]
    fields = {each["name"]: each["schema"] | {"in": each["in"]} for each in operation.get("parameters", [])}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = body.get("schema", {})
    required = set(schema.get("required", [])) | {
        each["name"] for each in operation.get("parameters", []) if each.get("required")
    }
    if fields := fields | schema.get("properties", {}):
        yield "\n| field | type | default | |\n|---|---|---|---|"
        for name, field in fields.items():
            default = "needed" if name in required else spell(field["default"]) if "default" in field else ""
            yield f"| `{name}` | {kind_of(field)} | {default} | {words_of(field)} |"
    yield "\nAnswers: " + "; ".join(
        f"{status}: {answer_of(answer)}" for status, answer in sorted(operation["responses"].items(), key=lambda each: each[0])
    )


def describe_shape(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield f"{schema['description']}\n"
    if "properties" not in schema:
        yield f"{kind_of(schema)}\n"
        return
    yield "| field | type | |\n|---|---|---|"
    for field, shape in schema["properties"].items():
        mark = "" if field in schema["required"] else " (not always)"
        yield f"| `{field}`{mark} | {kind_of(shape)} | {words_of(shape)} |"
    yield ""


def answer_of(answer: Mapping[str, Any]) -> str:
    media = answer["content"]
    if "application/json" not in media:
        return f"{', '.join(media)} ({answer['description'].rstrip('.')})"
    return kind_of(media["application/json"]["schema"])


def kind_of(schema: Mapping[str, Any]) -> str:
    """A type in words, with its range or its choices."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(kind_of, schema["anyOf"]))
    if set(SCHEDULERS) <= set(schema.get("enum", [])):
        return "a scheduler, of those named in [cli.md](cli.md#promptreel-generate)"
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(map(spell, choices))
    if schema.get("type") in ("array", "object"):
        return _container(schema)
    return _scalar(schema)


def _container(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "array":
        return "empty list" if schema.get("maxItems") == 0 else f"list of {kind_of(schema['items'])}"
    if "properties" in schema:
        return "object of " + ", ".join(f"`{name}` ({kind_of(each)})" for name, each in schema["properties"].items())
    return "object"


def _scalar(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type", "any")
    kind = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    limits = f", {schema['minimum']:,} to {schema['maximum']:,}" if {"minimum", "maximum"} <= set(schema) else ""
    return kind + limits


def words_of(schema: Mapping[str, Any]) -> str:
    longest = f" At most {schema['maxLength']:,} characters." if "maxLength" in schema else ""
    place = {"path": "In the path.", "query": "In the query."}.get(schema.get("in", ""), "")
    return " ".join(filter(None, [schema.get("description", "") + longest, place])).replace("|", "\\|")


def spell(value: object) -> str:
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`" if value else '`""`'


if __name__ == "__main__":
    PAGE.write_text(render(document()))
